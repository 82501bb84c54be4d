/*
 * template_eval.c: runs the tree of a template. Expressions give values,
 * statements write to c->out. Each node is a step of the budget; nesting is
 * counted, so that no template overruns the stack.
 */

#include "text/template_int.h"

enum { RUN_ON, RUN_BREAK, RUN_CONTINUE };

static tpl_val_t eval(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n);
static int run_list(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n);


static tpl_frame_t *
frame_new(tpl_ctx_t *c, tpl_frame_t *up)
{
    tpl_frame_t *f = tpl_alloc(c, sizeof(tpl_frame_t));

    memset(f, 0, sizeof(tpl_frame_t));
    f->up = up;
    return f;
}

static void
frame_set(tpl_ctx_t *c, tpl_frame_t *f, uint32_t id, tpl_val_t v)
{
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->names[i] == id) {
            f->vals[i] = v;
            return;
        }
    }

    if (f->n == f->cap) {
        uint32_t   cap = f->cap != 0 ? f->cap * 2 : 4;
        uint32_t  *names = tpl_array(c, cap, sizeof(uint32_t));
        tpl_val_t *vals = tpl_array(c, cap, sizeof(tpl_val_t));

        if (f->n != 0) {
            memcpy(names, f->names, f->n * sizeof(uint32_t));
            memcpy(vals, f->vals, f->n * sizeof(tpl_val_t));
        }
        f->names = names;
        f->vals = vals;
        f->cap = cap;
    }
    f->names[f->n] = id;
    f->vals[f->n++] = v;
}

static tpl_val_t
frame_get(tpl_ctx_t *c, const tpl_frame_t *f, const tpl_node_t *name)
{
    for ( ; f != NULL; f = f->up) {
        tpl_charge(c, (size_t) f->n * 4);
        for (uint32_t i = 0; i < f->n; i++) {
            if (f->names[i] == name->id) {
                return f->vals[i];
            }
        }
    }

    tpl_val_t *p = tpl_dict_get(c, c->globals, name->v);

    if (p != NULL) {
        return *p;
    }

    const tpl_func_t *fn = tpl_find(tpl_functions, name->v);

    if (fn != NULL) {
        return (tpl_val_t) { .kind = TPL_FUNC, .u.func = fn };
    }

    return tpl_undef(name->v.u.s, name->v.len);
}

static void
eval_assign(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *target,
    tpl_val_t v)
{
    if (target->kind == TPL_N_NAME) {
        frame_set(c, f, target->id, v);
        return;
    }

    if (target->kind == TPL_N_ATTR) {
        tpl_val_t ns = frame_get(c, f, target->a);

        if (ns.kind != TPL_NS) {
            tpl_fail(c, INFER_INVALID, "cannot assign attribute on "
                     "non-namespace object");
        }
        tpl_dict_set(c, ns.u.dict, target->v, v);
        return;
    }

    tpl_val_t   l = tpl_iter(c, v);
    uint32_t    i = 0;
    tpl_node_t *t = target->list;

    for ( ; t != NULL && i < l.u.list->n; t = t->next, i++) {
        eval_assign(c, f, t, l.u.list->v[i]);
    }
    if (t != NULL || i != l.u.list->n) {
        tpl_fail(c, INFER_INVALID, "wrong number of values to unpack (%u)",
                 l.u.list->n);
    }
}

static void
eval_kwarg(tpl_ctx_t *c, tpl_args_t *a, uint32_t *cap, tpl_val_t name,
    tpl_val_t v)
{
    if (a->n_kw == *cap) {
        tpl_kw_t *kw;

        *cap = *cap != 0 ? *cap * 2 : 4;
        kw = tpl_array(c, *cap, sizeof(tpl_kw_t));
        if (a->n_kw != 0) {
            memcpy(kw, a->kw, a->n_kw * sizeof(tpl_kw_t));
        }
        a->kw = kw;
    }
    a->kw[a->n_kw++] = (tpl_kw_t) { name, v };
}

