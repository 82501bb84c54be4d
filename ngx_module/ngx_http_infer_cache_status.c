
/*
 * Metrics of the response caches, one line for each zone.
 */


#include "ngx_http_infer_module.h"


typedef struct {
    char                        *name;
    char                        *type;
    char                        *help;
    size_t                       offset;    /* in infer_store_stats_t */
} ngx_http_infer_cache_metric_t;


#define ngx_http_infer_cache_metric(name, type, field, help)                  \
    { "ngx_infer_cache_" name, type, help,                                    \
      offsetof(infer_store_stats_t, field) }


static ngx_http_infer_cache_metric_t  ngx_http_infer_cache_metrics[] = {

    ngx_http_infer_cache_metric("hits_total", "counter", hits,
        "Lookups that found an answer; by body and by request."),
    ngx_http_infer_cache_metric("misses_total", "counter", misses,
        "Lookups that found none."),
    ngx_http_infer_cache_metric("stale_total", "counter", stale,
        "Lookups that found one past its time."),
    ngx_http_infer_cache_metric("tries_total", "counter", tries,
        "Times that a shard's lock was tried."),
    ngx_http_infer_cache_metric("busy_total", "counter", busy,
        "Times that it was taken: a miss."),
    ngx_http_infer_cache_metric("inserts_total", "counter", inserts,
        "Entries stored."),
    ngx_http_infer_cache_metric("updates_total", "counter", updates,
        "Entries stored in place of one."),
    ngx_http_infer_cache_metric("evictions_total", "counter", evictions,
        "Entries that made room."),
    ngx_http_infer_cache_metric("rejects_total", "counter", rejects,
        "Entries not admitted: others are asked for more often."),
    ngx_http_infer_cache_metric("expired_total", "counter", expired,
        "Entries found too old or purged."),
    ngx_http_infer_cache_metric("collisions_total", "counter", collisions,
        "Keys found for another request."),
    ngx_http_infer_cache_metric("wiped_total", "counter", wiped,
        "Shards emptied after a worker died in a change."),
    ngx_http_infer_cache_metric("entries", "gauge", entries,
        "Entries there are."),
    ngx_http_infer_cache_metric("bytes", "gauge", bytes,
        "Bytes of blocks in use."),
    ngx_http_infer_cache_metric("capacity_bytes", "gauge", capacity,
        "Bytes of all blocks."),

    ngx_http_infer_cache_metric("references", "gauge", refs,
        "Answers being sent out of the zone itself."),

    { NULL, NULL, NULL, 0 }
};


/* what workers count, in the order of ngx_http_infer_cache_counts_t */

static char  *ngx_http_infer_cache_causes[] = {
    "error", "timeout", "overload", "updating"
};

static char  *ngx_http_infer_cache_results[] = {
    "started", "done", "failed"
};


static u_char *ngx_http_infer_metrics_stale(u_char *p, u_char *last,
    ngx_http_infer_main_conf_t *imcf);


u_char *
ngx_http_infer_metrics_caches(u_char *p, u_char *last, void *main)
{
    ngx_http_infer_main_conf_t *imcf = main;

    uint64_t                        value;
    ngx_uint_t                      i;
    infer_store_stats_t             st;
    ngx_http_infer_cache_t        **cache;
    ngx_http_infer_cache_metric_t  *metric;

    cache = imcf->caches.elts;

    if (imcf->caches.nelts == 0) {
        return p;
    }

    for (metric = ngx_http_infer_cache_metrics; metric->name; metric++) {

        p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s %s\n",
                         metric->name, metric->help, metric->name,
                         metric->type);

        for (i = 0; i < imcf->caches.nelts; i++) {

            if (ngx_http_infer_cache_enter(cache[i]) == NULL) {
                continue;
            }

            infer_store_stats(&cache[i]->store, &st);
            ngx_memcpy(&value, (u_char *) &st + metric->offset,
                       sizeof(value));

            p = ngx_slprintf(p, last, "%s{cache=\"%V\"} %uL\n",
                             metric->name, &cache[i]->name, value);
        }
    }

    return ngx_http_infer_metrics_stale(p, last, imcf);
}


static u_char *
ngx_http_infer_metrics_stale(u_char *p, u_char *last,
    ngx_http_infer_main_conf_t *imcf)
{
    ngx_uint_t                       i, n;
    ngx_http_infer_cache_t         **cache;
    ngx_http_infer_cache_counts_t   *counts;

    cache = imcf->caches.elts;

    p = ngx_slprintf(p, last, "# HELP ngx_infer_cache_stale_served_total "
                     "Old answers sent in place of a new one.\n"
                     "# TYPE ngx_infer_cache_stale_served_total counter\n");

    for (i = 0; i < imcf->caches.nelts; i++) {
        counts = &cache[i]->shm->counts;

        for (n = 0; n < NGX_HTTP_INFER_STALE_CAUSES; n++) {
            p = ngx_slprintf(p, last, "ngx_infer_cache_stale_served_total"
                             "{cache=\"%V\",cause=\"%s\"} %uA\n",
                             &cache[i]->name, ngx_http_infer_cache_causes[n],
                             counts->stale[n]);
        }
    }

    p = ngx_slprintf(p, last, "# HELP ngx_infer_cache_refreshes_total "
                     "Answers made anew without a client.\n"
                     "# TYPE ngx_infer_cache_refreshes_total counter\n");

    for (i = 0; i < imcf->caches.nelts; i++) {
        counts = &cache[i]->shm->counts;

        for (n = 0; n < 3; n++) {
            p = ngx_slprintf(p, last, "ngx_infer_cache_refreshes_total"
                             "{cache=\"%V\",result=\"%s\"} %uA\n",
                             &cache[i]->name, ngx_http_infer_cache_results[n],
                             counts->refreshes[n]);
        }
    }

    return p;
}
