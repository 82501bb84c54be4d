/*
 * template_print.c: values -> text: as Python's str() and repr(), as JSON,
 * by a % format; and JSON of the request -> values.
 */

#include <math.h>

#include "text/template_int.h"


/* Shortest decimal that reads back equal, laid out as Python does it;
 * out has 32 bytes. */
static void
print_float(double f, char *out)
{
    char   t[32], digits[24];
    int    prec, e, n = 0;
    char  *p = out;

    if (isnan(f) || isinf(f)) {
        (void) snprintf(out, 8, "%s", isnan(f) ? "nan"
                                      : f < 0 ? "-inf" : "inf");
        return;
    }

    for (prec = 0; prec < 17; prec++) {
        (void) snprintf(t, sizeof(t), "%.*e", prec, f);
        if (strtod(t, NULL) == f) {
            break;
        }
    }

    char *ep = strchr(t, 'e');

    e = (int) strtol(ep + 1, NULL, 10);
    for (char *q = t; q < ep && n < 20; q++) {
        if (*q >= '0' && *q <= '9') {
            digits[n++] = *q;
        }
    }
    if (t[0] == '-') {
        *p++ = '-';
    }

    if (e < -4 || e >= 16) {
        *p++ = digits[0];
        if (n > 1) {
            *p++ = '.';
            memcpy(p, digits + 1, (size_t) n - 1);
            p += n - 1;
        }
        e = e < 0 ? -e : e;
        *p++ = 'e';
        *p++ = strchr(t, 'e')[1];
        if (e >= 100) {
            *p++ = (char) ('0' + e / 100);
        }
        *p++ = (char) ('0' + e / 10 % 10);
        *p++ = (char) ('0' + e % 10);
        *p = '\0';
        return;
    }

    if (e < 0) {
        *p++ = '0';
        *p++ = '.';
        for (int i = -1; i > e; i--) {
            *p++ = '0';
        }
        memcpy(p, digits, (size_t) n);
        p += n;

    } else {
        for (int i = 0; i < n || i <= e + 1; i++) {
            if (i == e + 1) {
                *p++ = '.';
            }
            *p++ = i < n ? digits[i] : '0';
        }
    }
    *p = '\0';
}

static void
print_hex(tpl_ctx_t *c, tpl_buf_t *b, const char *fmt, uint32_t cp,
    int client)
{
    char t[16];
    int  n = snprintf(t, sizeof(t), fmt, cp);

    tpl_put_as(c, b, t, (size_t) n, client);
}

static void
print_repr_str(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v)
{
    int  single = v.len != 0 && memchr(v.u.s, '\'', v.len) != NULL;
    int  dbl = v.len != 0 && memchr(v.u.s, '"', v.len) != NULL;
    char quote = single && !dbl ? '"' : '\'';

    tpl_put(c, b, &quote, 1);
    for (uint32_t i = 0; i < v.len; ) {
        uint32_t cp, n = tpl_cp(v.u.s + i, v.len - i, &cp);
        int      own = tpl_is_client(v, i);

        if (cp == '\n' || cp == '\r' || cp == '\t') {
            tpl_put_as(c, b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r"
                                                           : "\\t", 2, own);

        } else if (cp == (uint32_t) quote || cp == '\\') {
            tpl_put_as(c, b, "\\", 1, own);
            tpl_put_part(c, b, v, i, n);

        } else if (cp < 32 || (cp >= 0x7f && cp <= 0xa0) || cp == 0xad) {
            print_hex(c, b, "\\x%02x", cp, own);

        } else if (cp != ' ' && (tpl_is_space(cp)
                   || (cp >= 0x200b && cp <= 0x200f)
                   || (cp >= 0x202a && cp <= 0x202e) || cp == 0xfeff
                   || (cp >= 0xe000 && cp <= 0xf8ff)))
        {
            print_hex(c, b, "\\u%04x", cp, own);

        } else {
            tpl_put_part(c, b, v, i, n);
        }
        i += n;
    }
    tpl_put(c, b, &quote, 1);
}

