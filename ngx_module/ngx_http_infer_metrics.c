
/*
 * Metrics for Prometheus, from the bus at once, without the queue: under
 * names of our own and under those that dashboards made for vllm expect.
 */


#include "ngx_http_infer_metrics.h"


#define NGX_HTTP_INFER_METRICS_ZONE    (48 * 1024)
#define NGX_HTTP_INFER_METRICS_MODEL   8192
#define NGX_HTTP_INFER_METRICS_CACHE   6144


typedef enum {
    NGX_HTTP_INFER_METRIC_RUNNING = 0,
    NGX_HTTP_INFER_METRIC_WAITING,
    NGX_HTTP_INFER_METRIC_WAITING_TOKENS,
    NGX_HTTP_INFER_METRIC_KV_USAGE,
    NGX_HTTP_INFER_METRIC_KV_PAGES,
    NGX_HTTP_INFER_METRIC_KV_CACHED,
    NGX_HTTP_INFER_METRIC_KV_PEAK,
    NGX_HTTP_INFER_METRIC_KV_TOTAL,
    NGX_HTTP_INFER_METRIC_PREEMPTIONS,
    NGX_HTTP_INFER_METRIC_LOADED,
    NGX_HTTP_INFER_METRIC_DEVICE_CELSIUS,
    NGX_HTTP_INFER_METRIC_DEVICE_PERCENT,
    NGX_HTTP_INFER_METRIC_DEVICE_POWER,
    NGX_HTTP_INFER_METRIC_DEVICE_USED,
    NGX_HTTP_INFER_METRIC_DEVICE_TOTAL,
    NGX_HTTP_INFER_METRIC_UP,
    NGX_HTTP_INFER_METRIC_RESTARTS,
    NGX_HTTP_INFER_METRIC_STEPS,
    NGX_HTTP_INFER_METRIC_RATE,
    NGX_HTTP_INFER_METRIC_WORKERS,
    NGX_HTTP_INFER_METRIC_SLOTS,
    NGX_HTTP_INFER_METRIC_SLOTS_USED,
    NGX_HTTP_INFER_METRIC_BLOCKS,
    NGX_HTTP_INFER_METRIC_BLOCKS_USED
} ngx_http_infer_metric_e;


