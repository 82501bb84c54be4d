
/*
 * What is answered from the bus at once, without the queue: health and the
 * metrics for Prometheus, under names of our own and under those that
 * dashboards made for vllm expect.
 */


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_STALLED_US      10000000
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


typedef struct {
    char                         *name;
    char                         *type;
    char                         *help;
    ngx_uint_t                    what;     /* metric or offset of a field */
} ngx_http_infer_metric_t;


typedef struct {
    ngx_http_infer_zone_t        *zone;
    ngx_http_infer_bus_t         *bus;
} ngx_http_infer_metrics_zone_t;


static u_char *ngx_http_infer_metrics_models(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static u_char *ngx_http_infer_metrics_model(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t i,
    ngx_http_infer_metric_t *metric);
static char *ngx_http_infer_health_why(ngx_http_request_t *r,
    ngx_http_infer_bus_t *bus);
static ngx_uint_t ngx_http_infer_metrics_pages(infer_bus_model_t *bm);
static u_char *ngx_http_infer_metrics_devices(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static int64_t ngx_http_infer_metrics_device(infer_bus_model_t *bm,
    ngx_uint_t what);
static u_char *ngx_http_infer_metrics_bus(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static uint64_t ngx_http_infer_metrics_value(ngx_http_infer_bus_t *bus,
    ngx_uint_t what);
static u_char *ngx_http_infer_metrics_counters(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static u_char *ngx_http_infer_metrics_finished(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static u_char *ngx_http_infer_metrics_hists(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
static u_char *ngx_http_infer_metrics_hist(u_char *p, u_char *last,
    char *name, ngx_http_infer_metrics_zone_t *z, infer_hist_t *h);
static u_char *ngx_http_infer_metrics_labels(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z);


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


/* 64-bit counters of infer_bus_stats_t */

static ngx_http_infer_metric_t  ngx_http_infer_counters[] = {

    { "ngx_infer_prompt_tokens_total", "counter",
      "Prompt tokens taken in.", offsetof(infer_bus_stats_t, prompt_tokens) },

    { "vllm:prompt_tokens_total", "counter",
      "Prompt tokens taken in.", offsetof(infer_bus_stats_t, prompt_tokens) },

    { "ngx_infer_prefix_queries_total", "counter",
      "Prompt tokens looked for in kept pages.",
      offsetof(infer_bus_stats_t, prefix_queries) },

    { "vllm:prefix_cache_queries_total", "counter",
      "Prompt tokens looked for in kept pages.",
      offsetof(infer_bus_stats_t, prefix_queries) },

    { "ngx_infer_prefix_hits_total", "counter",
      "Prompt tokens found in kept pages.",
      offsetof(infer_bus_stats_t, prefix_hits) },

    { "vllm:prefix_cache_hits_total", "counter",
      "Prompt tokens found in kept pages.",
      offsetof(infer_bus_stats_t, prefix_hits) },

    { "ngx_infer_rows_total", "counter",
      "Tokens run through a model.", offsetof(infer_bus_stats_t, rows) },

    { "ngx_infer_generated_tokens_total", "counter",
      "Tokens generated.", offsetof(infer_bus_stats_t, output_tokens) },

    { "vllm:generation_tokens_total", "counter",
      "Tokens generated.", offsetof(infer_bus_stats_t, output_tokens) },

    { "ngx_infer_requests_total", "counter",
      "Requests that reached the handler.",
      offsetof(infer_bus_stats_t, requests) },

    { "ngx_infer_rejected_limit_total", "counter",
      "Requests beyond a configured limit.",
      offsetof(infer_bus_stats_t, rejected_429) },

    { "ngx_infer_rejected_room_total", "counter",
      "Requests for which there was no room.",
      offsetof(infer_bus_stats_t, rejected_503) },

    { "ngx_infer_client_gone_total", "counter",
      "Requests whose client left early.",
      offsetof(infer_bus_stats_t, client_gone) },

    { "ngx_infer_stale_messages_total", "counter",
      "Messages about a generation that was over.",
      offsetof(infer_bus_stats_t, stale_messages) },

    { NULL, NULL, NULL, 0 }
};


static ngx_http_infer_metric_t  ngx_http_infer_hists[] = {

    { "ngx_infer_time_to_first_token_seconds", "histogram",
      "Submission to first token.", offsetof(infer_bus_stats_t, ttft) },

    { "vllm:time_to_first_token_seconds", "histogram",
      "Submission to first token.", offsetof(infer_bus_stats_t, ttft) },

    { "ngx_infer_inter_token_seconds", "histogram",
      "One token to the next.", offsetof(infer_bus_stats_t, itl) },

    { "vllm:inter_token_latency_seconds", "histogram",
      "One token to the next.", offsetof(infer_bus_stats_t, itl) },

    { "ngx_infer_request_seconds", "histogram",
      "Submission to last token.", offsetof(infer_bus_stats_t, e2e) },

    { "vllm:e2e_request_latency_seconds", "histogram",
      "Submission to last token.", offsetof(infer_bus_stats_t, e2e) },

    { "ngx_infer_queue_seconds", "histogram",
      "Submission to start.", offsetof(infer_bus_stats_t, queue) },

    { "vllm:request_queue_time_seconds", "histogram",
      "Submission to start.", offsetof(infer_bus_stats_t, queue) },

    { NULL, NULL, NULL, 0 }
};


/* by INFER_FINISH_* */

static char  *ngx_http_infer_finish_names[] = {
    NULL, "stop", "length", "cancelled", "timeout_queue", "timeout", "error"
};


/* 503 while the model loads, or when work is pending and nothing moves */

ngx_int_t
ngx_http_infer_health_ready(ngx_http_request_t *r,
    ngx_http_infer_model_t *model)
{
    uint64_t               now, beat;
    infer_bus_load_t       load;
    infer_bus_model_t     *bm;
    ngx_http_infer_bus_t  *bus;

    bus = ngx_http_infer_bus_enter(model->zone, r->connection->log);
    if (bus == NULL) {
        return ngx_http_infer_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE, 1,
                                     "No worker entry is free.");
    }

    bm = &bus->bus.model[model->index];

    if (!ngx_http_infer_engine_ready(bus)
        || !atomic_load_explicit(&bm->loaded, memory_order_acquire))
    {
        if (atomic_load_explicit(&bus->bus.hdr->engine_state,
                                 memory_order_acquire)
            == INFER_ENGINE_FAILED)
        {
            return ngx_http_infer_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE, 10,
                                         ngx_http_infer_health_why(r, bus));
        }

        return ngx_http_infer_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE, 1,
                                     "Loading model");
    }

    infer_bus_load(&bus->bus, (uint32_t) model->index, &load);

    now = infer_now_us();
    beat = atomic_load_explicit(&bus->bus.hdr->heartbeat_us,
                                memory_order_relaxed);

    if (load.waiting + load.running && now > beat
        && now - beat > NGX_HTTP_INFER_STALLED_US)
    {
        return ngx_http_infer_refuse(r, NGX_HTTP_SERVICE_UNAVAILABLE, 10,
                                     "The engine makes no progress.");
    }

    return ngx_http_infer_health_live(r);
}


/* the engine's sentence is written before its state and not again */

static char *
ngx_http_infer_health_why(ngx_http_request_t *r, ngx_http_infer_bus_t *bus)
{
    char    *p, *why;
    size_t   len;

    why = bus->bus.hdr->error;
    len = strnlen(why, sizeof(bus->bus.hdr->error) - 1);

    p = ngx_pnalloc(r->pool, sizeof("The model could not be loaded: .") + len);

    if (p == NULL || len == 0) {
        return "The model could not be loaded.";
    }

    (void) ngx_sprintf((u_char *) p, "The model could not be loaded: %*s.%Z",
                       len, why);

    return p;
}


ngx_int_t
ngx_http_infer_health_live(ngx_http_request_t *r)
{
    ngx_str_t  body = ngx_string("{\"status\":\"ok\"}");

    return ngx_http_infer_send(r, NGX_HTTP_OK, "application/json", &body);
}


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
    size = 1 + NGX_HTTP_INFER_METRICS_CACHE * (imcf->caches.nelts + 1);
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


static u_char *
ngx_http_infer_metrics_counters(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n)
{
    ngx_uint_t                i;
    _Atomic uint64_t         *value;
    ngx_http_infer_metric_t  *metric;

    for (metric = ngx_http_infer_counters; metric->name; metric++) {

        p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s counter\n",
                         metric->name, metric->help, metric->name);

        for (i = 0; i < n; i++) {
            value = (_Atomic uint64_t *)
                               ((u_char *) z[i].bus->bus.stats + metric->what);

            p = ngx_slprintf(p, last, "%s{", metric->name);
            p = ngx_http_infer_metrics_labels(p, last, &z[i]);
            p = ngx_slprintf(p, last, "} %uL\n", atomic_load(value));
        }
    }

    return p;
}


static u_char *
ngx_http_infer_metrics_finished(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n)
{
    ngx_uint_t  i, k;

    p = ngx_slprintf(p, last,
                     "# HELP ngx_infer_finished_total "
                     "Generations by how they ended.\n"
                     "# TYPE ngx_infer_finished_total counter\n");

    for (i = 0; i < n; i++) {
        for (k = INFER_FINISH_STOP; k <= INFER_FINISH_ERROR; k++) {
            p = ngx_slprintf(p, last, "ngx_infer_finished_total{");
            p = ngx_http_infer_metrics_labels(p, last, &z[i]);
            p = ngx_slprintf(p, last, ",reason=\"%s\"} %uL\n",
                             ngx_http_infer_finish_names[k],
                             atomic_load(&z[i].bus->bus.stats->finished[k]));
        }
    }

    p = ngx_slprintf(p, last,
                     "# HELP vllm:request_success_total "
                     "Generations that ended well.\n"
                     "# TYPE vllm:request_success_total counter\n");

    for (i = 0; i < n; i++) {
        for (k = INFER_FINISH_STOP; k <= INFER_FINISH_LENGTH; k++) {
            p = ngx_slprintf(p, last, "vllm:request_success_total{");
            p = ngx_http_infer_metrics_labels(p, last, &z[i]);
            p = ngx_slprintf(p, last, ",finished_reason=\"%s\"} %uL\n",
                             ngx_http_infer_finish_names[k],
                             atomic_load(&z[i].bus->bus.stats->finished[k]));
        }
    }

    return p;
}


static u_char *
ngx_http_infer_metrics_hists(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n)
{
    ngx_uint_t                i;
    infer_hist_t             *h;
    ngx_http_infer_metric_t  *metric;

    for (metric = ngx_http_infer_hists; metric->name; metric++) {

        p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s histogram\n",
                         metric->name, metric->help, metric->name);

        for (i = 0; i < n; i++) {
            h = (infer_hist_t *) ((u_char *) z[i].bus->bus.stats
                                  + metric->what);

            p = ngx_http_infer_metrics_hist(p, last, metric->name, &z[i], h);
        }
    }

    return p;
}


/* The bus counts per bucket; Prometheus wants running sums. */

static u_char *
ngx_http_infer_metrics_hist(u_char *p, u_char *last, char *name,
    ngx_http_infer_metrics_zone_t *z, infer_hist_t *h)
{
    uint64_t    sum, us;
    ngx_uint_t  i;

    sum = 0;

    for (i = 0; i < INFER_HIST_BUCKETS; i++) {

        sum += atomic_load(&h->bucket[i]);

        p = ngx_slprintf(p, last, "%s_bucket{", name);
        p = ngx_http_infer_metrics_labels(p, last, z);

        if (i < INFER_HIST_BUCKETS - 1) {
            us = infer_hist_bounds_us[i];

            p = ngx_slprintf(p, last, ",le=\"%uL.%06uL\"} %uL\n",
                             us / 1000000, us % 1000000, sum);

        } else {
            p = ngx_slprintf(p, last, ",le=\"+Inf\"} %uL\n", sum);
        }
    }

    us = atomic_load(&h->sum_us);

    p = ngx_slprintf(p, last, "%s_sum{", name);
    p = ngx_http_infer_metrics_labels(p, last, z);
    p = ngx_slprintf(p, last, "} %uL.%06uL\n", us / 1000000, us % 1000000);

    p = ngx_slprintf(p, last, "%s_count{", name);
    p = ngx_http_infer_metrics_labels(p, last, z);

    return ngx_slprintf(p, last, "} %uL\n", sum);
}


/* Statistics are kept per bus; a bus with one model can name it. */

static u_char *
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
