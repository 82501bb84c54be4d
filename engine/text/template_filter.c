/*
 * template_filter.c: the filters of one value: text, numbers, JSON. Filters
 * over sequences are in template_seq.c; one table holds both.
 */

#include <math.h>

#include "text/template_int.h"
#include "text/template_seq.h"


static tpl_val_t
filter_default(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    const tpl_val_t *d = tpl_arg(a, 0, "default_value");

    (void) c;
    if (v.kind == TPL_UNDEF
        || (tpl_arg_true(a, 1, "boolean", 0) && !tpl_truth(v)))
    {
        return d != NULL ? *d : tpl_cstr("");
    }

    return v;
}

static tpl_val_t
filter_trim(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_strip(c, tpl_to_str(c, v), tpl_arg(a, 0, "chars"), 3);
}

static tpl_val_t
filter_upper(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return tpl_map_case(c, tpl_to_str(c, v), 1);
}

static tpl_val_t
filter_lower(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return tpl_map_case(c, tpl_to_str(c, v), 0);
}

/* Words start after white space and - ( { [ < */
static tpl_val_t
filter_title(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_val_t s = tpl_to_str(c, v);
    tpl_buf_t b = { 0 };
    int       in = 0;

    (void) a;
    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, n = tpl_cp(s.u.s + i, s.len - i, &cp);

        tpl_put_cp(c, &b, in ? tpl_to_lower(cp) : tpl_to_upper(cp),
                   tpl_is_client(s, i));
        in = !tpl_is_space(cp)
             && !(cp != 0 && cp < 128 && strchr("-({[<", (int) cp) != NULL);
        i += n;
    }

    return tpl_buf_str(&b);
}

static tpl_val_t
filter_capitalize(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return tpl_capitalize(c, tpl_to_str(c, v));
}

static tpl_val_t
filter_string(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return tpl_to_str(c, v);
}

static tpl_val_t
filter_replace(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return tpl_replace(c, tpl_to_str(c, v),
                       tpl_to_str(c, tpl_arg_need(c, a, 0, "old")),
                       tpl_to_str(c, tpl_arg_need(c, a, 1, "new")),
                       tpl_arg_int(c, a, 2, "count", -1));
}

static tpl_val_t
filter_escape(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    static const char        from[] = "&<>\"'";
    static const char *const to[] = { "&amp;", "&lt;", "&gt;", "&#34;",
                                      "&#39;" };
    tpl_val_t                s = tpl_to_str(c, v);
    tpl_buf_t                b = { 0 };

    (void) a;
    for (uint32_t i = 0; i < s.len; i++) {
        const char *p = s.u.s[i] != '\0' ? strchr(from, s.u.s[i]) : NULL;

        if (p == NULL) {
            tpl_put_part(c, &b, s, i, 1);

        } else {
            tpl_put_as(c, &b, to[p - from], strlen(to[p - from]),
                       tpl_is_client(s, i));
        }
    }

    return tpl_buf_str(&b);
}

static tpl_val_t
filter_safe(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return tpl_to_str(c, v);
}

/* A number in text; 1: integer in *i, 2: float in *f, 0: none */
static int
filter_parse(tpl_ctx_t *c, tpl_val_t s, int base, int64_t *i, double *f)
{
    char  t[64], *end;
    char *p = t;

    s = tpl_strip(c, s, NULL, 3);
    if (s.len == 0 || s.len >= sizeof(t)
        || memchr(s.u.s, 'x', s.len) != NULL
        || memchr(s.u.s, 'X', s.len) != NULL)
    {
        if (base != 16 || s.len == 0 || s.len >= sizeof(t)) {
            return 0;
        }
    }
    for (uint32_t k = 0; k < s.len; k++) {
        if (s.u.s[k] != '_') {
            *p++ = s.u.s[k];
        }
    }
    *p = '\0';

    *i = strtoll(t, &end, base);
    if (end != t && *end == '\0') {
        return 1;
    }
    *f = strtod(t, &end);
    return end != t && *end == '\0' ? 2 : 0;
}

static int64_t
filter_trunc(double f, int64_t dflt)
{
    return f > -9.2e18 && f < 9.2e18 ? (int64_t) f : dflt;
}