static void
print_list(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v)
{
    tpl_list_t *l = v.u.list;
    int         list = v.kind == TPL_LIST;

    tpl_puts(c, b, list ? "[" : "(");
    for (uint32_t i = 0; i < l->n; i++) {
        if (i != 0) {
            tpl_puts(c, b, ", ");
        }
        tpl_repr(c, b, l->v[i]);
    }
    tpl_puts(c, b, list ? "]" : l->n == 1 ? ",)" : ")");
}

static void
print_dict(tpl_ctx_t *c, tpl_buf_t *b, tpl_dict_t *d)
{
    tpl_puts(c, b, "{");
    for (uint32_t i = 0; i < d->n; i++) {
        if (i != 0) {
            tpl_puts(c, b, ", ");
        }
        tpl_repr(c, b, d->keys[i]);
        tpl_puts(c, b, ": ");
        tpl_repr(c, b, d->vals[i]);
    }
    tpl_puts(c, b, "}");
}

void
tpl_repr(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v)
{
    char t[40];

    switch (v.kind) {
    case TPL_UNDEF:
        tpl_puts(c, b, "Undefined");
        break;
    case TPL_NONE:
        tpl_puts(c, b, "None");
        break;
    case TPL_BOOL:
        tpl_puts(c, b, v.u.i ? "True" : "False");
        break;
    case TPL_INT:
        (void) snprintf(t, sizeof(t), "%lld", (long long) v.u.i);
        tpl_puts(c, b, t);
        break;
    case TPL_FLOAT:
        print_float(v.u.f, t);
        tpl_puts(c, b, t);
        break;
    case TPL_STR:
        print_repr_str(c, b, v);
        break;
    case TPL_LIST:
    case TPL_TUPLE:
    case TPL_DICT:
    case TPL_NS:
        tpl_enter(c);
        tpl_step(c);
        if (v.kind == TPL_NS) {
            tpl_puts(c, b, "<Namespace ");
        }
        if (tpl_is_seq(v)) {
            print_list(c, b, v);

        } else {
            print_dict(c, b, v.u.dict);
        }
        if (v.kind == TPL_NS) {
            tpl_puts(c, b, ">");
        }
        tpl_leave(c);
        break;
    default:
        tpl_puts(c, b, "<");
        tpl_puts(c, b, tpl_type_name(v));
        tpl_puts(c, b, ">");
    }
}

void
tpl_print(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v)
{
    if (v.kind == TPL_STR) {
        tpl_put_str(c, b, v);

    } else if (v.kind != TPL_UNDEF) {
        tpl_repr(c, b, v);
    }
}

tpl_val_t
tpl_to_str(tpl_ctx_t *c, tpl_val_t v)
{
    tpl_buf_t b = { 0 };

    if (v.kind == TPL_STR) {
        return v;
    }
    tpl_print(c, &b, v);
    return tpl_buf_str(&b);
}


static void
json_str(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v, int ascii)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";

    tpl_put(c, b, "\"", 1);
    for (uint32_t i = 0; i < v.len; ) {
        uint32_t    cp, n = tpl_cp(v.u.s + i, v.len - i, &cp);
        const char *p = cp != 0 && cp < 0x80 ? strchr(from, (int) cp) : NULL;
        int         own = tpl_is_client(v, i);

        if (p != NULL) {
            tpl_put_as(c, b, "\\", 1, own);
            tpl_put_as(c, b, &to[p - from], 1, own);

        } else if (cp < 32 || (ascii && cp >= 0x80 && cp < 0x10000)) {
            print_hex(c, b, "\\u%04x", cp, own);

        } else if (ascii && cp >= 0x10000) {
            print_hex(c, b, "\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), own);
            print_hex(c, b, "\\u%04x", 0xdc00 + ((cp - 0x10000) & 0x3ff),
                      own);

        } else {
            tpl_put_part(c, b, v, i, n);
        }
        i += n;
    }
    tpl_put(c, b, "\"", 1);
}

static void
json_newline(tpl_ctx_t *c, tpl_buf_t *b, int indent, int level)
{
    if (indent >= 0) {
        tpl_put(c, b, "\n", 1);
        for (int64_t i = (int64_t) indent * level; i > 0; i -= 16) {
            tpl_put(c, b, "                ", i < 16 ? (size_t) i : 16);
        }
    }
}

