
/*
 * Metrics of requests: counters, how generations ended, and histograms of
 * the times they took.
 */


#include "ngx_http_infer_metrics.h"


static u_char *ngx_http_infer_metrics_hist(u_char *p, u_char *last,
    char *name, ngx_http_infer_metrics_zone_t *z, infer_hist_t *h);


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


u_char *
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


u_char *
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


u_char *
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
