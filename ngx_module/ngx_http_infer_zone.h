
/*
 * What zone.c and bus.c share: a bus that is being made. Nobody else includes
 * this.
 */


#ifndef _NGX_HTTP_INFER_ZONE_H_INCLUDED_
#define _NGX_HTTP_INFER_ZONE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_http_infer_module.h"


#define NGX_HTTP_INFER_NO_FD      (-1)


/* what a bus is made from while it is being made */

typedef struct {
    ngx_http_infer_zone_t   *zone;
    ngx_core_conf_t         *ccf;
    ngx_pool_t              *pool;
    ngx_log_t               *log;
    int                      file_fd[INFER_MAX_MODELS];
    int                      template_fd[INFER_MAX_MODELS];
    struct stat              file[INFER_MAX_MODELS];
    u_char                   signature[20];
    infer_bus_model_t        info[INFER_MAX_MODELS];
} ngx_http_infer_plan_t;


/* bus.c: NULL after having logged why; frees, and retires what was in use */

ngx_http_infer_bus_t *ngx_http_infer_bus_make(ngx_http_infer_plan_t *plan);
void ngx_http_infer_bus_free(ngx_http_infer_bus_t *bus);
void ngx_http_infer_close(int *fd);

/* zone.c: the opposite of ngx_http_infer_bus_enter() */

void ngx_http_infer_bus_leave(ngx_http_infer_bus_t *bus);


#endif /* _NGX_HTTP_INFER_ZONE_H_INCLUDED_ */
