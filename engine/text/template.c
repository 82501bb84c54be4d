/*
 * template.c: one render of a compiled template: limits, variables, run,
 * result. All memory of a render lies in one arena that ends with it; only
 * the result is the caller's.
 */

#include "text/template_int.h"


/* What the caller vouches for. */
static void
template_own(tpl_ctx_t *c, tpl_dict_t *d, const char *name)
{
    tpl_val_t *v = tpl_dict_get(c, d, tpl_cstr(name));

    if (v != NULL && v->kind == TPL_STR) {
        v->flag = TPL_TEMPLATE;
    }
}

static void
template_trust(tpl_ctx_t *c, tpl_dict_t *globals)
{
    tpl_val_t *m = tpl_dict_get(c, globals, tpl_cstr("messages"));

    template_own(c, globals, "bos_token");
    template_own(c, globals, "eos_token");
    for (uint32_t i = 0; m != NULL && m->kind == TPL_LIST
                         && i < m->u.list->n; i++)
    {
        if (m->u.list->v[i].kind == TPL_DICT) {
            template_own(c, m->u.list->v[i].u.dict, "role");
        }
    }
}

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
    template_trust(c, c->globals);
    c->depth = 0;
    c->line = 1;
    tpl_run(c, c->tpl);
}

static int
template_result(const tpl_buf_t *b, infer_rendered_t *out, infer_err_t *err)
{
    out->text = malloc(b->len + 1);
    out->client = b->client != NULL ? malloc(b->len) : NULL;
    if (out->text == NULL || (b->client != NULL && out->client == NULL)) {
        infer_rendered_free(out);
        return infer_err(err, INFER_NOMEM, "out of memory");
    }

    if (b->len != 0) {
        memcpy(out->text, b->p, b->len);
    }
    if (b->client != NULL) {
        memcpy(out->client, b->client, b->len);
    }
    out->text[b->len] = '\0';
    out->len = b->len;
    return INFER_OK;
}

void
infer_rendered_free(infer_rendered_t *r)
{
    free(r->text);
    free(r->client);
    *r = (infer_rendered_t) { 0 };
}

int
infer_template_render(const infer_template_t *tpl, json_t *vars,
    const infer_template_limits_t *limits, int64_t now,
    infer_rendered_t *out, infer_err_t *err)
{
    tpl_ctx_t *c = calloc(1, sizeof(tpl_ctx_t));
    tpl_buf_t *b = calloc(1, sizeof(tpl_buf_t));
    int rc;

    *out = (infer_rendered_t) { 0 };
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
    c->cap = TPL_RENDER_CAP + 8 * c->max_output;
    c->seed = 0xcbf29ce484222325u ^ (uint64_t) (uintptr_t) c;

    if (setjmp(c->env) == 0) {
        template_run(c, vars);
    }

    rc = c->rc != INFER_OK ? c->rc : template_result(b, out, err);
    tpl_free_chunks(c->chunks);
    free(c);
    free(b);
    return rc;
}
