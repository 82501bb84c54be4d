/*
 * template.c: one render of a compiled template: limits, variables, run,
 * result. All memory of a render lies in one arena that ends with it; only
 * the result is the caller's.
 */

#include "text/template_int.h"


/* Everything that may longjmp; apart, so that no local of the caller
 * changes after setjmp. */
static void
template_run(tpl_ctx_t *c, json_t *vars)
{
    tpl_val_t globals;

    if (vars == NULL || !json_is_object(vars)) {
        tpl_fail(c, INFER_INVALID, "the variables are not an object");
    }
    globals = tpl_from_json(c, vars);
    c->globals = globals.u.dict;
    c->depth = 0;
    c->line = 1;
    tpl_run(c, c->tpl);
}

int
infer_template_render(const infer_template_t *tpl, json_t *vars,
    const infer_template_limits_t *limits, int64_t now, char **out,
    size_t *out_len, infer_err_t *err)
{
    tpl_ctx_t *c = calloc(1, sizeof(tpl_ctx_t));
    tpl_buf_t *b = calloc(1, sizeof(tpl_buf_t));
    int rc;

    *out = NULL;
    *out_len = 0;
    if (c == NULL || b == NULL) {
        free(c);
        free(b);
        return infer_err(err, INFER_NOMEM, "out of memory");
    }

    c->err = err;
    c->tpl = tpl;
    c->out = b;
    c->now = now;
    c->line = 1;
    c->steps = limits != NULL && limits->max_steps != 0
               ? limits->max_steps : 1000000;
    c->max_output = limits != NULL && limits->max_output != 0
                    ? limits->max_output : 8u << 20;
    c->max_depth = limits != NULL && limits->max_depth != 0
                   ? limits->max_depth : 64;
    c->max_depth = c->max_depth < 256 ? c->max_depth : 256;
    c->cap = TPL_RENDER_CAP + 4 * c->max_output;
    c->seed = 0xcbf29ce484222325u ^ (uint64_t) (uintptr_t) c;

    if (setjmp(c->env) == 0) {
        template_run(c, vars);
    }

    rc = c->rc;
    if (rc == INFER_OK) {
        *out = malloc(b->len + 1);
        if (*out == NULL) {
            rc = infer_err(err, INFER_NOMEM, "out of memory");

        } else {
            if (b->len != 0) {
                memcpy(*out, b->p, b->len);
            }
            (*out)[b->len] = '\0';
            *out_len = b->len;
        }
    }

    tpl_free_chunks(c->chunks);
    free(c);
    free(b);
    return rc;
}