static u_char *ngx_http_infer_metrics_models(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static u_char *ngx_http_infer_metrics_model(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t i,
    ngx_http_infer_metric_t *metric);
static ngx_uint_t ngx_http_infer_metrics_pages(infer_bus_model_t *bm);
static u_char *ngx_http_infer_metrics_devices(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static int64_t ngx_http_infer_metrics_device(infer_bus_model_t *bm,
    ngx_uint_t what);
static u_char *ngx_http_infer_metrics_bus(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static uint64_t ngx_http_infer_metrics_value(ngx_http_infer_bus_t *bus,
    ngx_uint_t what);


/* per model; the second names are vllm's */

static ngx_http_infer_metric_t  ngx_http_infer_model_metrics[] = {

    { "ngx_infer_requests_running", "gauge",
      "Generations in the batch.", NGX_HTTP_INFER_METRIC_RUNNING },

    { "vllm:num_requests_running", "gauge",
      "Generations in the batch.", NGX_HTTP_INFER_METRIC_RUNNING },

    { "ngx_infer_requests_waiting", "gauge",
      "Generations that wait to start.", NGX_HTTP_INFER_METRIC_WAITING },

    { "vllm:num_requests_waiting", "gauge",
      "Generations that wait to start.", NGX_HTTP_INFER_METRIC_WAITING },

    { "ngx_infer_waiting_tokens", "gauge",
      "Prompt tokens of those that wait.",
      NGX_HTTP_INFER_METRIC_WAITING_TOKENS },

    { "ngx_infer_kv_usage_ratio", "gauge",
      "KV pages in use, 0 to 1.", NGX_HTTP_INFER_METRIC_KV_USAGE },

    { "vllm:kv_cache_usage_perc", "gauge",
      "KV pages in use, 0 to 1.", NGX_HTTP_INFER_METRIC_KV_USAGE },

    { "ngx_infer_kv_pages_used", "gauge",
      "KV pages in use.", NGX_HTTP_INFER_METRIC_KV_PAGES },

    { "ngx_infer_kv_pages_cached", "gauge",
      "KV pages kept for prompts to come.",
      NGX_HTTP_INFER_METRIC_KV_CACHED },

    { "ngx_infer_kv_pages_peak", "gauge",
      "KV pages ever in use.", NGX_HTTP_INFER_METRIC_KV_PEAK },

    { "ngx_infer_kv_pages", "gauge",
      "KV pages that there are.", NGX_HTTP_INFER_METRIC_KV_TOTAL },

    { "ngx_infer_preemptions_total", "counter",
      "Generations put back for want of KV pages.",
      NGX_HTTP_INFER_METRIC_PREEMPTIONS },

    { "vllm:num_preemptions_total", "counter",
      "Generations put back for want of KV pages.",
      NGX_HTTP_INFER_METRIC_PREEMPTIONS },

    { "ngx_infer_model_loaded", "gauge",
      "The model is loaded.", NGX_HTTP_INFER_METRIC_LOADED },

    { NULL, NULL, NULL, 0 }
};


/* per model that runs on a device with a library that watches it */

static ngx_http_infer_metric_t  ngx_http_infer_device_metrics[] = {

    { "ngx_infer_device_temperature_celsius", "gauge",
      "Temperature of the device.", NGX_HTTP_INFER_METRIC_DEVICE_CELSIUS },

    { "ngx_infer_device_utilization_percent", "gauge",
      "Time in which the device did something, by everybody.",
      NGX_HTTP_INFER_METRIC_DEVICE_PERCENT },

    { "ngx_infer_device_power_watts", "gauge",
      "Power that the device takes.", NGX_HTTP_INFER_METRIC_DEVICE_POWER },

    { "ngx_infer_device_memory_used_bytes", "gauge",
      "Memory of the device in use, by everybody.",
      NGX_HTTP_INFER_METRIC_DEVICE_USED },

    { "ngx_infer_device_memory_bytes", "gauge",
      "Memory of the device.", NGX_HTTP_INFER_METRIC_DEVICE_TOTAL },

    { NULL, NULL, NULL, 0 }
};


/* per bus */

static ngx_http_infer_metric_t  ngx_http_infer_bus_metrics[] = {

    { "ngx_infer_engine_up", "gauge",
      "The engine runs and has loaded.", NGX_HTTP_INFER_METRIC_UP },

    { "ngx_infer_engine_restarts_total", "counter",
      "Starts of the engine beyond the first.",
      NGX_HTTP_INFER_METRIC_RESTARTS },

    { "ngx_infer_engine_steps_total", "counter",
      "Steps of the engine.", NGX_HTTP_INFER_METRIC_STEPS },

    { "ngx_infer_tokens_per_second", "gauge",
      "Recent output of all models.", NGX_HTTP_INFER_METRIC_RATE },

    { "ngx_infer_workers", "gauge",
      "Worker processes on the bus.", NGX_HTTP_INFER_METRIC_WORKERS },

    { "ngx_infer_slots", "gauge",
      "Slots of the zone.", NGX_HTTP_INFER_METRIC_SLOTS },

    { "ngx_infer_slots_used", "gauge",
      "Slots in use.", NGX_HTTP_INFER_METRIC_SLOTS_USED },

    { "ngx_infer_blocks", "gauge",
      "4 KiB blocks of the zone.", NGX_HTTP_INFER_METRIC_BLOCKS },

    { "ngx_infer_blocks_used", "gauge",
      "Blocks in use.", NGX_HTTP_INFER_METRIC_BLOCKS_USED },

    { NULL, NULL, NULL, 0 }
};


ngx_int_t
ngx_http_infer_metrics(ngx_http_request_t *r)
{
    u_char                         *p, *last;
    size_t                          size;
    ngx_str_t                       body;
    ngx_uint_t                      i, n;
    ngx_http_infer_bus_t           *bus;
    ngx_http_infer_zone_t         **zone;
    ngx_http_infer_main_conf_t     *imcf;
    ngx_http_infer_metrics_zone_t  *z;

    imcf = ngx_http_get_module_main_conf(r, ngx_http_infer_module);

    zone = imcf->zones.elts;
    size = 1 + NGX_HTTP_INFER_METRICS_CACHE * (imcf->caches.nelts + 1)
           + NGX_HTTP_INFER_METRICS_REDIS * imcf->redis.nelts;
    n = 0;

    z = ngx_palloc(r->pool, (imcf->zones.nelts + 1)
                            * sizeof(ngx_http_infer_metrics_zone_t));
    if (z == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    for (i = 0; i < imcf->zones.nelts; i++) {

        bus = ngx_http_infer_bus_enter(zone[i], r->connection->log);
        if (bus == NULL) {
            continue;
        }

        z[n].zone = zone[i];
        z[n].bus = bus;
        n++;

        size += NGX_HTTP_INFER_METRICS_ZONE
                + bus->nmodels * NGX_HTTP_INFER_METRICS_MODEL;
    }

    p = ngx_palloc(r->pool, size);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    body.data = p;
    last = p + size;

    p = ngx_http_infer_metrics_models(p, last, z, n);
    p = ngx_http_infer_metrics_devices(p, last, z, n);
    p = ngx_http_infer_metrics_bus(p, last, z, n);
    p = ngx_http_infer_metrics_counters(p, last, z, n);
    p = ngx_http_infer_metrics_finished(p, last, z, n);
    p = ngx_http_infer_metrics_hists(p, last, z, n);
    p = ngx_http_infer_metrics_caches(p, last, imcf);
    p = ngx_http_infer_metrics_redis(p, last, imcf);

    if (p == last) {
        ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                      "infer metrics do not fit into %uz bytes", size);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    body.len = p - body.data;

    return ngx_http_infer_send(r, NGX_HTTP_OK,
                               "text/plain; version=0.0.4; charset=utf-8",
                               &body);
}


static u_char *
ngx_http_infer_metrics_models(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n)
{
    ngx_uint_t                i, k;
    ngx_http_infer_metric_t  *metric;

    for (metric = ngx_http_infer_model_metrics; metric->name; metric++) {

        p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s %s\n",
                         metric->name, metric->help, metric->name,
                         metric->type);

        for (i = 0; i < n; i++) {
            for (k = 0; k < z[i].bus->nmodels; k++) {
                p = ngx_http_infer_metrics_model(p, last, &z[i], k, metric);
            }
        }
    }

    return p;
}


static u_char *
ngx_http_infer_metrics_model(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t i,
    ngx_http_infer_metric_t *metric)
{
    uint64_t            value;
    infer_bus_load_t    load;
    infer_bus_model_t  *bm;

    bm = &z->bus->bus.model[i];

    p = ngx_slprintf(p, last, "%s{engine=\"%V\",model_name=\"%*s\"} ",
                     metric->name, &z->zone->name,
                     strnlen(bm->name, sizeof(bm->name)), bm->name);

    switch (metric->what) {

    case NGX_HTTP_INFER_METRIC_KV_USAGE:
        return ngx_slprintf(p, last, "%.4f\n",
                            (double) atomic_load(&bm->pages_used)
                            / ngx_http_infer_metrics_pages(bm));

    case NGX_HTTP_INFER_METRIC_KV_PAGES:
        value = atomic_load(&bm->pages_used);
        break;

    case NGX_HTTP_INFER_METRIC_KV_CACHED:
        value = atomic_load(&bm->pages_cached);
        break;

    case NGX_HTTP_INFER_METRIC_KV_PEAK:
        value = atomic_load(&bm->pages_peak);
        break;

    case NGX_HTTP_INFER_METRIC_KV_TOTAL:
        value = ngx_http_infer_metrics_pages(bm);
        break;

    case NGX_HTTP_INFER_METRIC_PREEMPTIONS:
        value = atomic_load(&bm->preemptions);
        break;

    case NGX_HTTP_INFER_METRIC_LOADED:
        value = ngx_http_infer_engine_ready(z->bus)
                && atomic_load(&bm->loaded);
        break;

    default:
        infer_bus_load(&z->bus->bus, (uint32_t) i, &load);

        if (metric->what == NGX_HTTP_INFER_METRIC_RUNNING) {
            value = load.running;

        } else if (metric->what == NGX_HTTP_INFER_METRIC_WAITING) {
            value = load.waiting;

        } else {
            value = load.waiting_tokens;
        }

        break;
    }

    return ngx_slprintf(p, last, "%uL\n", value);
}


/* a device may have had room for fewer than were configured */

static ngx_uint_t
ngx_http_infer_metrics_pages(infer_bus_model_t *bm)
{
    uint32_t  total;

    total = atomic_load(&bm->pages_total);

    return total ? total : ngx_max(bm->n_pages, 1);
}


/* what devices say about themselves; nothing where nothing is known */

static u_char *
ngx_http_infer_metrics_devices(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n)
{
    int64_t                   value;
    ngx_uint_t                i, k, head;
    infer_bus_model_t        *bm;
    ngx_http_infer_metric_t  *metric;

    for (metric = ngx_http_infer_device_metrics; metric->name; metric++) {
        head = 0;

        for (i = 0; i < n; i++) {
            for (k = 0; k < z[i].bus->nmodels; k++) {
                bm = &z[i].bus->bus.model[k];
                value = ngx_http_infer_metrics_device(bm, metric->what);

                if (!atomic_load(&bm->device_known) || value < 0) {
                    continue;
                }

                if (!head++) {
                    p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s %s\n",
                                     metric->name, metric->help,
                                     metric->name, metric->type);
                }

                p = ngx_slprintf(p, last, "%s{engine=\"%V\",model_name="
                                 "\"%*s\",device=\"%*s\"} ", metric->name,
                                 &z[i].zone->name,
                                 strnlen(bm->name, sizeof(bm->name)),
                                 bm->name,
                                 strnlen(bm->device, sizeof(bm->device)),
                                 bm->device);

                p = metric->what == NGX_HTTP_INFER_METRIC_DEVICE_POWER
                    ? ngx_slprintf(p, last, "%L.%03L\n", value / 1000,
                                   value % 1000)
                    : ngx_slprintf(p, last, "%L\n", value);
            }
        }
    }

    return p;
}


static int64_t
ngx_http_infer_metrics_device(infer_bus_model_t *bm, ngx_uint_t what)
{
    switch (what) {

    case NGX_HTTP_INFER_METRIC_DEVICE_CELSIUS:
        return atomic_load(&bm->device_celsius);

    case NGX_HTTP_INFER_METRIC_DEVICE_PERCENT:
        return atomic_load(&bm->device_percent);

    case NGX_HTTP_INFER_METRIC_DEVICE_POWER:
        return atomic_load(&bm->device_mw);

    case NGX_HTTP_INFER_METRIC_DEVICE_USED:
        return atomic_load(&bm->device_used);

    default:
        return atomic_load(&bm->device_total);
    }
}


static u_char *
ngx_http_infer_metrics_bus(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n)
{
    ngx_uint_t                i;
    ngx_http_infer_metric_t  *metric;

    for (metric = ngx_http_infer_bus_metrics; metric->name; metric++) {

        p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s %s\n",
                         metric->name, metric->help, metric->name,
                         metric->type);

        for (i = 0; i < n; i++) {
            p = ngx_slprintf(p, last, "%s{engine=\"%V\"} %uL\n",
                             metric->name, &z[i].zone->name,
                             ngx_http_infer_metrics_value(z[i].bus,
                                                          metric->what));
        }
    }

    return p;
}


static uint64_t
ngx_http_infer_metrics_value(ngx_http_infer_bus_t *bus, ngx_uint_t what)
{
    uint64_t             value;
    ngx_uint_t           i;
    infer_bus_load_t     load;
    infer_bus_header_t  *hdr;

    hdr = bus->bus.hdr;

    switch (what) {

    case NGX_HTTP_INFER_METRIC_UP:
        return ngx_http_infer_engine_ready(bus);

    case NGX_HTTP_INFER_METRIC_RESTARTS:
        value = atomic_load(&hdr->engine_starts);
        return value - (value > 0);

    case NGX_HTTP_INFER_METRIC_STEPS:
        return atomic_load(&hdr->steps);

    case NGX_HTTP_INFER_METRIC_RATE:
        return atomic_load(&hdr->tokens_per_s);

    case NGX_HTTP_INFER_METRIC_WORKERS:
        value = 0;

        for (i = 0; i < INFER_MAX_ENTRIES; i++) {
            value += atomic_load(&bus->bus.entry[i].state)
                     == INFER_ENTRY_USED;
        }

        return value;

    default:
        infer_bus_load(&bus->bus, 0, &load);

        if (what == NGX_HTTP_INFER_METRIC_SLOTS) {
            return bus->bus.n_slots;
        }

        if (what == NGX_HTTP_INFER_METRIC_SLOTS_USED) {
            return bus->bus.n_slots - load.free_slots;
        }

        if (what == NGX_HTTP_INFER_METRIC_BLOCKS) {
            return bus->bus.n_blocks;
        }

        return bus->bus.n_blocks - load.free_blocks;
    }
}


/* Statistics are kept per bus; a bus with one model can name it. */

u_char *
ngx_http_infer_metrics_labels(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z)
{
    infer_bus_model_t  *bm;

    p = ngx_slprintf(p, last, "engine=\"%V\"", &z->zone->name);

    if (z->bus->nmodels == 1) {
        bm = z->bus->bus.model;

        p = ngx_slprintf(p, last, ",model_name=\"%*s\"",
                         strnlen(bm->name, sizeof(bm->name)), bm->name);
    }

    return p;
}
