/*
 * cuda_nvml.c: temperature, utilization, memory and power of the device, by
 * the driver's libnvidia-ml.so.1, when that is there. Its calls can take
 * milliseconds, so that a thread of its own makes them once a second; the
 * engine reads what was last heard. Types and names are NVML's documented C
 * interface, of which we use these.
 */

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "cuda_ctx.h"

#define NVML_LIBRARY  "libnvidia-ml.so.1"

typedef void  *nvml_device_t;

typedef struct {
    unsigned int  gpu, memory;        /* percent */
} nvml_utilization_t;

typedef struct {
    unsigned long long  total, free, used;
} nvml_memory_t;

typedef struct {
    int  (*init)(void);
    int  (*shutdown)(void);
    int  (*by_pci)(const char *id, nvml_device_t *dev);
    int  (*temperature)(nvml_device_t dev, int sensor, unsigned int *c);
    int  (*utilization)(nvml_device_t dev, nvml_utilization_t *u);
    int  (*memory)(nvml_device_t dev, nvml_memory_t *m);
    int  (*power)(nvml_device_t dev, unsigned int *mw);
} nvml_calls_t;

struct cu_nvml_s {
    void             *library;
    nvml_calls_t      call;
    nvml_device_t     device;
    pthread_t         thread;
    pthread_mutex_t   lock;           /* of the rest */
    pthread_cond_t    wake;
    int               quit;
    int               heard;
    kern_health_t     health;
};


static int
nvml_symbols(cu_nvml_t *n)
{
    size_t  i;
    const struct {
        const char  *name;
        void       **to;
    } symbol[] = {
        { "nvmlInit_v2", (void **) &n->call.init },
        { "nvmlShutdown", (void **) &n->call.shutdown },
        { "nvmlDeviceGetHandleByPciBusId_v2", (void **) &n->call.by_pci },
        { "nvmlDeviceGetTemperature", (void **) &n->call.temperature },
        { "nvmlDeviceGetUtilizationRates", (void **) &n->call.utilization },
        { "nvmlDeviceGetMemoryInfo", (void **) &n->call.memory },
        { "nvmlDeviceGetPowerUsage", (void **) &n->call.power }
    };

    for (i = 0; i < sizeof(symbol) / sizeof(symbol[0]); i++) {
        *symbol[i].to = dlsym(n->library, symbol[i].name);
        if (*symbol[i].to == NULL) {
            return INFER_UNSUPPORTED;
        }
    }

    return INFER_OK;
}

static kern_health_t
nvml_ask(const cu_nvml_t *n)
{
    unsigned int        v;
    nvml_memory_t       m;
    kern_health_t       h = { -1, -1, -1, -1, -1 };
    nvml_utilization_t  u;

    if (n->call.temperature(n->device, 0, &v) == 0) {
        h.temperature_c = (int32_t) v;
    }
    if (n->call.utilization(n->device, &u) == 0) {
        h.utilization = (int32_t) u.gpu;
    }
    if (n->call.memory(n->device, &m) == 0) {
        h.memory_used = (int64_t) m.used;
        h.memory_total = (int64_t) m.total;
    }
    if (n->call.power(n->device, &v) == 0) {
        h.power_mw = (int32_t) v;
    }

    return h;
}

static void *
nvml_main(void *arg)
{
    cu_nvml_t        *n = arg;
    kern_health_t     h;
    struct timespec   until;

    (void) pthread_mutex_lock(&n->lock);

    while (!n->quit) {
        (void) pthread_mutex_unlock(&n->lock);
        h = nvml_ask(n);
        (void) clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        (void) pthread_mutex_lock(&n->lock);
        n->health = h;
        n->heard = 1;
        if (!n->quit) {
            (void) pthread_cond_timedwait(&n->wake, &n->lock, &until);
        }
    }

    (void) pthread_mutex_unlock(&n->lock);
    return NULL;
}

/* Signals are the engine's. */
static int
nvml_start(cu_nvml_t *n)
{
    int       rc;
    sigset_t  all, old;

    sigfillset(&all);
    (void) pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&n->thread, NULL, nvml_main, n);
    (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc == 0 ? INFER_OK : INFER_NOMEM;
}

cu_nvml_t *
cu_nvml_open(const char *pci)
{
    cu_nvml_t  *n = calloc(1, sizeof(*n));

    if (n == NULL) {
        return NULL;
    }

    n->library = dlopen(NVML_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (n->library == NULL) {
        free(n);
        return NULL;
    }

    if (nvml_symbols(n) != INFER_OK || n->call.init() != 0) {
        (void) dlclose(n->library);
        free(n);
        return NULL;
    }

    (void) pthread_mutex_init(&n->lock, NULL);
    (void) pthread_cond_init(&n->wake, NULL);

    if (n->call.by_pci(pci, &n->device) != 0 || nvml_start(n) != INFER_OK) {
        (void) n->call.shutdown();
        (void) dlclose(n->library);
        free(n);
        return NULL;
    }

    return n;
}

void
cu_nvml_close(cu_nvml_t *n)
{
    if (n == NULL) {
        return;
    }

    (void) pthread_mutex_lock(&n->lock);
    n->quit = 1;
    (void) pthread_cond_signal(&n->wake);
    (void) pthread_mutex_unlock(&n->lock);
    (void) pthread_join(n->thread, NULL);
    (void) n->call.shutdown();
    (void) dlclose(n->library);
    (void) pthread_cond_destroy(&n->wake);
    (void) pthread_mutex_destroy(&n->lock);
    free(n);
}

int
cu_nvml_read(cu_nvml_t *n, kern_health_t *h)
{
    int  heard;

    if (n == NULL) {
        return INFER_AGAIN;
    }

    (void) pthread_mutex_lock(&n->lock);
    heard = n->heard;
    *h = n->health;
    (void) pthread_mutex_unlock(&n->lock);
    return heard ? INFER_OK : INFER_AGAIN;
}

int
cu_health(kern_ctx_t *c, kern_health_t *h)
{
    return cu_nvml_read(c->nvml, h);
}
