/*
 * device.cpp: driver and devices of the fake runtime, its errors, and
 * failures on demand.
 */

#include "runtime.h"

#include <cstdlib>

namespace simt {

Runtime &rt()
{
    static Runtime *r = new Runtime();
    return *r;
}

uint64_t Runtime::random()
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

/* ---- configuration ---- */

static void seed(Runtime &r, uint64_t s)
{
    r.rng = s * 2654435761u + 88172645463325252ull;
    seed_state = s + 1;
}

static std::vector<std::string> split(const std::string &s, char at)
{
    std::vector<std::string> parts;
    size_t                   from = 0, to;

    do {
        to = s.find(at, from);
        parts.push_back(s.substr(from, to == s.npos ? to : to - from));
        from = to + 1;
    } while (to != s.npos);
    return parts;
}

/* "64m" and the like. */
static bool parse_size(const char *s, size_t *size)
{
    char *end;

    *size = strtoull(s, &end, 10);
    switch (*end) {
    case 'k': *size <<= 10; end++; break;
    case 'm': *size <<= 20; end++; break;
    case 'g': *size <<= 30; end++; break;
    }
    return end != s && *end == '\0';
}

static bool parse_device(const std::string &spec, Device *d)
{
    for (const std::string &part : split(spec, ',')) {
        size_t      eq = part.find('=');
        std::string key = part.substr(0, eq);
        const char *value = eq == part.npos ? "" : part.c_str() + eq + 1;

        if (key == "none") {
            d->count = 0;
        } else if (key == "nodriver") {
            d->driver = 0;
        } else if (key == "olddriver") {
            d->driver = 11080;
        } else if (key == "name") {
            d->name = value;
        } else if (key == "mem") {
            if (!parse_size(value, &d->mem)) {
                return false;
            }
        } else if (key == "cc" || key == "sms" || key == "count") {
            int n = atoi(value);
            if (n <= 0) {
                return false;
            }
            (key == "cc" ? d->cc : key == "sms" ? d->sms : d->count) = n;
        } else {
            return false;
        }
    }
    return true;
}

static bool parse_fail(Runtime &r, const std::string &spec)
{
    for (const std::string &part : split(spec, ',')) {
        std::vector<std::string> f = split(part, ':');

        if (f.size() < 2 || f.size() > 3 || atol(f[1].c_str()) <= 0) {
            return false;
        }
        r.fail_at[f[0]] = {atol(f[1].c_str()),
                           f.size() == 3 ? atoi(f[2].c_str()) : 0};
    }
    return true;
}

Runtime::Runtime()
{
    const char *e;

    seed(*this, (e = getenv("SIMT_SEED")) ? strtoull(e, nullptr, 10) : 0);
    if ((e = getenv("SIMT_ORDER"))) {
        order_mode = atoi(e);
    }
    if ((e = getenv("SIMT_STREAMS"))) {
        mode = *e == 'e' ? EAGER : *e == 'r' ? RANDOM : LAZY;
    }
    if ((e = getenv("SIMT_DEVICE")) && *e && !parse_device(e, &dev)) {
        fail("SIMT_DEVICE=%s: not understood", e);
    }
    if ((e = getenv("SIMT_FAIL")) && *e && !parse_fail(*this, e)) {
        fail("SIMT_FAIL=%s: not understood", e);
    }
}

void rt_config(Async mode, uint64_t s, int order)
{
    Lock lock(rt().lock);

    rt().mode = mode;
    seed(rt(), s);
    order_mode = order;
}

bool rt_device(const char *spec)
{
    Lock   lock(rt().lock);
    Device d;

    if (spec && *spec && !parse_device(spec, &d)) {
        return false;
    }
    rt().dev = d;
    return true;
}

void rt_fail(const char *api, int nth, int code)
{
    Lock lock(rt().lock);

    rt().fail_at[api] = {nth, code};
}

void rt_reset_errors()
{
    Lock lock(rt().lock);

    rt().fail_at.clear();
    rt().last = rt().sticky = cudaSuccess;
}

long rt_leaks()
{
    Runtime &r = rt();
    Lock     lock(r.lock);

    return (long) (r.allocs.size() + r.streams.size() + r.events.size()
                   + r.graphs.size() + r.execs.size());
}

long rt_calls(const char *api)
{
    Lock lock(rt().lock);

    return rt().calls[api];
}

/* ---- errors ---- */

static bool is_sticky(cudaError_t e)
{
    switch (e) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
        return true;
    default:
        return false;
    }
}

void set_sticky(cudaError_t e)
{
    rt().sticky = rt().last = e;
}

cudaError_t error(cudaError_t e)
{
    if (e != cudaSuccess) {
        if (is_sticky(e)) {
            rt().sticky = e;
        }
        rt().last = e;
    }
    return e;
}

static cudaError_t usual_error(const std::string &api)
{
    if (api == "kernel") {
        return cudaErrorIllegalAddress;
    }
    if (api == "cudaLaunchKernelExC") {
        return cudaErrorLaunchOutOfResources;
    }
    return cudaErrorMemoryAllocation;
}

bool fail_due(const char *name, cudaError_t *code)
{
    auto it = rt().fail_at.find(name);

    if (it == rt().fail_at.end() || --it->second.first > 0) {
        return false;
    }
    *code = it->second.second ? (cudaError_t) it->second.second
                              : usual_error(name);
    rt().fail_at.erase(it);
    return true;
}

