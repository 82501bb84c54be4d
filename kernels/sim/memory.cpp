/*
 * memory.cpp: device and pinned memory of the fake runtime. Every allocation
 * ends at a guard page and is filled with 0xff: NaN in floats, -1 in ints.
 */

#include "runtime.h"

#include <sys/mman.h>
#include <unistd.h>

namespace simt {

constexpr size_t PAGE = 4096;
constexpr size_t POISON_FILE = 8 << 20;

const Alloc *alloc_of(const void *p, char **base)
{
    Runtime &r = rt();
    auto     it = r.allocs.upper_bound((char *) p);

    if (it == r.allocs.begin()) {
        return nullptr;
    }
    --it;
    if ((const char *) p >= it->first + it->second.size) {
        return nullptr;
    }
    *base = it->first;
    return &it->second;
}

const char *find_alloc(const void *p, size_t &size)
{
    char        *base;
    const Alloc *a = alloc_of(p, &base);

    if (a) {
        size = a->size;
    }
    return a ? base : nullptr;
}

/* For the message about an illegal address. */
void explain_address(const void *p)
{
    Runtime &r = rt();
    auto     it = r.allocs.upper_bound((char *) p);

    if (it != r.allocs.begin()) {
        --it;
        fprintf(stderr, "  nearest allocation below: %p + %zu (the address "
                "is at +%ld)\n", it->first, it->second.size,
                (long) ((char *) p - it->first));
    }
}

/* A file of 0xff, so that large allocations are poisoned and still use no
 * memory before they are written. */
static int poison_file()
{
    static int fd = -1;

    if (fd < 0) {
        fd = memfd_create("poison", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, POISON_FILE)) {
            fail("no memory for the fake device");
        }
        void *m = mmap(nullptr, POISON_FILE, PROT_WRITE, MAP_SHARED, fd, 0);
        if (m == MAP_FAILED) {
            fail("no memory for the fake device");
        }
        memset(m, 0xff, POISON_FILE);
        munmap(m, POISON_FILE);
    }
    return fd;
}

static bool map_poison(char *p, size_t len)
{
    if (len < POISON_FILE) {
        if (mprotect(p, len, PROT_READ | PROT_WRITE)) {
            return false;
        }
        memset(p, 0xff, len);
        return true;
    }
    for (size_t off = 0; off < len; off += POISON_FILE) {
        if (mmap(p + off, std::min(POISON_FILE, len - off),
                 PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                 poison_file(), 0) == MAP_FAILED)
        {
            return false;
        }
    }
    return true;
}

/* The end is at the guard page, the start a multiple of 256. */
void *guarded_alloc(size_t n, bool host)
{
    size_t len = std::max(PAGE, (n + PAGE - 1) & ~(PAGE - 1));
    char  *m = (char *) mmap(nullptr, len + 2 * PAGE, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char  *p;

    if (m == MAP_FAILED) {
        return nullptr;
    }
    if (!map_poison(m + PAGE, len)) {
        munmap(m, len + 2 * PAGE);
        return nullptr;
    }
    p = m + PAGE + (len - ((n + 255) & ~(size_t) 255));
    rt().allocs[p] = {m, len + 2 * PAGE, n, host};
    if (hook_alloc) {
        hook_alloc(p, n, true);
    }
    return p;
}

static cudaError_t release(void *p, bool host)
{
    Runtime &r = rt();
    auto     it = r.allocs.find((char *) p);
    char    *end;

    if (it == r.allocs.end() || it->second.host != host) {
        return error(cudaErrorInvalidValue);
    }
    end = it->second.map + it->second.map_len - PAGE;
    for (char *c = (char *) p + it->second.size; c < end; c++) {
        if (*c != (char) 0xff) {
            fail("free of %p: byte %ld past the end of its %zu bytes was "
                 "overwritten", p, (long) (c - (char *) p),
                 it->second.size);
        }
    }
    if (hook_alloc) {
        hook_alloc((char *) p, it->second.size, false);
    }
    if (!host) {
        r.used -= it->second.size;
    }
    munmap(it->second.map, it->second.map_len);
    r.allocs.erase(it);
    return cudaSuccess;
}

/* n bytes at p are device memory, or host memory (pinned or any other). */
static bool inside(const void *p, size_t n, bool device)
{
    char        *base;
    const Alloc *a = alloc_of(p, &base);

    if (!a) {
        return !device;
    }
    return a->host != device && (const char *) p + n <= base + a->size;
}

/* The checker keeps cells of what devices can reach, which is all that a
 * kernel may touch. */
static void written(const void *p, size_t n)
{
    char *base;

    if (hook_host_write && alloc_of(p, &base)) {
        hook_host_write(p, n);
    }
}

}  // namespace simt

using namespace simt;

