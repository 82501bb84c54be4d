/*
 * cuda_device.c: finds device N and says in one sentence why there is none.
 * Every text that an operator without a working GPU sees comes from here.
 */

#include <string.h>

#include "cuda_ctx.h"

#define DEVICE_LEAST_CC  80      /* cp.async, bf16 mma */


/* Why the runtime does not even count devices. */
static int
device_no_driver(cudaError_t rc, infer_err_t *err)
{
    int  driver = 0, runtime = 0;

    if (rc == cudaErrorNoDevice) {
        return infer_err(err, INFER_DEVICE,
                         "the NVIDIA driver finds no CUDA device");
    }

    if (rc != cudaErrorInsufficientDriver) {
        return infer_err(err, INFER_DEVICE, "no CUDA device can be used: %s",
                         cudaGetErrorString(rc));
    }

    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        return infer_err(err, INFER_DEVICE,
                         "there is no NVIDIA driver (libcuda.so.1 was not "
                         "found)");
    }

    (void) cudaRuntimeGetVersion(&runtime);
    return infer_err(err, INFER_DEVICE,
                     "the NVIDIA driver is too old: it knows CUDA %d.%d, "
                     "this plugin needs %d.%d", driver / 1000,
                     driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

static cudaError_t
device_describe(cu_device_t *d)
{
    int                    major = 0, minor = 0;
    cudaError_t            rc;
    struct cudaDeviceProp  prop;

    if ((rc = cudaSetDevice(d->index)) != cudaSuccess
        || (rc = cudaGetDeviceProperties(&prop, d->index)) != cudaSuccess
        || (rc = cudaDeviceGetAttribute(&major,
                                        cudaDevAttrComputeCapabilityMajor,
                                        d->index)) != cudaSuccess
        || (rc = cudaDeviceGetAttribute(&minor,
                                        cudaDevAttrComputeCapabilityMinor,
                                        d->index)) != cudaSuccess
        || (rc = cudaDeviceGetAttribute(&d->n_sms,
                                        cudaDevAttrMultiProcessorCount,
                                        d->index)) != cudaSuccess
        || (rc = cudaDeviceGetPCIBusId(d->pci, sizeof(d->pci), d->index))
           != cudaSuccess
        || (rc = cudaMemGetInfo(&d->free_bytes, &d->total_bytes))
           != cudaSuccess)
    {
        return rc;
    }

    d->cc = 10 * major + minor;
    snprintf(d->name, sizeof(d->name), "%.63s", prop.name);
    return cudaSuccess;
}

int
cu_device_open(cu_device_t *d, uint32_t n, infer_err_t *err)
{
    int          count = 0;
    cudaError_t  rc = cudaGetDeviceCount(&count);

    memset(d, 0, sizeof(*d));

    if (rc != cudaSuccess) {
        return device_no_driver(rc, err);
    }

    if (count == 0) {
        return device_no_driver(cudaErrorNoDevice, err);
    }

    if (n >= (uint32_t) count) {
        return infer_err(err, INFER_DEVICE,
                         "there is no CUDA device %u, only %d of them", n,
                         count);
    }

    d->index = (int) n;
    rc = device_describe(d);
    if (rc != cudaSuccess) {
        return infer_err(err, INFER_DEVICE, "CUDA device %u cannot be used: "
                         "%s", n, cudaGetErrorString(rc));
    }

    if (d->cc < DEVICE_LEAST_CC) {
        return infer_err(err, INFER_DEVICE,
                         "CUDA device %u (%s) is too old: its compute "
                         "capability is %d.%d, at least %d.%d is needed", n,
                         d->name, d->cc / 10, d->cc % 10,
                         DEVICE_LEAST_CC / 10, DEVICE_LEAST_CC % 10);
    }

    return INFER_OK;
}
