/*
 * launch.cpp: kernel launches of the fake runtime: the limits of a launch,
 * and who runs it, fibers or the PTX interpreter.
 */

#include "runtime.h"
#include "ptx.h"

#include <cxxabi.h>
#include <dlfcn.h>

namespace simt {

constexpr int    MIN_CC = 80;            /* what the plugin is built for */
constexpr size_t MAX_SMEM = 227 << 10, DEFAULT_SMEM = 48 << 10;

/* "ns::kernel<int>" of a kernel's address; lives as long as the process. */
static const char *kernel_name(const void *fn)
{
    static std::map<const void *, std::string> names;
    std::string &name = names[fn];

    if (name.empty()) {
        Dl_info info;
        int     status;
        char   *text = nullptr;

        if (dladdr(fn, &info) && info.dli_sname) {
            text = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr,
                                       &status);
            name = text ? text : info.dli_sname;
            free(text);
        } else {
            name = "kernel";
        }
        if (name.compare(0, 5, "void ") == 0) {
            name.erase(0, 5);
        }
        name.resize(std::min(name.size(), name.find('(')));
    }
    return name.c_str();
}

static cudaError_t check_config(const cudaLaunchConfig_t *c, const void *fn)
{
    Runtime    &r = rt();
    const dim3 &g = c->gridDim, &b = c->blockDim;
    size_t      threads = (size_t) b.x * b.y * b.z;
    auto        it = r.smem_limit.find(fn);
    size_t      limit = it == r.smem_limit.end() ? DEFAULT_SMEM
                                                 : (size_t) it->second;

    if (r.dev.cc < MIN_CC) {
        return cudaErrorNoKernelImageForDevice;
    }
    if (threads == 0 || threads > 1024 || b.z > 64 || g.x == 0 || g.y == 0
        || g.z == 0 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535)
    {
        return cudaErrorInvalidConfiguration;
    }
    return c->dynamicSmemBytes > std::max(limit, DEFAULT_SMEM)
           ? cudaErrorInvalidValue : cudaSuccess;
}

static bool attribute(const cudaLaunchConfig_t *c, cudaLaunchAttributeID id)
{
    for (unsigned i = 0; i < c->numAttrs; i++) {
        if (c->attrs[i].id == id && c->attrs[i].val.cooperative) {
            return true;
        }
    }
    return false;
}

static RecPtr execute(const LaunchCfg &cfg, const void *fn,
    const std::function<void()> &body, const Args &args, const RecPtr &prev)
{
    auto        rec = std::make_shared<LaunchRec>();
    LaunchCfg   run = cfg;
    cudaError_t code;

    rt().calls["kernel"]++;
    if (fail_due("kernel", &code)) {
        set_sticky(code);
        return nullptr;
    }
    pdl_begin(rec.get(), prev.get(), cfg.pdl);
    cur_rec = run.rec = rec.get();
    if (!ptx_launch(run, fn, args.bytes, args.layout)) {
        run_grid(run, body);
    }
    cur_rec = nullptr;
    if (hook_launch_end) {
        hook_launch_end(cfg.name);
    }
    return rec;
}

cudaError_t launch(const cudaLaunchConfig_t *c, const void *fn,
    std::function<void()> body, Args args)
{
    SIMT_API("cudaLaunchKernelExC");
    cudaError_t e = check_config(c, fn);
    LaunchCfg   cfg = {c->gridDim, c->blockDim, c->dynamicSmemBytes, false,
                       false, kernel_name(fn), nullptr};

    if (e != cudaSuccess) {
        return error(e);
    }
    cfg.coop = attribute(c, cudaLaunchAttributeCooperative);
    cfg.pdl = attribute(c,
        cudaLaunchAttributeProgrammaticStreamSerialization);
    if (cfg.coop && (size_t) cfg.grid.x * cfg.grid.y * cfg.grid.z
                    > (size_t) rt().dev.sms * 2)
    {
        return error(cudaErrorCooperativeLaunchTooLarge);
    }
    return push(c->stream, [=](const RecPtr &prev) {
        return execute(cfg, fn, body, args, prev);
    }, cfg.pdl);
}

}  // namespace simt

using namespace simt;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void *fn,
    enum cudaFuncAttribute attr, int value)
{
    SIMT_API("cudaFuncSetAttribute");
    if (rt().dev.cc < MIN_CC) {
        return error(cudaErrorNoKernelImageForDevice);
    }
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout) {
        return cudaSuccess;
    }
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0
        || (size_t) value > MAX_SMEM)
    {
        return error(cudaErrorInvalidValue);
    }
    rt().smem_limit[fn] = value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr,
    const void *fn)
{
    SIMT_API("cudaFuncGetAttributes");
    if (rt().dev.cc < MIN_CC) {
        return error(cudaErrorNoKernelImageForDevice);
    }
    memset(attr, 0, sizeof *attr);
    attr->maxThreadsPerBlock = 1024;
    attr->numRegs = 64;
    attr->ptxVersion = attr->binaryVersion = rt().dev.cc;
    auto it = rt().smem_limit.find(fn);
    attr->maxDynamicSharedSizeBytes = it == rt().smem_limit.end()
                                      ? (int) DEFAULT_SMEM : it->second;
    return cudaSuccess;
}

/* By threads and shared memory alone: registers are not known here. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks,
    const void *fn, int threads, size_t smem)
{
    SIMT_API("cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    if (!fn || threads <= 0 || threads > 1024) {
        return error(cudaErrorInvalidValue);
    }
    *blocks = std::min({2048 / threads, 32,
                        (int) ((228 << 10) / (smem + 1024))});
    return cudaSuccess;
}

}
