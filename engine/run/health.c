/*
 * health.c: how the devices are, for the metrics. Once a second and without
 * waiting: the backend has it from a thread of its own.
 */

#include "run/engine.h"

#define HEALTH_US  1000000

void
infer_engine_health(infer_engine_t *e)
{
    uint32_t            i;
    kern_health_t       h;
    const kern_ops_t   *ops;
    infer_bus_model_t  *bm;

    if (e->now_us - e->health_us < HEALTH_US) {
        return;
    }
    e->health_us = e->now_us;

    for (i = 0; i < e->n_models; i++) {
        bm = &e->bus.model[i];
        ops = infer_model_ops(e->model[i].model);

        if (ops->health == NULL
            || ops->health(infer_model_ctx(e->model[i].model), &h)
               != INFER_OK)
        {
            continue;
        }

        atomic_store(&bm->device_celsius, h.temperature_c);
        atomic_store(&bm->device_percent, h.utilization);
        atomic_store(&bm->device_mw, h.power_mw);
        atomic_store(&bm->device_used, h.memory_used);
        atomic_store(&bm->device_total, h.memory_total);
        atomic_store(&bm->device_known, 1);
    }
}
