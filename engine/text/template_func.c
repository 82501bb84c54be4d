/*
 * template_func.c: the global functions and the tests (x is defined) of
 * templates.
 */

#include <time.h>

#include "text/template_int.h"


static tpl_val_t
func_range(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    int64_t   from = 0, to, step = 1;
    uint64_t  n;
    tpl_val_t r;

    (void) self;
    if (a->n == 0 || a->n > 3) {
        tpl_fail(c, INFER_INVALID, "range expected 1 to 3 arguments, got %u",
                 a->n);
    }
    to = tpl_arg_int(c, a, a->n > 1, "stop", 0);
    from = a->n > 1 ? tpl_arg_int(c, a, 0, "start", 0) : 0;
    step = a->n > 2 ? tpl_arg_int(c, a, 2, "step", 1) : 1;
    if (step == 0) {
        tpl_fail(c, INFER_INVALID, "range() arg 3 must not be zero");
    }

    if (step > 0 ? from >= to : from <= to) {
        n = 0;

    } else if (step > 0) {
        n = ((uint64_t) to - (uint64_t) from - 1) / (uint64_t) step + 1;

    } else {
        n = ((uint64_t) from - (uint64_t) to - 1) / (0 - (uint64_t) step) + 1;
    }
    if (n > TPL_MAX_RANGE) {
        tpl_fail(c, INFER_INVALID, "range too big, the limit is %d",
                 TPL_MAX_RANGE);
    }

    r = tpl_new_list(c, TPL_LIST, (uint32_t) n);
    for (uint64_t i = 0; i < n; i++) {
        tpl_push(c, r, tpl_int((int64_t) ((uint64_t) from
                                          + i * (uint64_t) step)));
    }

    return r;
}

/* dict(...) and namespace(...): a mapping, pairs, keywords */
static tpl_val_t
func_dict(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    tpl_val_t d = tpl_new_dict(c, 0);

    (void) self;
    if (a->n != 0 && a->pos[0].kind == TPL_DICT) {
        (void) tpl_dict_methods[6].fn(c, d, a);
        return d;
    }
    if (a->n != 0) {
        tpl_val_t l = tpl_iter(c, a->pos[0]);

        for (uint32_t i = 0; i < l.u.list->n; i++) {
            tpl_val_t p = tpl_iter(c, l.u.list->v[i]);

            if (p.u.list->n != 2) {
                tpl_fail(c, INFER_INVALID, "dict() needs pairs");
            }
            tpl_dict_set(c, d.u.dict, p.u.list->v[0], p.u.list->v[1]);
        }
    }
    for (uint32_t i = 0; i < a->n_kw; i++) {
        tpl_dict_set(c, d.u.dict, a->kw[i].name, a->kw[i].v);
    }

    return d;
}

static tpl_val_t
func_namespace(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    tpl_val_t d = func_dict(c, self, a);

    d.kind = TPL_NS;
    return d;
}

static tpl_val_t
func_raise(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    tpl_val_t s = tpl_to_str(c, tpl_arg_need(c, a, 0, "message"));

    (void) self;
    c->rc = infer_err(c->err, INFER_INVALID, "%.*s",
                      (int) (s.len < 500 ? s.len : 500), s.u.s);
    longjmp(c->env, 1);
}

/* UTC: a pure function of now. */
static tpl_val_t
func_strftime_now(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    tpl_val_t f = tpl_arg_need(c, a, 0, "format");
    tpl_buf_t b = { 0 };
    time_t    now = (time_t) c->now;
    struct tm tm;

    (void) self;
    if (f.kind != TPL_STR || gmtime_r(&now, &tm) == NULL) {
        tpl_fail(c, INFER_INVALID, "strftime_now() needs a format");
    }

    for (uint32_t i = 0; i < f.len; i++) {
        char   fmt[4] = "%", t[64];
        size_t k = 1;

        if (f.u.s[i] != '%' || i + 1 == f.len) {
            tpl_put_part(c, &b, f, i, 1);
            continue;
        }
        i++;
        if (f.u.s[i] == '-' && i + 1 < f.len) {
            fmt[k++] = f.u.s[i++];
        }
        fmt[k] = f.u.s[i];
        if (fmt[k] == '\0'
            || strchr("aAbBcdDeFHIjmMpSTuUwWxXyYZz%", fmt[k]) == NULL)
        {
            tpl_fail(c, INFER_UNSUPPORTED, "unknown strftime format");
        }
        tpl_put_as(c, &b, t, strftime(t, sizeof(t), fmt, &tm),
                   tpl_is_client(f, i));
    }

    return tpl_buf_str(&b);
}