static tpl_args_t
eval_args(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_args_t a = { 0 };
    uint32_t   cap = 0;
    tpl_val_t  pos, v;

    if (n == NULL) {
        return a;
    }
    pos = tpl_new_list(c, TPL_LIST, 4);
    for ( ; n != NULL; n = n->next) {
        switch (n->kind) {
        case TPL_N_KWARG:
            eval_kwarg(c, &a, &cap, n->v, eval(c, f, n->a));
            break;

        case TPL_N_STAR:
            v = tpl_iter(c, eval(c, f, n->a));
            for (uint32_t i = 0; i < v.u.list->n; i++) {
                tpl_push(c, pos, v.u.list->v[i]);
            }
            break;

        case TPL_N_STARSTAR:
            v = eval(c, f, n->a);
            if (v.kind != TPL_DICT) {
                tpl_fail(c, INFER_INVALID, "argument after ** must be a "
                         "mapping, not %s", tpl_type_name(v));
            }
            for (uint32_t i = 0; i < v.u.dict->n; i++) {
                if (v.u.dict->keys[i].kind != TPL_STR) {
                    tpl_fail(c, INFER_INVALID, "keywords must be strings");
                }
                eval_kwarg(c, &a, &cap, v.u.dict->keys[i],
                           v.u.dict->vals[i]);
            }
            break;

        default:
            tpl_push(c, pos, eval(c, f, n));
        }
    }
    a.pos = pos.u.list->v;
    a.n = pos.u.list->n;
    return a;
}

static const tpl_kw_t *
eval_find_kw(const tpl_args_t *a, tpl_val_t name)
{
    for (uint32_t i = 0; i < a->n_kw; i++) {
        if (a->kw[i].name.len == name.len
            && memcmp(a->kw[i].name.u.s, name.u.s, name.len) == 0)
        {
            return &a->kw[i];
        }
    }

    return NULL;
}

/* Parameters of a macro; what is left goes to varargs and kwargs. */
static void
macro_bind(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *m,
    const tpl_args_t *a)
{
    uint32_t  i = 0;
    tpl_val_t varargs = tpl_new_list(c, TPL_TUPLE, 0);
    tpl_val_t kwargs = tpl_new_dict(c, 0);

    for (uint32_t k = 0; k < a->n_kw; k++) {
        tpl_dict_set(c, kwargs.u.dict, a->kw[k].name, a->kw[k].v);
    }
    for (const tpl_node_t *p = m->a; p != NULL; p = p->next, i++) {
        const tpl_kw_t *kw = eval_find_kw(a, p->v);

        if (i < a->n) {
            if (kw != NULL) {
                tpl_fail(c, INFER_INVALID, "macro '%.*s' got multiple values "
                         "for argument '%.*s'", (int) m->v.len, m->v.u.s,
                         (int) p->v.len, p->v.u.s);
            }
            frame_set(c, f, p->id, a->pos[i]);

        } else if (kw != NULL) {
            frame_set(c, f, p->id, kw->v);
            tpl_dict_del(c, kwargs.u.dict, p->v);

        } else {
            frame_set(c, f, p->id, p->a != NULL ? eval(c, f, p->a)
                                  : tpl_undef(p->v.u.s, p->v.len));
        }
    }

    for ( ; i < a->n; i++) {
        tpl_push(c, varargs, a->pos[i]);
    }
    frame_set(c, f, TPL_ID_VARARGS, varargs);
    frame_set(c, f, TPL_ID_KWARGS, kwargs);

    const tpl_kw_t *caller = eval_find_kw(a, tpl_cstr("caller"));

    if (caller != NULL) {
        frame_set(c, f, TPL_ID_CALLER, caller->v);
    }
}

/* Runs a list with its own output; returns the text. */
static tpl_val_t
run_capture(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *list, int *rc)
{
    tpl_buf_t b = { 0 }, *out = c->out;

    c->out = &b;
    *rc = run_list(c, f, list);
    c->out = out;
    return tpl_buf_str(&b);
}

static tpl_val_t
macro_call(tpl_ctx_t *c, tpl_macro_t *m, const tpl_args_t *a)
{
    tpl_frame_t *f;
    tpl_val_t    v;
    int          rc;

    f = frame_new(c, m->frame);
    macro_bind(c, f, m->node, a);
    v = run_capture(c, f, m->node->list, &rc);
    return v;
}