static void
json_key(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t k, int ascii)
{
    tpl_buf_t t = { 0 };

    if (k.kind == TPL_UNDEF) {
        tpl_fail(c, INFER_INVALID, "keys must be strings");
    }
    if (k.kind != TPL_STR) {
        tpl_json(c, &t, k, -1, 0, 0, ascii);
        k = tpl_buf_str(&t);
    }
    json_str(c, b, k, ascii);
}

static void
json_dict(tpl_ctx_t *c, tpl_buf_t *b, tpl_dict_t *d, int indent, int level,
    int sort, int ascii)
{
    tpl_val_t *keys = d->keys, *vals = d->vals;

    if (sort && d->n > 1) {
        keys = tpl_array(c, d->n, sizeof(tpl_val_t));
        vals = tpl_array(c, d->n, sizeof(tpl_val_t));
        memcpy(keys, d->keys, d->n * sizeof(tpl_val_t));
        memcpy(vals, d->vals, d->n * sizeof(tpl_val_t));
        tpl_sort(c, keys, vals, d->n, 0);
    }

    tpl_put(c, b, "{", 1);
    for (uint32_t i = 0; i < d->n; i++) {
        if (i != 0) {
            tpl_puts(c, b, indent >= 0 ? "," : ", ");
        }
        json_newline(c, b, indent, level + 1);
        json_key(c, b, keys[i], ascii);
        tpl_puts(c, b, ": ");
        tpl_json(c, b, vals[i], indent, level + 1, sort, ascii);
    }
    if (d->n != 0) {
        json_newline(c, b, indent, level);
    }
    tpl_put(c, b, "}", 1);
}

/* As json.dumps(): separators ", " and ": ", or "," and a newline when
 * indent >= 0. */
void
tpl_json(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v, int indent, int level,
    int sort, int ascii)
{
    switch (v.kind) {
    case TPL_NONE:
        tpl_puts(c, b, "null");
        break;
    case TPL_BOOL:
        tpl_puts(c, b, v.u.i ? "true" : "false");
        break;
    case TPL_INT:
        tpl_repr(c, b, v);
        break;
    case TPL_FLOAT:
        if (isnan(v.u.f) || isinf(v.u.f)) {
            tpl_puts(c, b, isnan(v.u.f) ? "NaN"
                           : v.u.f < 0 ? "-Infinity" : "Infinity");

        } else {
            tpl_repr(c, b, v);
        }
        break;
    case TPL_STR:
        json_str(c, b, v, ascii);
        break;
    case TPL_LIST:
    case TPL_TUPLE:
        tpl_enter(c);
        tpl_step(c);
        tpl_put(c, b, "[", 1);
        for (uint32_t i = 0; i < v.u.list->n; i++) {
            if (i != 0) {
                tpl_puts(c, b, indent >= 0 ? "," : ", ");
            }
            json_newline(c, b, indent, level + 1);
            tpl_json(c, b, v.u.list->v[i], indent, level + 1, sort, ascii);
        }
        if (v.u.list->n != 0) {
            json_newline(c, b, indent, level);
        }
        tpl_put(c, b, "]", 1);
        tpl_leave(c);
        break;
    case TPL_DICT:
        tpl_enter(c);
        tpl_step(c);
        json_dict(c, b, v.u.dict, indent, level, sort, ascii);
        tpl_leave(c);
        break;
    default:
        tpl_fail(c, INFER_INVALID,
                 "Object of type %s is not JSON serializable",
                 tpl_type_name(v));
    }
}

static tpl_val_t
json_client(const char *s, size_t n)
{
    tpl_val_t v = tpl_str(s, n);

    v.flag = TPL_CLIENT;
    return v;
}

