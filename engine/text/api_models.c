/*
 * api_models.c: the answers of /v1/models and /v1/models/NAME.
 */

#include "text/api.h"


int
infer_api_render_model(infer_buf_t *out, const infer_api_model_t *m)
{
    infer_buf_str(out, "{\"id\":");
    infer_buf_quote(out, m->name.data, m->name.len);
    infer_buf_printf(out, ",\"object\":\"model\",\"created\":%lld,"
                     "\"owned_by\":\"ngx_infer\",\"max_model_len\":%u,"
                     "\"meta\":{\"n_ctx\":%u,\"n_ctx_train\":%u,"
                     "\"n_vocab\":%u,\"n_params\":%llu,\"size\":%llu}}",
                     (long long) m->created, m->n_ctx, m->n_ctx,
                     m->n_ctx_train, m->n_vocab,
                     (unsigned long long) m->n_params,
                     (unsigned long long) m->size);

    return infer_buf_rc(out);
}


int
infer_api_render_models(infer_buf_t *out, const infer_api_model_t *models,
    uint32_t n)
{
    infer_buf_str(out, "{\"object\":\"list\",\"data\":[");

    for (uint32_t i = 0; i < n; i++) {
        infer_buf_put(out, ",", i > 0);
        (void) infer_api_render_model(out, &models[i]);
    }

    infer_buf_str(out, "]}");

    return infer_buf_rc(out);
}