tpl_val_t
tpl_call(tpl_ctx_t *c, tpl_val_t fn, const tpl_args_t *a)
{
    tpl_val_t v;

    tpl_step(c);
    tpl_enter(c);
    switch (fn.kind) {
    case TPL_FUNC:
        v = fn.u.func->fn(c, tpl_undef("", 0), a);
        break;
    case TPL_METHOD:
        v = fn.u.method->func->fn(c, fn.u.method->self, a);
        break;
    case TPL_MACRO:
        v = macro_call(c, fn.u.macro, a);
        break;
    case TPL_STATE:
        v = tpl_state_methods[0].fn(c, fn, a);
        break;
    case TPL_UNDEF:
        tpl_fail(c, INFER_UNSUPPORTED, "'%.*s' is undefined and called",
                 (int) (fn.len < 100 ? fn.len : 100), fn.u.s);
    default:
        tpl_fail(c, INFER_INVALID, "'%s' object is not callable",
                 tpl_type_name(fn));
    }
    tpl_leave(c);
    return v;
}

static tpl_val_t
eval_func(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n, tpl_val_t self)
{
    tpl_args_t a;
    tpl_val_t  v;

    if (n->func == NULL) {
        tpl_fail(c, INFER_UNSUPPORTED, "no %s named '%.*s'",
                 n->kind == TPL_N_TEST ? "test" : "filter",
                 (int) (n->v.len < 100 ? n->v.len : 100), n->v.u.s);
    }
    a = eval_args(c, f, n->list);
    tpl_enter(c);
    v = n->func->fn(c, self, &a);
    tpl_leave(c);
    return v;
}

/* Chains that lean to the left (a + b + c, x | f | g, a.b.c) are as deep as
 * they are long: walk down the spine, then come back up in a loop. */
static tpl_val_t
eval_chain(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    uint32_t           n_spine = 0;
    const tpl_node_t  *k, **spine;
    tpl_val_t          v;

    for (k = n; k != NULL && (k->kind == TPL_N_BINARY
                              || k->kind == TPL_N_FILTER
                              || k->kind == TPL_N_ATTR); k = k->a)
    {
        n_spine++;
    }
    spine = tpl_array(c, n_spine, sizeof(tpl_node_t *));
    for (k = n; n_spine != 0; k = k->a) {
        spine[--n_spine] = k;
    }
    v = eval(c, f, k);

    for (n_spine = 0; ; n_spine++) {
        k = spine[n_spine];
        c->line = k->line;
        if (n_spine != 0) {
            tpl_step(c);
        }
        if (k->kind == TPL_N_BINARY) {
            v = tpl_binary(c, k->op, v, eval(c, f, k->b));

        } else if (k->kind == TPL_N_FILTER) {
            v = eval_func(c, f, k, v);

        } else {
            v = tpl_attr(c, v, k->v);
        }
        if (k == n) {
            return v;
        }
    }
}

static tpl_val_t
eval_compare(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t a = eval(c, f, n->a);

    for (const tpl_node_t *k = n->list; k != NULL; k = k->next) {
        tpl_val_t b = eval(c, f, k->a);

        if (!tpl_compare(c, k->op, a, b)) {
            return tpl_bool(0);
        }
        a = b;
    }

    return tpl_bool(1);
}

static tpl_val_t
eval_item(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t         o = eval(c, f, n->a);
    const tpl_node_t *s = n->b;

    if (s->kind != TPL_N_SLICE) {
        return tpl_item(c, o, eval(c, f, s));
    }

    tpl_val_t from = s->a != NULL ? eval(c, f, s->a) : tpl_none();
    tpl_val_t to = s->b != NULL ? eval(c, f, s->b) : tpl_none();

    return tpl_slice(c, o, from, to,
                     s->c != NULL ? eval(c, f, s->c) : tpl_none());
}

static tpl_val_t
eval_literal(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t v;

    if (n->kind == TPL_N_DICT) {
        v = tpl_new_dict(c, 0);
        for (const tpl_node_t *k = n->list; k != NULL; k = k->next) {
            tpl_val_t key = eval(c, f, k->a);

            tpl_dict_set(c, v.u.dict, key, eval(c, f, k->b));
        }
        return v;
    }

    v = tpl_new_list(c, n->kind == TPL_N_LIST ? TPL_LIST : TPL_TUPLE, 0);
    for (const tpl_node_t *k = n->list; k != NULL; k = k->next) {
        tpl_push(c, v, eval(c, f, k));
    }

    return v;
}

