/*
 * template_value.c: values of the template interpreter: making them, lists,
 * dicts, iteration, equality and order. Arena lifetime: one render.
 */

#include <math.h>

#include "text/template_int.h"


tpl_val_t
tpl_str(const char *s, size_t n)
{
    return (tpl_val_t) { .kind = TPL_STR, .len = (uint32_t) n, .u.s = s };
}

tpl_val_t
tpl_cstr(const char *s)
{
    return tpl_str(s, strlen(s));
}

tpl_val_t
tpl_int(int64_t i)
{
    return (tpl_val_t) { .kind = TPL_INT, .u.i = i };
}

tpl_val_t
tpl_float(double f)
{
    return (tpl_val_t) { .kind = TPL_FLOAT, .u.f = f };
}

tpl_val_t
tpl_bool(int b)
{
    return (tpl_val_t) { .kind = TPL_BOOL, .u.i = b != 0 };
}

tpl_val_t
tpl_none(void)
{
    return (tpl_val_t) { .kind = TPL_NONE };
}

tpl_val_t
tpl_undef(const char *name, size_t n)
{
    return (tpl_val_t) { .kind = TPL_UNDEF, .len = (uint32_t) n,
                         .u.s = name };
}

int
tpl_is_str(tpl_val_t v, const char *s)
{
    size_t n = strlen(s);

    return v.kind == TPL_STR && v.len == n && memcmp(v.u.s, s, n) == 0;
}

int
tpl_is_seq(tpl_val_t v)
{
    return v.kind == TPL_LIST || v.kind == TPL_TUPLE;
}

/* Booleans count as 0 and 1. */
int
tpl_is_num(tpl_val_t v)
{
    return v.kind == TPL_INT || v.kind == TPL_FLOAT || v.kind == TPL_BOOL;
}

double
tpl_num(tpl_val_t v)
{
    return v.kind == TPL_FLOAT ? v.u.f : (double) v.u.i;
}

const char *
tpl_type_name(tpl_val_t v)
{
    static const char *const names[] = {
        "Undefined", "NoneType", "bool", "int", "float", "str", "list",
        "tuple", "dict", "Namespace", "LoopContext", "Macro", "function",
        "method", "object"
    };

    return names[v.kind];
}

int
tpl_truth(tpl_val_t v)
{
    switch (v.kind) {
    case TPL_UNDEF:
    case TPL_NONE:
        return 0;
    case TPL_BOOL:
    case TPL_INT:
        return v.u.i != 0;
    case TPL_FLOAT:
        return v.u.f != 0;
    case TPL_STR:
        return v.len != 0;
    case TPL_LIST:
    case TPL_TUPLE:
        return v.u.list->n != 0;
    case TPL_DICT:
        return v.u.dict->n != 0;
    default:
        return 1;
    }
}

tpl_val_t
tpl_new_list(tpl_ctx_t *c, int kind, uint32_t cap)
{
    tpl_list_t *l = tpl_alloc(c, sizeof(tpl_list_t));

    l->n = 0;
    l->cap = cap;
    l->v = cap != 0 ? tpl_array(c, cap, sizeof(tpl_val_t)) : NULL;
    return (tpl_val_t) { .kind = (uint8_t) kind, .u.list = l };
}