static tpl_val_t
func_state(tpl_ctx_t *c, const tpl_args_t *a, int joiner)
{
    tpl_state_t *s = tpl_alloc(c, sizeof(tpl_state_t));
    tpl_val_t    l = tpl_new_list(c, TPL_LIST, 0);

    for (uint32_t i = 0; i < a->n; i++) {
        tpl_push(c, l, a->pos[i]);
    }
    if (a->n == 0) {
        if (!joiner) {
            tpl_fail(c, INFER_INVALID, "at least one item has to be "
                     "provided");
        }
        tpl_push(c, l, tpl_cstr(", "));
    }
    s->items = l.u.list;
    s->pos = 0;
    s->joiner = (uint8_t) joiner;
    return (tpl_val_t) { .kind = TPL_STATE, .u.state = s };
}

static tpl_val_t
func_cycler(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    (void) self;
    return func_state(c, a, 0);
}

static tpl_val_t
func_joiner(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    (void) self;
    return func_state(c, a, 1);
}

const tpl_func_t tpl_functions[] = {
    { "range", func_range },
    { "dict", func_dict },
    { "namespace", func_namespace },
    { "raise_exception", func_raise },
    { "strftime_now", func_strftime_now },
    { "cycler", func_cycler },
    { "joiner", func_joiner },
    { NULL, NULL }
};

static tpl_val_t
state_next(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    tpl_state_t *s = self.u.state;
    tpl_val_t    v;

    (void) c;
    (void) a;
    if (s->joiner) {
        return s->pos++ == 0 ? tpl_cstr("") : s->items->v[0];
    }
    v = s->items->v[s->pos];
    s->pos = (s->pos + 1) % s->items->n;
    return v;
}

static tpl_val_t
state_reset(tpl_ctx_t *c, tpl_val_t self, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    self.u.state->pos = 0;
    return tpl_none();
}

/* The first one is what calling the object does. */
const tpl_func_t tpl_state_methods[] = {
    { "next", state_next },
    { "reset", state_reset },
    { NULL, NULL }
};


/* Tests of the kind alone: name -> set of kinds */
#define TEST_KIND(k)  (1u << (k))

static tpl_val_t
test_kinds(tpl_val_t v, uint32_t set)
{
    return tpl_bool((set >> v.kind & 1) != 0);
}

static tpl_val_t
test_defined(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind != TPL_UNDEF);
}

static tpl_val_t
test_undefined(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_UNDEF);
}

static tpl_val_t
test_none(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_NONE);
}

static tpl_val_t
test_boolean(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_BOOL);
}

static tpl_val_t
test_true(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_BOOL && v.u.i);
}

static tpl_val_t
test_false(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_BOOL && !v.u.i);
}

static tpl_val_t
test_integer(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_INT);
}

static tpl_val_t
test_float(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_FLOAT);
}

static tpl_val_t
test_number(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(tpl_is_num(v));
}

static tpl_val_t
test_string(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_STR);
}

static tpl_val_t
test_mapping(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(v.kind == TPL_DICT);
}

static tpl_val_t
test_sequence(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return test_kinds(v, TEST_KIND(TPL_UNDEF) | TEST_KIND(TPL_STR)
                         | TEST_KIND(TPL_LIST) | TEST_KIND(TPL_TUPLE)
                         | TEST_KIND(TPL_DICT));
}

static tpl_val_t
test_callable(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return test_kinds(v, TEST_KIND(TPL_MACRO) | TEST_KIND(TPL_FUNC)
                         | TEST_KIND(TPL_METHOD) | TEST_KIND(TPL_UNDEF));
}