static tpl_val_t
filter_int(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    int64_t dflt = tpl_arg_int(c, a, 0, "default", 0), i = 0;
    int64_t base = tpl_arg_int(c, a, 1, "base", 10);
    double  f = 0;

    if (v.kind == TPL_INT || v.kind == TPL_BOOL) {
        return tpl_int(v.u.i);
    }
    if (v.kind == TPL_FLOAT) {
        return tpl_int(filter_trunc(v.u.f, dflt));
    }
    if (v.kind == TPL_STR && base >= 2 && base <= 36) {
        switch (filter_parse(c, v, (int) base, &i, &f)) {
        case 1:
            return tpl_int(i);
        case 2:
            return tpl_int(filter_trunc(f, dflt));
        default:
            break;
        }
    }

    return tpl_int(dflt);
}

static tpl_val_t
filter_float(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    const tpl_val_t *d = tpl_arg(a, 0, "default");
    int64_t          i = 0;
    double           f = 0;
    int              k;

    if (tpl_is_num(v)) {
        return tpl_float(tpl_num(v));
    }
    k = v.kind == TPL_STR ? filter_parse(c, v, 10, &i, &f) : 0;
    if (k != 0) {
        return tpl_float(k == 1 ? (double) i : f);
    }

    return d != NULL ? *d : tpl_float(0);
}

static tpl_val_t
filter_abs(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    if (!tpl_is_num(v)) {
        tpl_fail(c, INFER_INVALID, "bad operand type for abs(): '%s'",
                 tpl_type_name(v));
    }
    if (v.kind == TPL_FLOAT) {
        return tpl_float(fabs(v.u.f));
    }

    return v.u.i < 0 ? tpl_binary(c, '-', tpl_int(0), v) : tpl_int(v.u.i);
}

/* Decimal rounding, half to even on the exact value, as Python's round() */
static tpl_val_t
filter_round(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    int64_t          prec = tpl_arg_int(c, a, 0, "precision", 0);
    const tpl_val_t *m = tpl_arg(a, 1, "method");
    char             t[400];
    double           f, p;

    if (!tpl_is_num(v) || prec < -300 || prec > 300) {
        tpl_fail(c, INFER_INVALID, "round() needs a number");
    }
    if (v.kind != TPL_FLOAT && prec >= 0 && m == NULL) {
        return tpl_int(v.u.i);
    }
    f = tpl_num(v);
    p = pow(10, (double) prec);
    if (m != NULL && tpl_is_str(*m, "ceil")) {
        return tpl_float(ceil(f * p) / p);
    }
    if (m != NULL && tpl_is_str(*m, "floor")) {
        return tpl_float(floor(f * p) / p);
    }
    if (m != NULL && !tpl_is_str(*m, "common")) {
        tpl_fail(c, INFER_INVALID, "method must be common, ceil or floor");
    }
    if (prec < 0 || fabs(f) > 1e15 || prec > 20) {
        return tpl_float(prec < 0 ? nearbyint(f * p) / p : f);
    }
    (void) snprintf(t, sizeof(t), "%.*f", (int) prec, f);
    return tpl_float(strtod(t, NULL));
}

static tpl_val_t
filter_tojson(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    const tpl_val_t *indent = tpl_arg(a, UINT32_MAX, "indent");
    int64_t          n = -1;
    tpl_buf_t        b = { 0 };

    if (a->n == 1) {
        /* Jinja's own filter takes the indent first, others by name */
        indent = &a->pos[0];
    }
    if (indent != NULL && (indent->kind == TPL_INT
                           || indent->kind == TPL_STR))
    {
        n = indent->kind == TPL_INT ? indent->u.i : indent->len;
        n = n < 0 ? 0 : n > 64 ? 64 : n;
    }
    if (tpl_arg(a, UINT32_MAX, "separators") != NULL) {
        tpl_fail(c, INFER_UNSUPPORTED, "tojson(separators=) is not "
                 "supported");
    }

    tpl_json(c, &b, v, (int) n, 0, tpl_arg_true(a, UINT32_MAX, "sort_keys", 0),
             tpl_arg_true(a, UINT32_MAX, "ensure_ascii", 0));
    return tpl_buf_str(&b);
}