void
tpl_push(tpl_ctx_t *c, tpl_val_t list, tpl_val_t v)
{
    tpl_list_t *l = list.u.list;

    if (l->n == l->cap) {
        uint32_t   cap = l->cap != 0 ? l->cap * 2 : 4;
        tpl_val_t *p = tpl_array(c, cap, sizeof(tpl_val_t));

        if (l->n != 0) {
            memcpy(p, l->v, l->n * sizeof(tpl_val_t));
        }
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

tpl_val_t
tpl_pair(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b)
{
    tpl_val_t t = tpl_new_list(c, TPL_TUPLE, 2);

    tpl_push(c, t, a);
    tpl_push(c, t, b);
    return t;
}


tpl_val_t
tpl_new_dict(tpl_ctx_t *c, uint32_t cap)
{
    tpl_dict_t *d = tpl_alloc(c, sizeof(tpl_dict_t));

    memset(d, 0, sizeof(tpl_dict_t));
    d->cap = cap;
    if (cap != 0) {
        d->keys = tpl_array(c, cap, sizeof(tpl_val_t));
        d->vals = tpl_array(c, cap, sizeof(tpl_val_t));
    }

    return (tpl_val_t) { .kind = TPL_DICT, .u.dict = d };
}

static uint32_t
dict_hash(tpl_ctx_t *c, tpl_val_t k)
{
    uint64_t h = c->seed;

    if (k.kind == TPL_STR) {
        tpl_charge(c, k.len);
        for (uint32_t i = 0; i < k.len; i++) {
            h = (h ^ (unsigned char) k.u.s[i]) * 0x100000001b3u;
        }

    } else if (tpl_is_num(k)) {
        double   f = tpl_num(k) + 0.0;
        uint64_t bits;

        memcpy(&bits, &f, sizeof(bits));
        h ^= bits * 0x9e3779b97f4a7c15u;
    }

    return (uint32_t) (h ^ h >> 32);
}

/* Rebuilds the index for cap entries. */
static void
dict_index(tpl_ctx_t *c, tpl_dict_t *d)
{
    uint32_t size = 32;

    while (size < d->cap * 2) {
        size *= 2;
    }
    d->index = tpl_array(c, size, sizeof(uint32_t));
    d->mask = size - 1;
    memset(d->index, 0, size * sizeof(uint32_t));

    for (uint32_t i = 0; i < d->n; i++) {
        uint32_t h = dict_hash(c, d->keys[i]) & d->mask;

        while (d->index[h] != 0) {
            h = (h + 1) & d->mask;
            tpl_charge(c, TPL_STEP_BYTES / 8);
        }
        d->index[h] = i + 1;
    }
}

static void
dict_check_key(tpl_ctx_t *c, tpl_val_t k)
{
    if (k.kind > TPL_STR && k.kind != TPL_TUPLE) {
        tpl_fail(c, INFER_INVALID, "unhashable type: '%s'", tpl_type_name(k));
    }
}

static int64_t
dict_find(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k)
{
    dict_check_key(c, k);
    if (d->n <= 8) {
        for (uint32_t i = 0; i < d->n; i++) {
            if (tpl_equal(c, d->keys[i], k)) {
                return i;
            }
        }
        return -1;
    }

    if (d->index == NULL) {
        dict_index(c, d);
    }
    for (uint32_t h = dict_hash(c, k) & d->mask; d->index[h] != 0;
         h = (h + 1) & d->mask)
    {
        tpl_charge(c, TPL_STEP_BYTES / 8);
        if (tpl_equal(c, d->keys[d->index[h] - 1], k)) {
            return d->index[h] - 1;
        }
    }

    return -1;
}

tpl_val_t *
tpl_dict_get(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k)
{
    int64_t i = dict_find(c, d, k);

    return i >= 0 ? &d->vals[i] : NULL;
}

/* The caller knows that the key is new. */
void
tpl_dict_add(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k, tpl_val_t v)
{
    if (d->n == d->cap) {
        uint32_t   cap = d->cap != 0 ? d->cap * 2 : 4;
        tpl_val_t *keys = tpl_array(c, cap, sizeof(tpl_val_t));
        tpl_val_t *vals = tpl_array(c, cap, sizeof(tpl_val_t));

        if (d->n != 0) {
            memcpy(keys, d->keys, d->n * sizeof(tpl_val_t));
            memcpy(vals, d->vals, d->n * sizeof(tpl_val_t));
        }
        d->keys = keys;
        d->vals = vals;
        d->cap = cap;
        d->index = NULL;
    }

    d->keys[d->n] = k;
    d->vals[d->n++] = v;
    if (d->index != NULL) {
        uint32_t h = dict_hash(c, k) & d->mask;

        while (d->index[h] != 0) {
            h = (h + 1) & d->mask;
        }
        d->index[h] = d->n;
    }
}

void
tpl_dict_set(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k, tpl_val_t v)
{
    tpl_val_t *old = tpl_dict_get(c, d, k);

    if (old != NULL) {
        *old = v;

    } else {
        tpl_dict_add(c, d, k, v);
    }
}

void
tpl_dict_del(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k)
{
    int64_t i = dict_find(c, d, k);

    if (i >= 0) {
        size_t left = d->n - (size_t) i - 1;

        tpl_charge(c, left * sizeof(tpl_val_t));
        memmove(&d->keys[i], &d->keys[i + 1], left * sizeof(tpl_val_t));
        memmove(&d->vals[i], &d->vals[i + 1], left * sizeof(tpl_val_t));
        d->n--;
        d->index = NULL;
    }
}

/* The items of anything that can be iterated, as a list (the same list where
 * it is one). */
tpl_val_t
tpl_iter(tpl_ctx_t *c, tpl_val_t v)
{
    tpl_val_t l;

    switch (v.kind) {
    case TPL_LIST:
    case TPL_TUPLE:
        return v;

    case TPL_UNDEF:
        return tpl_new_list(c, TPL_LIST, 0);

    case TPL_DICT:
        l = tpl_new_list(c, TPL_LIST, v.u.dict->n);
        for (uint32_t i = 0; i < v.u.dict->n; i++) {
            tpl_push(c, l, v.u.dict->keys[i]);
        }
        return l;

    case TPL_STR:
        l = tpl_new_list(c, TPL_LIST, tpl_utf8_count(c, v));
        for (uint32_t i = 0; i < v.len; ) {
            uint32_t cp, n = tpl_cp(v.u.s + i, v.len - i, &cp);

            tpl_push(c, l, tpl_sub(v, i, n));
            i += n;
        }
        return l;

    default:
        tpl_fail(c, INFER_INVALID, "'%s' object is not iterable",
                 tpl_type_name(v));
    }
}

/* Nesting of values and calls. */
void
tpl_enter(tpl_ctx_t *c)
{
    if (c->depth >= c->max_depth) {
        tpl_fail(c, INFER_INVALID, "nested too deeply");
    }
    c->depth++;
}

void
tpl_leave(tpl_ctx_t *c)
{
    c->depth--;
}

static int
value_equal_dict(tpl_ctx_t *c, tpl_dict_t *a, tpl_dict_t *b)
{
    if (a->n != b->n) {
        return 0;
    }
    for (uint32_t i = 0; i < a->n; i++) {
        tpl_val_t *v = tpl_dict_get(c, b, a->keys[i]);

        if (v == NULL || !tpl_equal(c, a->vals[i], *v)) {
            return 0;
        }
    }

    return 1;
}

static int
value_equal_list(tpl_ctx_t *c, tpl_list_t *a, tpl_list_t *b)
{
    if (a->n != b->n) {
        return 0;
    }
    for (uint32_t i = 0; i < a->n; i++) {
        if (!tpl_equal(c, a->v[i], b->v[i])) {
            return 0;
        }
    }

    return 1;
}

int
tpl_equal(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b)
{
    int r;

    if (tpl_is_num(a) && tpl_is_num(b)) {
        return a.kind == TPL_FLOAT || b.kind == TPL_FLOAT
               ? tpl_num(a) == tpl_num(b) : a.u.i == b.u.i;
    }
    if (a.kind != b.kind) {
        return 0;
    }

    switch (a.kind) {
    case TPL_UNDEF:
    case TPL_NONE:
        return 1;

    case TPL_STR:
        if (a.len != b.len) {
            return 0;
        }
        tpl_charge(c, a.len);
        return a.len == 0 || memcmp(a.u.s, b.u.s, a.len) == 0;

    case TPL_LIST:
    case TPL_TUPLE:
    case TPL_DICT:
        tpl_step(c);
        tpl_enter(c);
        r = a.kind == TPL_DICT ? value_equal_dict(c, a.u.dict, b.u.dict)
                               : value_equal_list(c, a.u.list, b.u.list);
        tpl_leave(c);
        return r;

    default:
        return a.u.list == b.u.list;
    }
}

/* a < b; op names the operator in the message. */
int
tpl_less(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b, const char *op)
{
    if (tpl_is_num(a) && tpl_is_num(b)) {
        return a.kind == TPL_FLOAT || b.kind == TPL_FLOAT
               ? tpl_num(a) < tpl_num(b) : a.u.i < b.u.i;
    }

    /* bytes of UTF-8 sort as code points do */
    if (a.kind == TPL_STR && b.kind == TPL_STR) {
        uint32_t n = a.len < b.len ? a.len : b.len;
        int      r;

        tpl_charge(c, n);
        r = n != 0 ? memcmp(a.u.s, b.u.s, n) : 0;
        return r != 0 ? r < 0 : a.len < b.len;
    }

    if (a.kind == b.kind && tpl_is_seq(a)) {
        uint32_t i = 0, n = a.u.list->n;
        int      r;

        tpl_step(c);
        tpl_enter(c);
        n = n < b.u.list->n ? n : b.u.list->n;
        while (i < n && tpl_equal(c, a.u.list->v[i], b.u.list->v[i])) {
            i++;
        }
        r = i < n ? tpl_less(c, a.u.list->v[i], b.u.list->v[i], op)
                  : a.u.list->n < b.u.list->n;
        tpl_leave(c);
        return r;
    }

    tpl_fail(c, INFER_INVALID,
             "'%s' not supported between instances of '%s' and '%s'", op,
             tpl_type_name(a), tpl_type_name(b));
}

int
tpl_contains(tpl_ctx_t *c, tpl_val_t box, tpl_val_t v)
{
    switch (box.kind) {
    case TPL_UNDEF:
        return 0;

    case TPL_DICT:
        return tpl_dict_get(c, box.u.dict, v) != NULL;

    case TPL_STR:
        if (v.kind != TPL_STR) {
            tpl_fail(c, INFER_INVALID, "'in <string>' requires string as "
                     "left operand, not %s", tpl_type_name(v));
        }
        tpl_charge(c, box.len);
        return v.len == 0
               || memmem(box.u.s, box.len, v.u.s, v.len) != NULL;

    case TPL_LIST:
    case TPL_TUPLE:
        tpl_charge(c, box.u.list->n * sizeof(tpl_val_t));
        for (uint32_t i = 0; i < box.u.list->n; i++) {
            if (tpl_equal(c, box.u.list->v[i], v)) {
                return 1;
            }
        }
        return 0;

    default:
        tpl_fail(c, INFER_INVALID, "argument of type '%s' is not iterable",
                 tpl_type_name(box));
    }
}