cudaError_t api_begin(const char *name)
{
    Runtime    &r = rt();
    cudaError_t code;

    r.calls[name]++;
    if (r.dev.driver < CUDART_VERSION) {
        return error(cudaErrorInsufficientDriver);
    }
    if (r.dev.count == 0) {
        return error(cudaErrorNoDevice);
    }
    if (r.sticky != cudaSuccess) {
        return r.sticky;
    }
    if (fail_due(name, &code)) {
        return error(code);
    }
    return cudaSuccess;
}

}  // namespace simt

using namespace simt;

extern "C" {

cudaError_t cudaGetLastError(void)
{
    Lock        lock(rt().lock);
    cudaError_t e = rt().last;

    rt().last = rt().sticky;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    Lock lock(rt().lock);

    return rt().last;
}

#define SIMT_ERRORS(X) \
    X(cudaSuccess, "no error") \
    X(cudaErrorInvalidValue, "invalid argument") \
    X(cudaErrorMemoryAllocation, "out of memory") \
    X(cudaErrorInitializationError, "initialization error") \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument") \
    X(cudaErrorInsufficientDriver, \
      "CUDA driver version is insufficient for CUDA runtime version") \
    X(cudaErrorInvalidDeviceFunction, "invalid device function") \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected") \
    X(cudaErrorInvalidDevice, "invalid device ordinal") \
    X(cudaErrorNoKernelImageForDevice, \
      "no kernel image is available for execution on the device") \
    X(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered") \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle") \
    X(cudaErrorNotReady, "device not ready") \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered") \
    X(cudaErrorLaunchOutOfResources, \
      "too many resources requested for launch") \
    X(cudaErrorLaunchTimeout, "the launch timed out and was terminated") \
    X(cudaErrorAssert, "device-side assert triggered") \
    X(cudaErrorMisalignedAddress, "misaligned address") \
    X(cudaErrorLaunchFailure, "unspecified launch failure") \
    X(cudaErrorCooperativeLaunchTooLarge, \
      "too many blocks in cooperative launch") \
    X(cudaErrorStreamCaptureUnsupported, \
      "operation not permitted when stream is capturing") \
    X(cudaErrorStreamCaptureInvalidated, \
      "operation failed due to a previous error during capture") \
    X(cudaErrorStreamCaptureUnmatched, \
      "capture was not ended in the same stream as it began") \
    X(cudaErrorStreamCaptureUnjoined, \
      "capturing stream has unjoined work") \
    X(cudaErrorStreamCaptureIsolation, \
      "dependency created on uncaptured work in another stream") \
    X(cudaErrorCapturedEvent, "operation not permitted on an event last " \
      "recorded in a capturing stream") \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
#define X(code, text) case code: return text;
    SIMT_ERRORS(X)
#undef X
    default: return "unrecognized error code";
    }
}

const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
#define X(code, text) case code: return #code;
    SIMT_ERRORS(X)
#undef X
    default: return "unrecognized error code";
    }
}

cudaError_t cudaDriverGetVersion(int *version)
{
    Lock lock(rt().lock);

    *version = rt().dev.driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    SIMT_API("cudaGetDeviceCount");
    *count = rt().dev.count;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    SIMT_API("cudaGetDevice");
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    SIMT_API("cudaSetDevice");
    if (device < 0 || device >= rt().dev.count) {
        return error(cudaErrorInvalidDevice);
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    SIMT_API("cudaGetDeviceProperties");
    const Device &d = rt().dev;

    if (device < 0 || device >= d.count) {
        return error(cudaErrorInvalidDevice);
    }
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", d.name.c_str());
    p->totalGlobalMem = d.mem;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = 227 << 10;
    p->sharedMemPerMultiprocessor = 228 << 10;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->major = d.cc / 10;
    p->minor = d.cc % 10;
    p->multiProcessorCount = d.sms;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->concurrentKernels = p->cooperativeLaunch = 1;
    p->asyncEngineCount = 2;
    p->pciBusID = device + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr,
    int device)
{
    SIMT_API("cudaDeviceGetAttribute");
    const Device &d = rt().dev;

    if (device < 0 || device >= d.count) {
        return error(cudaErrorInvalidDevice);
    }
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:             *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock:        *value = 48 << 10; break;
    case cudaDevAttrWarpSize:                       *value = 32; break;
    case cudaDevAttrMultiProcessorCount:            *value = d.sms; break;
    case cudaDevAttrIntegrated:                     *value = 0; break;
    case cudaDevAttrL2CacheSize:                    *value = 50 << 20; break;
    case cudaDevAttrComputeCapabilityMajor:         *value = d.cc / 10; break;
    case cudaDevAttrComputeCapabilityMinor:         *value = d.cc % 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = 228 << 10;
        break;
    case cudaDevAttrCooperativeLaunch:              *value = 1; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:   *value = 227 << 10; break;
    default:
        return error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int len, int device)
{
    SIMT_API("cudaDeviceGetPCIBusId");
    if (device < 0 || device >= rt().dev.count) {
        return error(cudaErrorInvalidDevice);
    }
    if (len < 13) {
        return error(cudaErrorInvalidValue);
    }
    snprintf(id, (size_t) len, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    SIMT_API("cudaDeviceSynchronize");
    if (spoil_captures()) {
        return error(cudaErrorStreamCaptureUnsupported);
    }
    pump(all_idle);
    return rt().sticky;
}

}
