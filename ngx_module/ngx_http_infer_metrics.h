
/*
 * What writers of metrics share. Each appends to the text at p, up to last,
 * and returns its end.
 */


#ifndef _NGX_HTTP_INFER_METRICS_H_INCLUDED_
#define _NGX_HTTP_INFER_METRICS_H_INCLUDED_


#include "ngx_http_infer_request.h"


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


/* what is counted over all requests of n zones */

u_char *ngx_http_infer_metrics_counters(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
u_char *ngx_http_infer_metrics_finished(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);
u_char *ngx_http_infer_metrics_hists(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z, ngx_uint_t n);

/* the labels of every metric of a zone */

u_char *ngx_http_infer_metrics_labels(u_char *p, u_char *last,
    ngx_http_infer_metrics_zone_t *z);


#endif /* _NGX_HTTP_INFER_METRICS_H_INCLUDED_ */
