
/*
 * Health, answered from the bus at once, without the queue.
 */


#include "ngx_http_infer_request.h"


#define NGX_HTTP_INFER_STALLED_US      10000000


static char *ngx_http_infer_health_why(ngx_http_request_t *r,
    ngx_http_infer_bus_t *bus);


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
