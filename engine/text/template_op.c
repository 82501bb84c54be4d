/*
 * template_op.c: operators, attributes and subscripts of the template
 * interpreter, with Python's rules.
 */

#include <math.h>

#include "text/template_int.h"


static void
op_undefined(tpl_ctx_t *c, tpl_val_t v)
{
    tpl_fail(c, INFER_INVALID, "'%.*s' is undefined",
             (int) (v.len < 100 ? v.len : 100), v.u.s);
}

static tpl_val_t
op_power(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b)
{
    if (a.kind == TPL_FLOAT || b.kind == TPL_FLOAT || b.u.i < 0) {
        return tpl_float(pow(tpl_num(a), tpl_num(b)));
    }

    int64_t r = 1, base = a.u.i;
    int     over = 0;

    for (uint64_t e = (uint64_t) b.u.i; e != 0; e >>= 1) {
        if (e & 1) {
            over |= __builtin_mul_overflow(r, base, &r);
        }
        if (e > 1) {
            over |= __builtin_mul_overflow(base, base, &base);
        }
        if (over) {
            tpl_fail(c, INFER_INVALID, "integer overflow");
        }
    }

    return tpl_int(r);
}

static tpl_val_t
op_divide(tpl_ctx_t *c, int op, tpl_val_t a, tpl_val_t b)
{
    if (tpl_num(b) == 0) {
        tpl_fail(c, INFER_INVALID, "division by zero");
    }
    if (op == '/') {
        return tpl_float(tpl_num(a) / tpl_num(b));
    }

    if (a.kind == TPL_FLOAT || b.kind == TPL_FLOAT) {
        double x = tpl_num(a), y = tpl_num(b), m;

        if (op == TPL_OP_FLOOR) {
            return tpl_float(floor(x / y));
        }
        m = fmod(x, y);
        return tpl_float(m != 0 && (m < 0) != (y < 0) ? m + y : m);
    }

    if (a.u.i == INT64_MIN && b.u.i == -1) {
        tpl_fail(c, INFER_INVALID, "integer overflow");
    }

    int64_t q = a.u.i / b.u.i, m = a.u.i % b.u.i;

    if (m != 0 && (m < 0) != (b.u.i < 0)) {
        q--;
        m += b.u.i;
    }

    return tpl_int(op == '%' ? m : q);
}

static tpl_val_t
op_number(tpl_ctx_t *c, int op, tpl_val_t a, tpl_val_t b)
{
    int64_t r = 0;
    int     over;

    switch (op) {
    case '/':
    case TPL_OP_FLOOR:
    case '%':
        return op_divide(c, op, a, b);
    case TPL_OP_POW:
        return op_power(c, a, b);
    default:
        break;
    }

    if (a.kind == TPL_FLOAT || b.kind == TPL_FLOAT) {
        double x = tpl_num(a), y = tpl_num(b);

        return tpl_float(op == '+' ? x + y : op == '-' ? x - y : x * y);
    }
    over = op == '+' ? __builtin_add_overflow(a.u.i, b.u.i, &r)
         : op == '-' ? __builtin_sub_overflow(a.u.i, b.u.i, &r)
                     : __builtin_mul_overflow(a.u.i, b.u.i, &r);
    if (over) {
        tpl_fail(c, INFER_INVALID, "integer overflow");
    }

    return tpl_int(r);
}

static tpl_val_t
op_concat(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b)
{
    size_t n = (size_t) a.len + b.len;
    char  *p;

    if (n > c->max_output) {
        tpl_fail(c, INFER_INVALID, "a string is too long");
    }
    if (a.len == 0 || b.len == 0) {
        return a.len == 0 ? b : a;
    }
    p = tpl_alloc(c, n);
    memcpy(p, a.u.s, a.len);
    memcpy(p + a.len, b.u.s, b.len);

    tpl_val_t r = tpl_str(p, n);

    r.flag = a.flag;
    if (a.flag != b.flag || a.flag == TPL_MIXED) {
        uint8_t *client = tpl_alloc(c, n);

        tpl_copy_client(client, a);
        tpl_copy_client(client + a.len, b);
        r.flag = TPL_MIXED;
        r.client = client;
    }

    return r;
}