static tpl_val_t
eval_sign(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t v = eval(c, f, n->a);

    if (!tpl_is_num(v)) {
        tpl_fail(c, INFER_INVALID, "bad operand type for unary %c: '%s'",
                 n->kind == TPL_N_NEG ? '-' : '+', tpl_type_name(v));
    }

    return tpl_binary(c, n->kind == TPL_N_NEG ? '-' : '+',
                      v.kind == TPL_FLOAT ? tpl_float(-0.0) : tpl_int(0), v);
}

static tpl_val_t
eval_call(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t  fn = eval(c, f, n->a);
    tpl_args_t a = eval_args(c, f, n->list);

    return tpl_call(c, fn, &a);
}

static tpl_val_t
eval_node(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t v;

    switch (n->kind) {
    case TPL_N_CONST:
        return n->v;
    case TPL_N_NAME:
        return frame_get(c, f, n);
    case TPL_N_LIST:
    case TPL_N_TUPLE:
    case TPL_N_DICT:
        return eval_literal(c, f, n);
    case TPL_N_NEG:
    case TPL_N_POS:
        return eval_sign(c, f, n);
    case TPL_N_NOT:
        return tpl_bool(!tpl_truth(eval(c, f, n->a)));
    case TPL_N_AND:
        v = eval(c, f, n->a);
        return tpl_truth(v) ? eval(c, f, n->b) : v;
    case TPL_N_OR:
        v = eval(c, f, n->a);
        return tpl_truth(v) ? v : eval(c, f, n->b);
    case TPL_N_COMPARE:
        return eval_compare(c, f, n);
    case TPL_N_COND:
        if (tpl_truth(eval(c, f, n->b))) {
            return eval(c, f, n->a);
        }
        return n->c != NULL ? eval(c, f, n->c)
                            : tpl_undef("inline if without else", 22);
    case TPL_N_BINARY:
    case TPL_N_FILTER:
    case TPL_N_ATTR:
        return eval_chain(c, f, n);
    case TPL_N_ITEM:
        return eval_item(c, f, n);
    case TPL_N_CALL:
        return eval_call(c, f, n);
    case TPL_N_TEST:
        return eval_func(c, f, n, eval(c, f, n->a));
    default:
        tpl_fail(c, INFER_INVALID, "slice outside a subscript");
    }
}

static tpl_val_t
eval(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t v;

    tpl_step(c);
    if (c->eval_depth >= c->max_depth * TPL_EVAL_DEPTH) {
        tpl_fail(c, INFER_INVALID, "nested too deeply");
    }
    c->eval_depth++;
    c->line = n->line;
    v = eval_node(c, f, n);
    c->eval_depth--;
    return v;
}


/* The items that the loop's condition lets through. */
static tpl_val_t
for_select(tpl_ctx_t *c, tpl_frame_t *up, const tpl_node_t *n,
    tpl_val_t items)
{
    tpl_val_t    r = tpl_new_list(c, TPL_LIST, 0);
    tpl_frame_t *f = frame_new(c, up);

    for (uint32_t i = 0; i < items.u.list->n; i++) {
        eval_assign(c, f, n->a, items.u.list->v[i]);
        if (tpl_truth(eval(c, f, n->c))) {
            tpl_push(c, r, items.u.list->v[i]);
        }
    }

    return r;
}

static int
run_for(tpl_ctx_t *c, tpl_frame_t *up, const tpl_node_t *n)
{
    tpl_val_t   items = tpl_iter(c, eval(c, up, n->b));
    tpl_loop_t *l = tpl_alloc(c, sizeof(tpl_loop_t));
    tpl_val_t   loop = { .kind = TPL_LOOP, .u.loop = l };

    if (n->c != NULL) {
        items = for_select(c, up, n, items);
    }
    if (items.u.list->n == 0) {
        return n->d != NULL ? run_list(c, frame_new(c, up), n->d->list)
                            : RUN_ON;
    }

    l->items = items.u.list;
    l->changed = tpl_undef("", 0);
    for (l->index0 = 0; l->index0 < l->items->n; l->index0++) {
        tpl_frame_t *f = frame_new(c, up);

        tpl_step(c);
        frame_set(c, f, TPL_ID_LOOP, loop);
        eval_assign(c, f, n->a, l->items->v[l->index0]);
        if (run_list(c, f, n->list) == RUN_BREAK) {
            break;
        }
    }
    return RUN_ON;
}