/* Strings stay where jansson has them. */
tpl_val_t
tpl_from_json(tpl_ctx_t *c, json_t *j)
{
    tpl_val_t   v;
    const char *key;
    json_t     *m;

    switch (json_typeof(j)) {
    case JSON_OBJECT:
        tpl_enter(c);
        v = tpl_new_dict(c, (uint32_t) json_object_size(j));
        json_object_foreach(j, key, m) {
            tpl_dict_add(c, v.u.dict, json_client(key, strlen(key)),
                         tpl_from_json(c, m));
        }
        tpl_leave(c);
        return v;

    case JSON_ARRAY:
        tpl_enter(c);
        v = tpl_new_list(c, TPL_LIST, (uint32_t) json_array_size(j));
        for (size_t i = 0; i < json_array_size(j); i++) {
            tpl_push(c, v, tpl_from_json(c, json_array_get(j, i)));
        }
        tpl_leave(c);
        return v;

    case JSON_STRING:
        return json_client(json_string_value(j), json_string_length(j));
    case JSON_INTEGER:
        return tpl_int(json_integer_value(j));
    case JSON_REAL:
        return tpl_float(json_real_value(j));
    case JSON_TRUE:
        return tpl_bool(1);
    case JSON_FALSE:
        return tpl_bool(0);
    default:
        return tpl_none();
    }
}


/* One conversion of a % format with the flags in spec ("%05.2"). */
static void
format_one(tpl_ctx_t *c, tpl_buf_t *b, char *spec, size_t n, char conv,
    tpl_val_t v)
{
    char t[512];

    if (conv == 's' || conv == 'r') {
        tpl_buf_t s = { 0 };
        size_t    w = strtoul(spec + 1 + strspn(spec + 1, "-0+ #"), NULL, 10);

        if (conv == 's') {
            tpl_print(c, &s, v);

        } else {
            tpl_repr(c, &s, v);
        }
        for (size_t k = s.len; spec[1] != '-' && k < w; k++) {
            tpl_put(c, b, " ", 1);
        }
        tpl_put_str(c, b, tpl_buf_str(&s));
        for (size_t k = s.len; spec[1] == '-' && k < w; k++) {
            tpl_put(c, b, " ", 1);
        }
        return;
    }

    if (!tpl_is_num(v)) {
        tpl_fail(c, INFER_INVALID, "%%%c format: a number is required, not %s",
                 conv, tpl_type_name(v));
    }
    if (strchr("eEfFgG", conv) != NULL) {
        spec[n] = conv;
        spec[n + 1] = '\0';
        (void) snprintf(t, sizeof(t), spec, tpl_num(v));

    } else {
        int64_t i = v.kind == TPL_FLOAT ? (fabs(v.u.f) < 9e18
                                           ? (int64_t) v.u.f : 0) : v.u.i;

        spec[n] = 'l';
        spec[n + 1] = 'l';
        spec[n + 2] = conv == 'i' ? 'd' : conv;
        spec[n + 3] = '\0';
        (void) snprintf(t, sizeof(t), spec, (long long) i);
    }
    tpl_puts(c, b, t);
}

/* fmt % args; args is a tuple or one value. */
tpl_val_t
tpl_format(tpl_ctx_t *c, tpl_val_t fmt, tpl_val_t args)
{
    tpl_buf_t b = { 0 };
    uint32_t  used = 0, have = args.kind == TPL_TUPLE ? args.u.list->n : 1;

    for (uint32_t i = 0; i < fmt.len; i++) {
        char   spec[16] = "%", conv = 0;
        size_t n = 1;

        if (fmt.u.s[i] != '%') {
            tpl_put_part(c, &b, fmt, i, 1);
            continue;
        }
        for (i++; i < fmt.len && n < 8; i++) {
            conv = fmt.u.s[i];
            if (conv == '\0' || strchr("-0+ #.123456789", conv) == NULL) {
                break;
            }
            spec[n++] = conv;
        }
        if (i < fmt.len && conv == '%') {
            tpl_put_part(c, &b, fmt, i, 1);
            continue;
        }
        if (i >= fmt.len || conv == '\0'
            || strchr("srdiuxXofFeEgG", conv) == NULL
            || strspn(spec + 1, "0123456789") > 3)
        {
            tpl_fail(c, INFER_UNSUPPORTED, "unknown %% format");
        }
        if (used == have) {
            tpl_fail(c, INFER_INVALID,
                     "not enough arguments for format string");
        }
        format_one(c, &b, spec, n, conv == 'u' ? 'd' : conv,
                   args.kind == TPL_TUPLE ? args.u.list->v[used] : args);
        used++;
    }

    if (used != have && args.kind == TPL_TUPLE) {
        tpl_fail(c, INFER_INVALID, "not all arguments converted during "
                 "string formatting");
    }

    return tpl_buf_str(&b);
}