static tpl_val_t
op_repeat_str(tpl_ctx_t *c, tpl_val_t a, uint64_t times)
{
    tpl_val_t  r = a;
    char      *p;
    uint8_t   *client;

    if (a.len != 0 && times > c->max_output / a.len) {
        tpl_fail(c, INFER_INVALID, "a string is too long");
    }
    if (a.len == 0) {
        return a;
    }
    r.len = (uint32_t) (a.len * times);
    r.u.s = p = tpl_alloc(c, r.len);
    for (uint64_t i = 0; i < times; i++) {
        memcpy(p + i * a.len, a.u.s, a.len);
    }
    if (a.flag == TPL_MIXED) {
        r.client = client = tpl_alloc(c, r.len);
        for (uint64_t i = 0; i < times; i++) {
            tpl_copy_client(client + i * a.len, a);
        }
    }

    return r;
}

static tpl_val_t
op_repeat(tpl_ctx_t *c, tpl_val_t a, int64_t times)
{
    tpl_val_t r;

    times = times < 0 ? 0 : times;
    if (a.kind == TPL_STR) {
        return op_repeat_str(c, a, (uint64_t) times);
    }

    if (a.u.list->n != 0
        && (uint64_t) times > c->cap / sizeof(tpl_val_t) / a.u.list->n)
    {
        tpl_fail(c, INFER_INVALID, "a list is too long");
    }
    r = tpl_new_list(c, a.kind, a.u.list->n * (uint32_t) times);
    for (int64_t i = 0; a.u.list->n != 0 && i < times; i++) {
        for (uint32_t k = 0; k < a.u.list->n; k++) {
            tpl_push(c, r, a.u.list->v[k]);
        }
    }

    return r;
}

tpl_val_t
tpl_binary(tpl_ctx_t *c, int op, tpl_val_t a, tpl_val_t b)
{
    if (op == '~') {
        return op_concat(c, tpl_to_str(c, a), tpl_to_str(c, b));
    }
    if (a.kind == TPL_UNDEF || b.kind == TPL_UNDEF) {
        op_undefined(c, a.kind == TPL_UNDEF ? a : b);
    }
    if (tpl_is_num(a) && tpl_is_num(b)) {
        return op_number(c, op, a, b);
    }

    if (op == '+' && a.kind == b.kind && a.kind == TPL_STR) {
        return op_concat(c, a, b);
    }
    if (op == '+' && a.kind == b.kind && tpl_is_seq(a)) {
        tpl_val_t r = tpl_new_list(c, a.kind, 0);

        for (uint32_t i = 0; i < a.u.list->n; i++) {
            tpl_push(c, r, a.u.list->v[i]);
        }
        for (uint32_t i = 0; i < b.u.list->n; i++) {
            tpl_push(c, r, b.u.list->v[i]);
        }
        return r;
    }
    if (op == '*' && (a.kind == TPL_STR || tpl_is_seq(a))
        && (b.kind == TPL_INT || b.kind == TPL_BOOL))
    {
        return op_repeat(c, a, b.u.i);
    }
    if (op == '*' && (b.kind == TPL_STR || tpl_is_seq(b))
        && (a.kind == TPL_INT || a.kind == TPL_BOOL))
    {
        return op_repeat(c, b, a.u.i);
    }
    if (op == '%' && a.kind == TPL_STR) {
        return tpl_format(c, a, b);
    }

    tpl_fail(c, INFER_INVALID, "unsupported operand types for '%s': '%s' and "
             "'%s'", op == TPL_OP_FLOOR ? "//" : op == TPL_OP_POW ? "**"
             : (char[2]) { (char) op, 0 }, tpl_type_name(a),
             tpl_type_name(b));
}

int
tpl_compare(tpl_ctx_t *c, int op, tpl_val_t a, tpl_val_t b)
{
    switch (op) {
    case TPL_OP_EQ:
        return tpl_equal(c, a, b);
    case TPL_OP_NE:
        return !tpl_equal(c, a, b);
    case TPL_OP_IN:
        return tpl_contains(c, b, a);
    case TPL_OP_NOT_IN:
        return !tpl_contains(c, b, a);
    default:
        break;
    }

    if (a.kind == TPL_UNDEF || b.kind == TPL_UNDEF) {
        op_undefined(c, a.kind == TPL_UNDEF ? a : b);
    }
    switch (op) {
    case '<':
        return tpl_less(c, a, b, "<");
    case '>':
        return tpl_less(c, b, a, ">");
    case TPL_OP_LE:
        return tpl_less(c, a, b, "<=") || tpl_equal(c, a, b);
    default:
        return tpl_less(c, b, a, ">=") || tpl_equal(c, a, b);
    }
}