static tpl_val_t
run_filters(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n, tpl_val_t v)
{
    if (n == NULL) {
        return v;
    }

    /* a filter block's chain ends in a NULL instead of an expression */
    tpl_enter(c);
    v = run_filters(c, f, n->a, v);
    tpl_leave(c);
    return eval_func(c, f, n, v);
}

static void
run_set(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    eval_assign(c, f, n->a, eval(c, f, n->b));
}

static void
run_macro(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n, tpl_val_t *v)
{
    tpl_macro_t *m = tpl_alloc(c, sizeof(tpl_macro_t));

    m->node = n;
    m->frame = f;
    *v = (tpl_val_t) { .kind = TPL_MACRO, .u.macro = m };
}

static int
run_call(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t  fn = eval(c, f, n->a->a), caller;
    tpl_args_t a = eval_args(c, f, n->a->list);
    uint32_t   cap = a.n_kw;

    run_macro(c, f, n->b, &caller);
    eval_kwarg(c, &a, &cap, tpl_cstr("caller"), caller);
    tpl_print(c, c->out, tpl_call(c, fn, &a));
    return RUN_ON;
}

static int
run_if(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    for (const tpl_node_t *b = n->list; b != NULL; b = b->next) {
        if (b->a == NULL || tpl_truth(eval(c, f, b->a))) {
            return run_list(c, f, b->list);
        }
    }

    return RUN_ON;
}

static int
run_with(tpl_ctx_t *c, tpl_frame_t *up, const tpl_node_t *n)
{
    tpl_frame_t *f = frame_new(c, up);

    for (const tpl_node_t *s = n->a; s != NULL; s = s->next) {
        frame_set(c, f, s->a->id, eval(c, up, s->b));
    }

    return run_list(c, f, n->list);
}

static int
run_node(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_val_t v;
    int       rc = RUN_ON;

    switch (n->kind) {
    case TPL_N_DATA:
        tpl_put(c, c->out, n->v.u.s, n->v.len);
        return RUN_ON;
    case TPL_N_OUTPUT:
        tpl_print(c, c->out, eval(c, f, n->a));
        return RUN_ON;
    case TPL_N_IF:
        return run_if(c, f, n);
    case TPL_N_FOR:
        return run_for(c, f, n);
    case TPL_N_SET:
        run_set(c, f, n);
        return RUN_ON;
    case TPL_N_SETBLOCK:
        v = run_capture(c, frame_new(c, f), n->list, &rc);
        eval_assign(c, f, n->a, run_filters(c, f, n->b, v));
        return rc;
    case TPL_N_FILTERBLOCK:
        v = run_capture(c, frame_new(c, f), n->list, &rc);
        tpl_print(c, c->out, run_filters(c, f, n->b, v));
        return rc;
    case TPL_N_MACRO:
        run_macro(c, f, n, &v);
        frame_set(c, f, n->id, v);
        return RUN_ON;
    case TPL_N_CALLBLOCK:
        return run_call(c, f, n);
    case TPL_N_WITH:
        return run_with(c, f, n);
    case TPL_N_GROUP:
        return run_list(c, f, n->list);
    case TPL_N_DO:
        (void) eval(c, f, n->a);
        return RUN_ON;
    case TPL_N_BREAK:
        return RUN_BREAK;
    default:
        return RUN_CONTINUE;
    }
}

static int
run_list(tpl_ctx_t *c, tpl_frame_t *f, const tpl_node_t *n)
{
    tpl_enter(c);
    for ( ; n != NULL; n = n->next) {
        int rc;

        tpl_step(c);
        c->line = n->line;
        rc = run_node(c, f, n);
        if (rc != RUN_ON) {
            tpl_leave(c);
            return rc;
        }
    }
    tpl_leave(c);
    return RUN_ON;
}

void
tpl_run(tpl_ctx_t *c, const infer_template_t *tpl)
{
    (void) run_list(c, frame_new(c, NULL), tpl->body);
}