static tpl_val_t
filter_indent(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    const tpl_val_t *w = tpl_arg(a, 0, "width");
    int              first = tpl_arg_true(a, 1, "first", 0);
    int              blank = tpl_arg_true(a, 2, "blank", 0);
    tpl_val_t        pad = tpl_cstr("    "), s, lines;
    tpl_buf_t        b = { 0 };

    if (w != NULL) {
        pad = w->kind == TPL_STR ? *w
              : tpl_binary(c, '*', tpl_cstr(" "), *w);
    }

    /* a newline more, so that one at the end is kept */
    s = tpl_binary(c, '~', v, tpl_cstr("\n"));
    lines = tpl_lines(c, s);
    for (uint32_t i = 0; i < lines.u.list->n; i++) {
        tpl_val_t l = lines.u.list->v[i];

        if (i != 0) {
            tpl_put(c, &b, "\n", 1);
        }
        if (i == 0 ? first : blank || l.len != 0) {
            tpl_put_str(c, &b, pad);
        }
        tpl_put_str(c, &b, l);
    }

    return tpl_buf_str(&b);
}

static tpl_val_t
filter_format(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_val_t t = tpl_new_list(c, TPL_TUPLE, a->n);

    for (uint32_t i = 0; i < a->n; i++) {
        tpl_push(c, t, a->pos[i]);
    }

    return tpl_format(c, tpl_to_str(c, v), t);
}

static tpl_val_t
filter_attr(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_val_t name = tpl_to_str(c, tpl_arg_need(c, a, 0, "name"));

    /* attributes only, never the members of a mapping */
    return v.kind == TPL_DICT && tpl_find(tpl_dict_methods, name) == NULL
           ? tpl_undef(name.u.s, name.len) : tpl_attr(c, v, name);
}

static tpl_val_t
filter_wordcount(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_val_t s = tpl_to_str(c, v);
    int64_t   n = 0;
    int       in = 0;

    (void) a;
    tpl_charge(c, s.len);
    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, k = tpl_cp(s.u.s + i, s.len - i, &cp);

        int      word = tpl_is_alpha(cp) || cp == '_'
                        || (cp >= '0' && cp <= '9');

        n += word && !in;
        in = word;
        i += k;
    }

    return tpl_int(n);
}

const tpl_func_t tpl_filters[] = {
    { "default", filter_default },
    { "d", filter_default },
    { "trim", filter_trim },
    { "upper", filter_upper },
    { "lower", filter_lower },
    { "title", filter_title },
    { "capitalize", filter_capitalize },
    { "string", filter_string },
    { "replace", filter_replace },
    { "escape", filter_escape },
    { "e", filter_escape },
    { "forceescape", filter_escape },
    { "safe", filter_safe },
    { "int", filter_int },
    { "float", filter_float },
    { "abs", filter_abs },
    { "round", filter_round },
    { "tojson", filter_tojson },
    { "indent", filter_indent },
    { "format", filter_format },
    { "attr", filter_attr },
    { "wordcount", filter_wordcount },
    { "length", tpl_seq_length },
    { "count", tpl_seq_length },
    { "join", tpl_seq_join },
    { "first", tpl_seq_first },
    { "last", tpl_seq_last },
    { "list", tpl_seq_list },
    { "map", tpl_seq_map },
    { "select", tpl_seq_select },
    { "reject", tpl_seq_reject },
    { "selectattr", tpl_seq_selectattr },
    { "rejectattr", tpl_seq_rejectattr },
    { "reverse", tpl_seq_reverse },
    { "sort", tpl_seq_sort },
    { "unique", tpl_seq_unique },
    { "items", tpl_seq_items },
    { "dictsort", tpl_seq_dictsort },
    { "min", tpl_seq_min },
    { "max", tpl_seq_max },
    { "sum", tpl_seq_sum },
    { "batch", tpl_seq_batch },
    { "slice", tpl_seq_slice },
    { "groupby", tpl_seq_groupby },
    { NULL, NULL }
};