static tpl_val_t
op_method(tpl_ctx_t *c, tpl_val_t o, tpl_val_t name)
{
    const tpl_func_t *table = NULL, *f;

    switch (o.kind) {
    case TPL_STR:
        table = tpl_str_methods;
        break;
    case TPL_LIST:
    case TPL_TUPLE:
        table = tpl_list_methods;
        break;
    case TPL_DICT:
        table = tpl_dict_methods;
        break;
    case TPL_LOOP:
        table = tpl_loop_methods;
        break;
    case TPL_STATE:
        table = tpl_state_methods;
        break;
    default:
        break;
    }

    f = table != NULL ? tpl_find(table, name) : NULL;
    if (f == NULL) {
        return tpl_undef(name.u.s, name.len);
    }

    tpl_method_t *m = tpl_alloc(c, sizeof(tpl_method_t));

    m->self = o;
    m->func = f;
    return (tpl_val_t) { .kind = TPL_METHOD, .u.method = m };
}

static tpl_val_t
op_loop_attr(tpl_ctx_t *c, tpl_val_t o, tpl_val_t name)
{
    tpl_loop_t *l = o.u.loop;
    uint32_t    n = l->items->n;

    static const char *const names[] = {
        "index", "index0", "revindex", "revindex0", "first", "last",
        "length", "depth", "depth0", "previtem", "nextitem"
    };
    size_t k = 0;

    while (k < sizeof(names) / sizeof(names[0])
           && !tpl_is_str(name, names[k]))
    {
        k++;
    }
    switch (k) {
    case 0:
        return tpl_int((int64_t) l->index0 + 1);
    case 1:
        return tpl_int(l->index0);
    case 2:
        return tpl_int((int64_t) n - l->index0);
    case 3:
        return tpl_int((int64_t) n - l->index0 - 1);
    case 4:
        return tpl_bool(l->index0 == 0);
    case 5:
        return tpl_bool(l->index0 + 1 >= n);
    case 6:
        return tpl_int(n);
    case 7:
        return tpl_int(1);      /* counts recursive loops only */
    case 8:
        return tpl_int(0);
    case 9:
        return l->index0 != 0 && l->index0 <= n
               ? l->items->v[l->index0 - 1]
               : tpl_undef("there is no previous item", 25);
    case 10:
        return l->index0 + 1 < n ? l->items->v[l->index0 + 1]
                                 : tpl_undef("there is no next item", 21);
    default:
        return op_method(c, o, name);
    }
}

/* o.name: methods first, then members */
tpl_val_t
tpl_attr(tpl_ctx_t *c, tpl_val_t o, tpl_val_t name)
{
    tpl_val_t  r, *p;

    switch (o.kind) {
    case TPL_UNDEF:
        op_undefined(c, o);
        break;

    case TPL_LOOP:
        return op_loop_attr(c, o, name);

    case TPL_NS:
        p = tpl_dict_get(c, o.u.dict, name);
        return p != NULL ? *p : tpl_undef(name.u.s, name.len);

    case TPL_TUPLE:
        if (o.flag && o.u.list->n == 2
            && (tpl_is_str(name, "grouper") || tpl_is_str(name, "list")))
        {
            return o.u.list->v[name.len == 4];
        }
        break;

    case TPL_MACRO:
        if (tpl_is_str(name, "name")) {
            return o.u.macro->node->v;
        }
        break;

    default:
        break;
    }

    r = op_method(c, o, name);
    if (r.kind == TPL_UNDEF && o.kind == TPL_DICT) {
        p = tpl_dict_get(c, o.u.dict, name);
        r = p != NULL ? *p : r;
    }

    return r;
}