static tpl_val_t
test_eq(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_bool(tpl_compare(c, TPL_OP_EQ, v,
                                tpl_arg_need(c, a, 0, "other")));
}

static tpl_val_t
test_ne(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_bool(tpl_compare(c, TPL_OP_NE, v,
                                tpl_arg_need(c, a, 0, "other")));
}

static tpl_val_t
test_lt(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_bool(tpl_compare(c, '<', v, tpl_arg_need(c, a, 0, "other")));
}

static tpl_val_t
test_le(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_bool(tpl_compare(c, TPL_OP_LE, v,
                                tpl_arg_need(c, a, 0, "other")));
}

static tpl_val_t
test_gt(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_bool(tpl_compare(c, '>', v, tpl_arg_need(c, a, 0, "other")));
}

static tpl_val_t
test_ge(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_bool(tpl_compare(c, TPL_OP_GE, v,
                                tpl_arg_need(c, a, 0, "other")));
}

static tpl_val_t
test_in(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_bool(tpl_contains(c, tpl_arg_need(c, a, 0, "seq"), v));
}

static tpl_val_t
test_sameas(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_val_t o = tpl_arg_need(c, a, 0, "other");

    if (v.kind != o.kind) {
        return tpl_bool(0);
    }

    return tpl_bool(v.kind == TPL_LIST || v.kind == TPL_DICT
                    ? v.u.list == o.u.list : tpl_equal(c, v, o));
}

static tpl_val_t
test_modulo(tpl_ctx_t *c, tpl_val_t v, tpl_val_t by, int64_t want)
{
    v = tpl_binary(c, '%', v, by);
    return tpl_bool(tpl_equal(c, v, tpl_int(want)));
}

static tpl_val_t
test_odd(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return test_modulo(c, v, tpl_int(2), 1);
}

static tpl_val_t
test_even(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return test_modulo(c, v, tpl_int(2), 0);
}

static tpl_val_t
test_divisibleby(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return test_modulo(c, v, tpl_arg_need(c, a, 0, "num"), 0);
}

static tpl_val_t
test_lower(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return tpl_call(c, tpl_attr(c, tpl_to_str(c, v), tpl_cstr("islower")),
                    &(tpl_args_t) { 0 });
}

static tpl_val_t
test_upper(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return tpl_call(c, tpl_attr(c, tpl_to_str(c, v), tpl_cstr("isupper")),
                    &(tpl_args_t) { 0 });
}

static tpl_val_t
test_filter(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(tpl_find(tpl_filters, v) != NULL);
}

static tpl_val_t
test_test(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) c;
    (void) a;
    return tpl_bool(tpl_find(tpl_tests, v) != NULL);
}

const tpl_func_t tpl_tests[] = {
    { "defined", test_defined },
    { "undefined", test_undefined },
    { "none", test_none },
    { "None", test_none },
    { "boolean", test_boolean },
    { "true", test_true },
    { "True", test_true },
    { "false", test_false },
    { "False", test_false },
    { "integer", test_integer },
    { "float", test_float },
    { "number", test_number },
    { "string", test_string },
    { "mapping", test_mapping },
    { "iterable", test_sequence },
    { "sequence", test_sequence },
    { "callable", test_callable },
    { "eq", test_eq },
    { "equalto", test_eq },
    { "==", test_eq },
    { "ne", test_ne },
    { "!=", test_ne },
    { "lt", test_lt },
    { "lessthan", test_lt },
    { "<", test_lt },
    { "le", test_le },
    { "<=", test_le },
    { "gt", test_gt },
    { "greaterthan", test_gt },
    { ">", test_gt },
    { "ge", test_ge },
    { ">=", test_ge },
    { "in", test_in },
    { "sameas", test_sameas },
    { "odd", test_odd },
    { "even", test_even },
    { "divisibleby", test_divisibleby },
    { "lower", test_lower },
    { "upper", test_upper },
    { "filter", test_filter },
    { "test", test_test },
    { NULL, NULL }
};