extern "C" {

cudaError_t cudaMalloc(void **p, size_t n)
{
    SIMT_API("cudaMalloc");
    Runtime &r = rt();

    if (spoil_captures()) {
        return error(cudaErrorStreamCaptureUnsupported);
    }
    if (n == 0) {
        *p = nullptr;
        return cudaSuccess;
    }
    if (n > r.dev.mem - r.used) {
        return error(cudaErrorMemoryAllocation);
    }
    void *m = guarded_alloc(n, false);
    if (!m) {
        return error(cudaErrorMemoryAllocation);
    }
    r.used += n;
    *p = m;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    SIMT_API("cudaFree");
    pump(all_idle);
    return p ? release(p, false) : cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned int)
{
    SIMT_API("cudaHostAlloc");
    void *m = guarded_alloc(n, true);

    if (!m) {
        return error(cudaErrorMemoryAllocation);
    }
    *p = m;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t n)
{
    SIMT_API("cudaMallocHost");
    void *m = guarded_alloc(n, true);

    if (!m) {
        return error(cudaErrorMemoryAllocation);
    }
    *p = m;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    SIMT_API("cudaFreeHost");
    pump(all_idle);
    return p ? release(p, true) : cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    SIMT_API("cudaMemGetInfo");
    *available = rt().dev.mem - rt().used;
    *total = rt().dev.mem;
    return cudaSuccess;
}

/* Pageable memory is read before the call returns and written before it
 * returns, as the real runtime does outside of captures. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n,
    enum cudaMemcpyKind kind, cudaStream_t stream)
{
    SIMT_API("cudaMemcpyAsync");
    char        *base;
    const Alloc *to = alloc_of(dst, &base), *from = alloc_of(src, &base);
    bool to_dev = kind == cudaMemcpyHostToDevice
                  || kind == cudaMemcpyDeviceToDevice;
    bool from_dev = kind == cudaMemcpyDeviceToHost
                    || kind == cudaMemcpyDeviceToDevice;

    if (kind == cudaMemcpyDefault) {
        to_dev = to && !to->host;
        from_dev = from && !from->host;
    }
    if (!inside(dst, n, to_dev) || !inside(src, n, from_dev)) {
        return error(cudaErrorInvalidValue);
    }
    if (stream && !known(stream)) {
        return error(cudaErrorInvalidResourceHandle);
    }
    if (stream_of(stream)->capture || (to && from)) {
        return push(stream, [=](const RecPtr &) -> RecPtr {
            memmove(dst, src, n);
            written(dst, n);
            return nullptr;
        });
    }
    auto staged = std::make_shared<std::vector<char>>();
    if (!from) {
        staged->assign((const char *) src, (const char *) src + n);
    }
    cudaError_t e = push(stream, [=](const RecPtr &) -> RecPtr {
        memmove(dst, staged->empty() ? src : staged->data(), n);
        written(dst, n);
        return nullptr;
    });
    if (e == cudaSuccess && !to) {
        pump([=] { return stream_of(stream)->queue.empty(); },
             stream_of(stream));
        return rt().sticky;
    }
    return e;
}

/* Waits for the default stream before and, but for pageable memory that goes
 * to the device, after the copy: that is on its way when the call returns,
 * and other streams do not wait for it. */
cudaError_t cudaMemcpy(void *dst, const void *src, size_t n,
    enum cudaMemcpyKind kind)
{
    SIMT_API("cudaMemcpy");
    if (spoil_captures()) {
        return error(cudaErrorStreamCaptureUnsupported);
    }
    auto wait = [] {
        pump([] { return rt().null_stream.queue.empty(); },
             &rt().null_stream);
    };
    char *base;
    bool  staged = kind == cudaMemcpyHostToDevice && !alloc_of(src, &base);

    wait();
    cudaError_t e = cudaMemcpyAsync(dst, src, n, kind, nullptr);

    if (e == cudaSuccess && !staged) {
        wait();
    }
    return e == cudaSuccess ? rt().sticky : e;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t n,
    cudaStream_t stream)
{
    SIMT_API("cudaMemsetAsync");
    char        *base;
    const Alloc *a = alloc_of(dst, &base);

    if (n && (!a || (char *) dst + n > base + a->size)) {
        return error(cudaErrorInvalidValue);
    }
    return push(stream, [=](const RecPtr &) -> RecPtr {
        memset(dst, value, n);
        written(dst, n);
        return nullptr;
    });
}

/* Row by row: what is checked of one is what is checked of all. */
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src,
    size_t src_pitch, size_t width, size_t height, enum cudaMemcpyKind kind,
    cudaStream_t stream)
{
    SIMT_API("cudaMemcpy2DAsync");
    if (width > dst_pitch || width > src_pitch) {
        return error(cudaErrorInvalidValue);
    }
    for (size_t i = 0; i < height; i++) {
        cudaError_t e = cudaMemcpyAsync((char *) dst + i * dst_pitch,
                                        (const char *) src + i * src_pitch,
                                        width, kind, stream);
        if (e != cudaSuccess) {
            return e;
        }
    }
    return cudaSuccess;
}

cudaError_t cudaMemset2DAsync(void *dst, size_t pitch, int value,
    size_t width, size_t height, cudaStream_t stream)
{
    SIMT_API("cudaMemset2DAsync");
    if (width > pitch) {
        return error(cudaErrorInvalidValue);
    }
    for (size_t i = 0; i < height; i++) {
        cudaError_t e = cudaMemsetAsync((char *) dst + i * pitch, value,
                                        width, stream);
        if (e != cudaSuccess) {
            return e;
        }
    }
    return cudaSuccess;
}

cudaError_t cudaMemset(void *dst, int value, size_t n)
{
    return cudaMemsetAsync(dst, value, n, nullptr);
}

}