/* o[key]: members first, then methods */
tpl_val_t
tpl_item(tpl_ctx_t *c, tpl_val_t o, tpl_val_t key)
{
    int64_t i, n;

    if (o.kind == TPL_UNDEF) {
        op_undefined(c, o);
    }
    if (o.kind == TPL_DICT
        && (key.kind <= TPL_STR || key.kind == TPL_TUPLE))
    {
        tpl_val_t *p = tpl_dict_get(c, o.u.dict, key);

        if (p != NULL) {
            return *p;
        }
    }
    if (key.kind == TPL_STR) {
        return o.kind == TPL_DICT ? op_method(c, o, key)
                                  : tpl_attr(c, o, key);
    }

    if ((key.kind == TPL_INT || key.kind == TPL_BOOL)
        && (tpl_is_seq(o) || o.kind == TPL_STR))
    {
        n = o.kind == TPL_STR ? tpl_utf8_count(c, o) : o.u.list->n;
        i = key.u.i < 0 ? key.u.i + n : key.u.i;
        if (i >= 0 && i < n) {
            return o.kind == TPL_STR
                   ? tpl_slice(c, o, tpl_int(i), tpl_int(i + 1), tpl_none())
                   : o.u.list->v[i];
        }
    }

    return tpl_undef("item", 4);
}

static int64_t
op_bound(tpl_ctx_t *c, tpl_val_t v, int64_t dflt, int64_t n, int64_t low,
    int64_t high)
{
    int64_t i;

    if (v.kind == TPL_NONE) {
        return dflt;
    }
    if (v.kind != TPL_INT && v.kind != TPL_BOOL) {
        tpl_fail(c, INFER_INVALID, "slice indices must be integers or None");
    }
    i = v.u.i < 0 ? v.u.i + n : v.u.i;
    return i < low ? low : i > high ? high : i;
}

/* o[from:to:step]; NONE where nothing stands */
tpl_val_t
tpl_slice(tpl_ctx_t *c, tpl_val_t o, tpl_val_t from, tpl_val_t to,
    tpl_val_t step)
{
    int64_t   n, s, a, b;
    tpl_val_t r;

    if (o.kind == TPL_UNDEF) {
        op_undefined(c, o);
    }
    if (o.kind != TPL_STR && !tpl_is_seq(o)) {
        tpl_fail(c, INFER_INVALID, "'%s' object cannot be sliced",
                 tpl_type_name(o));
    }
    if (step.kind != TPL_NONE && step.kind != TPL_INT) {
        tpl_fail(c, INFER_INVALID, "slice indices must be integers or None");
    }
    s = step.kind == TPL_INT ? step.u.i : 1;
    if (s == 0) {
        tpl_fail(c, INFER_INVALID, "slice step cannot be zero");
    }

    n = o.kind == TPL_STR ? tpl_utf8_count(c, o) : o.u.list->n;
    a = op_bound(c, from, s > 0 ? 0 : n - 1, n, s > 0 ? 0 : -1,
                 s > 0 ? n : n - 1);
    b = op_bound(c, to, s > 0 ? n : -1, n, s > 0 ? 0 : -1,
                 s > 0 ? n : n - 1);
    s = s > n ? n + 1 : s < -n ? -n - 1 : s;

    if (o.kind == TPL_STR && s == 1) {
        uint32_t i = 0, k;

        b = b < a ? a : b;
        for ( ; a > 0; a--, b--) {
            i += tpl_cp(o.u.s + i, o.len - i, &k);
        }
        uint32_t e = i;

        for ( ; b > 0; b--) {
            e += tpl_cp(o.u.s + e, o.len - e, &k);
        }
        return tpl_sub(o, i, e - i);
    }

    tpl_val_t src = tpl_iter(c, o);

    r = tpl_new_list(c, o.kind == TPL_STR ? TPL_LIST : o.kind, 0);
    for ( ; s > 0 ? a < b : a > b; a += s) {
        tpl_push(c, r, src.u.list->v[a]);
    }

    return o.kind == TPL_STR ? tpl_join(c, tpl_cstr(""), r) : r;
}

/* "a.b.0" of attribute= arguments; an integer is an index */
tpl_val_t
tpl_path(tpl_ctx_t *c, tpl_val_t o, tpl_val_t path)
{
    if (path.kind != TPL_STR) {
        return tpl_item(c, o, path);
    }

    for (uint32_t i = 0; i <= path.len; ) {
        uint32_t e = i;
        int      digits = 1;
        int64_t  v = 0;

        while (e < path.len && path.u.s[e] != '.') {
            char ch = path.u.s[e++];

            digits &= ch >= '0' && ch <= '9' && v < 100000000;
            v = digits ? v * 10 + (ch - '0') : v;
        }
        o = tpl_item(c, o, digits && e > i ? tpl_int(v)
                                           : tpl_str(path.u.s + i, e - i));
        i = e + 1;
    }

    return o;
}
