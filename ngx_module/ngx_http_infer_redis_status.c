
/*
 * Metrics of the response cache's second tier, one line for each infer_redis.
 */


#include "ngx_http_infer_module.h"


typedef struct {
    char                        *name;
    char                        *type;
    char                        *help;
    size_t                       offset;    /* in ..._redis_shm_t */
} ngx_http_infer_redis_metric_t;


#define ngx_http_infer_redis_metric(name, field, help)                        \
    { "ngx_infer_redis_" name, "counter", help,                               \
      offsetof(ngx_http_infer_redis_shm_t, field) }


static u_char *ngx_http_infer_metrics_redis_time(u_char *p, u_char *last,
    ngx_http_infer_redis_t **redis, ngx_uint_t n);
static u_char *ngx_http_infer_metrics_redis_breakers(u_char *p, u_char *last,
    ngx_http_infer_redis_t **redis, ngx_uint_t n);


static ngx_http_infer_redis_metric_t  ngx_http_infer_redis_metrics[] = {

    ngx_http_infer_redis_metric("hits_total", hits,
        "Lookups that found a good answer."),
    ngx_http_infer_redis_metric("misses_total", misses,
        "Lookups that found none."),
    ngx_http_infer_redis_metric("foreign_total", foreign,
        "Misses: a value that does not open under the secret."),
    ngx_http_infer_redis_metric("outdated_total", outdated,
        "Misses: a value that was purged or is too old."),
    ngx_http_infer_redis_metric("errors_total", errors,
        "Lookups that could not be made."),
    ngx_http_infer_redis_metric("lane_total", lane,
        "Lookups answered to the event loop, without a thread."),
    ngx_http_infer_redis_metric("stores_total", stores,
        "Answers written."),
    ngx_http_infer_redis_metric("store_errors_total", store_errors,
        "Answers that could not be written."),
    ngx_http_infer_redis_metric("dropped_total", dropped,
        "Answers not written: too many were waiting."),
    ngx_http_infer_redis_metric("lock_waits_total", lock_waits,
        "Requests that waited for another one's generation."),
    ngx_http_infer_redis_metric("lock_timeouts_total", lock_timeouts,
        "Requests that waited in vain."),
    ngx_http_infer_redis_metric("purges_total", purges,
        "Tags and caches purged from here."),
    ngx_http_infer_redis_metric("calls_total", client.calls,
        "Calls, of all kinds."),
    ngx_http_infer_redis_metric("failed_total", client.failed,
        "Calls that failed."),
    ngx_http_infer_redis_metric("refused_total", client.refused,
        "Calls not made: no server was to be asked."),
    ngx_http_infer_redis_metric("connects_total", client.connects,
        "Connections made."),
    ngx_http_infer_redis_metric("redirects_total", client.redirects,
        "Redirections by a cluster."),
    ngx_http_infer_redis_metric("oversized_total", client.oversized,
        "Replies that were too large."),
    ngx_http_infer_redis_metric("sent_bytes_total", client.sent_bytes,
        "Bytes sent."),
    ngx_http_infer_redis_metric("received_bytes_total", client.received_bytes,
        "Bytes received."),

    { NULL, NULL, NULL, 0 }
};


u_char *
ngx_http_infer_metrics_redis(u_char *p, u_char *last, void *main)
{
    ngx_http_infer_main_conf_t *imcf = main;

    ngx_uint_t                      i;
    _Atomic uint64_t               *value;
    ngx_http_infer_redis_t        **redis;
    ngx_http_infer_redis_metric_t  *metric;

    redis = imcf->redis.elts;

    if (imcf->redis.nelts == 0) {
        return p;
    }

    for (metric = ngx_http_infer_redis_metrics; metric->name; metric++) {

        p = ngx_slprintf(p, last, "# HELP %s %s\n# TYPE %s %s\n",
                         metric->name, metric->help, metric->name,
                         metric->type);

        for (i = 0; i < imcf->redis.nelts; i++) {
            value = (_Atomic uint64_t *) ((u_char *) redis[i]->shm
                                          + metric->offset);

            p = ngx_slprintf(p, last, "%s{redis=\"%V\"} %uL\n", metric->name,
                             &redis[i]->name, atomic_load(value));
        }
    }

    p = ngx_http_infer_metrics_redis_time(p, last, redis, imcf->redis.nelts);

    return ngx_http_infer_metrics_redis_breakers(p, last, redis,
                                                 imcf->redis.nelts);
}


static u_char *
ngx_http_infer_metrics_redis_time(u_char *p, u_char *last,
    ngx_http_infer_redis_t **redis, ngx_uint_t n)
{
    uint64_t               us, sum;
    ngx_uint_t             i, k;
    infer_redis_shared_t  *shared;

    p = ngx_slprintf(p, last,
                     "# HELP ngx_infer_redis_seconds Time of calls.\n"
                     "# TYPE ngx_infer_redis_seconds histogram\n");

    for (i = 0; i < n; i++) {
        shared = &redis[i]->shm->client;
        sum = 0;

        for (k = 0; k < INFER_REDIS_BUCKETS; k++) {
            sum += atomic_load(&shared->latency[k]);
            us = 125ull << k;

            p = ngx_slprintf(p, last, "ngx_infer_redis_seconds_bucket"
                             "{redis=\"%V\",le=\"", &redis[i]->name);

            p = (k == INFER_REDIS_BUCKETS - 1)
                ? ngx_slprintf(p, last, "+Inf\"} %uL\n", sum)
                : ngx_slprintf(p, last, "%uL.%06uL\"} %uL\n", us / 1000000,
                               us % 1000000, sum);
        }

        us = atomic_load(&shared->latency_us);

        p = ngx_slprintf(p, last,
                         "ngx_infer_redis_seconds_sum{redis=\"%V\"} "
                         "%uL.%06uL\n"
                         "ngx_infer_redis_seconds_count{redis=\"%V\"} %uL\n",
                         &redis[i]->name, us / 1000000, us % 1000000,
                         &redis[i]->name, sum);
    }

    return p;
}


/* Of a cluster's nodes only a number is known. */

static u_char *
ngx_http_infer_metrics_redis_breakers(u_char *p, u_char *last,
    ngx_http_infer_redis_t **redis, ngx_uint_t n)
{
    uint64_t               now;
    ngx_uint_t             i, k;
    infer_redis_conf_t    *conf;
    infer_redis_shared_t  *shared;

    now = infer_now_us() / 1000;

    p = ngx_slprintf(p, last,
                     "# HELP ngx_infer_redis_breaker A server is asked (0), "
                     "passed by (1), or tried again (2).\n"
                     "# TYPE ngx_infer_redis_breaker gauge\n");

    for (i = 0; i < n; i++) {
        conf = &redis[i]->conf;
        shared = &redis[i]->shm->client;

        for (k = 0; k < INFER_REDIS_NODES; k++) {

            if (conf->cluster ? atomic_load(&shared->server[k].node) == 0
                              : k >= conf->n_servers)
            {
                continue;
            }

            p = ngx_slprintf(p, last, "ngx_infer_redis_breaker{redis=\"%V\","
                             "server=\"", &redis[i]->name);

            p = conf->cluster
                ? ngx_slprintf(p, last, "node %ui", k)
                : conf->server[k].port
                  ? ngx_slprintf(p, last, "%s:%uD", conf->server[k].host,
                                 (uint32_t) conf->server[k].port)
                  : ngx_slprintf(p, last, "unix:%s", conf->server[k].host);

            p = ngx_slprintf(p, last, "\"} %d\n",
                             infer_redis_breaker(shared, (uint32_t) k, now));
        }
    }

    return p;
}
