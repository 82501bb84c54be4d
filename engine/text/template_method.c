/*
 * template_method.c: methods of strings, lists, dicts and of the loop
 * object, with Python's meaning.
 */

#include "text/template_int.h"


static tpl_val_t
method_str_arg(tpl_ctx_t *c, const tpl_args_t *a, uint32_t i)
{
    tpl_val_t v = tpl_arg_need(c, a, i, "str");

    if (v.kind != TPL_STR) {
        tpl_fail(c, INFER_INVALID, "must be str, not %s", tpl_type_name(v));
    }

    return v;
}

static tpl_val_t
method_strip(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return tpl_strip(c, s, tpl_arg(a, 0, NULL), 3);
}

static tpl_val_t
method_lstrip(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return tpl_strip(c, s, tpl_arg(a, 0, NULL), 1);
}

static tpl_val_t
method_rstrip(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return tpl_strip(c, s, tpl_arg(a, 0, NULL), 2);
}

/* split() on white space */
static tpl_val_t
method_words(tpl_ctx_t *c, tpl_val_t s, int64_t max)
{
    tpl_val_t r = tpl_new_list(c, TPL_LIST, 0);
    uint32_t  from = 0;
    int       in = 0;

    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, n = tpl_cp(s.u.s + i, s.len - i, &cp);

        if (tpl_is_space(cp)) {
            if (in) {
                tpl_push(c, r, tpl_sub(s, from, i - from));
            }
            in = 0;

        } else if (!in) {
            if (max >= 0 && r.u.list->n == max) {
                tpl_push(c, r, tpl_strip(c, tpl_sub(s, i, s.len - i), NULL,
                                         2));
                return r;
            }
            in = 1;
            from = i;
        }
        i += n;
    }
    if (in) {
        tpl_push(c, r, tpl_sub(s, from, s.len - from));
    }

    return r;
}

static tpl_val_t
method_split(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    const tpl_val_t *sep = tpl_arg(a, 0, "sep");
    int64_t          max = tpl_arg_int(c, a, 1, "maxsplit", -1);
    tpl_val_t        r;
    const char      *p = s.u.s, *end = p + s.len, *hit;

    tpl_charge(c, s.len);
    if (sep == NULL || sep->kind == TPL_NONE) {
        return method_words(c, s, max);
    }
    if (sep->kind != TPL_STR || sep->len == 0) {
        tpl_fail(c, INFER_INVALID, "bad separator");
    }

    r = tpl_new_list(c, TPL_LIST, 0);
    while (max != 0 && p < end
           && (hit = memmem(p, (size_t) (end - p), sep->u.s, sep->len))
              != NULL)
    {
        tpl_push(c, r, tpl_sub(s, (size_t) (p - s.u.s), (size_t) (hit - p)));
        p = hit + sep->len;
        max -= max > 0;
    }
    tpl_push(c, r, tpl_sub(s, (size_t) (p - s.u.s), (size_t) (end - p)));
    return r;
}

/* The last place of sub in s[0..n), or -1. */
static int64_t
method_rmem(tpl_ctx_t *c, const char *s, size_t n, tpl_val_t sub)
{
    for (size_t i = n < sub.len ? 0 : n - sub.len + 1; i > 0; i--) {
        tpl_charge(c, TPL_STEP_BYTES / 32);
        if (sub.len == 0 || (s[i - 1] == sub.u.s[0]
            && (tpl_charge(c, sub.len),
                memcmp(s + i - 1, sub.u.s, sub.len) == 0)))
        {
            return (int64_t) i - 1;
        }
    }

    return -1;
}

static void
method_reverse(tpl_list_t *l)
{
    for (uint32_t i = 0; i < l->n / 2; i++) {
        tpl_val_t t = l->v[i];

        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
}

static tpl_val_t
method_rsplit(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    const tpl_val_t *sep = tpl_arg(a, 0, "sep");
    int64_t          max = tpl_arg_int(c, a, 1, "maxsplit", -1), at;
    tpl_val_t        r = tpl_new_list(c, TPL_LIST, 0);
    size_t           n = s.len;

    if (max < 0) {
        return method_split(c, s, a);
    }
    if (sep == NULL || sep->kind != TPL_STR || sep->len == 0) {
        tpl_fail(c, INFER_UNSUPPORTED, "rsplit() needs a separator");
    }
    while (max-- > 0 && (at = method_rmem(c, s.u.s, n, *sep)) >= 0) {
        tpl_push(c, r, tpl_sub(s, (size_t) at + sep->len,
                               n - (size_t) at - sep->len));
        n = (size_t) at;
    }
    tpl_push(c, r, tpl_sub(s, 0, n));
    method_reverse(r.u.list);
    return r;
}

static tpl_val_t
method_partition(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_val_t   sep = method_str_arg(c, a, 0);
    tpl_val_t   r = tpl_new_list(c, TPL_TUPLE, 3);
    const char *hit = NULL;
    size_t      n = s.len;

    tpl_charge(c, s.len);
    if (sep.len != 0 && s.len != 0) {
        hit = memmem(s.u.s, s.len, sep.u.s, sep.len);
    }
    n = hit != NULL ? (size_t) (hit - s.u.s) : n;
    tpl_push(c, r, tpl_sub(s, 0, n));
    tpl_push(c, r, hit != NULL ? tpl_sub(s, n, sep.len) : tpl_cstr(""));
    tpl_push(c, r, hit != NULL
             ? tpl_sub(s, n + sep.len, s.len - n - sep.len) : tpl_cstr(""));
    return r;
}

static tpl_val_t
method_splitlines(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return tpl_lines(c, s);
}

static int
method_fix_is(tpl_val_t s, tpl_val_t fix, int end)
{
    return fix.len <= s.len
           && (fix.len == 0 || memcmp(end ? s.u.s + s.len - fix.len : s.u.s,
                                      fix.u.s, fix.len) == 0);
}

static tpl_val_t
method_fix(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a, int end)
{
    tpl_val_t fix = tpl_arg_need(c, a, 0, "prefix");

    if (a->n > 1) {
        s = tpl_slice(c, s, a->pos[1], a->n > 2 ? a->pos[2] : tpl_none(),
                      tpl_none());
    }
    if (fix.kind == TPL_STR) {
        return tpl_bool(method_fix_is(s, fix, end));
    }
    if (fix.kind != TPL_TUPLE) {
        tpl_fail(c, INFER_INVALID, "%s first arg must be str or a tuple of "
                 "str, not %s", end ? "endswith" : "startswith",
                 tpl_type_name(fix));
    }
    for (uint32_t i = 0; i < fix.u.list->n; i++) {
        if (fix.u.list->v[i].kind == TPL_STR
            && method_fix_is(s, fix.u.list->v[i], end))
        {
            return tpl_bool(1);
        }
    }

    return tpl_bool(0);
}

static tpl_val_t
method_startswith(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return method_fix(c, s, a, 0);
}

static tpl_val_t
method_endswith(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return method_fix(c, s, a, 1);
}

static tpl_val_t
method_removeprefix(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_val_t fix = method_str_arg(c, a, 0);

    return method_fix_is(s, fix, 0)
           ? tpl_sub(s, fix.len, s.len - fix.len) : s;
}

static tpl_val_t
method_removesuffix(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_val_t fix = method_str_arg(c, a, 0);

    return method_fix_is(s, fix, 1) ? tpl_sub(s, 0, s.len - fix.len) : s;
}

static tpl_val_t
method_upper(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return tpl_map_case(c, s, 1);
}

static tpl_val_t
method_lower(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return tpl_map_case(c, s, 0);
}

static tpl_val_t
method_title(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_buf_t b = { 0 };
    int       in = 0;

    (void) a;
    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, n = tpl_cp(s.u.s + i, s.len - i, &cp);

        tpl_put_cp(c, &b, in ? tpl_to_lower(cp) : tpl_to_upper(cp),
                   tpl_is_client(s, i));
        in = tpl_is_alpha(cp);
        i += n;
    }

    return tpl_buf_str(&b);
}

static tpl_val_t
method_capitalize(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return tpl_capitalize(c, s);
}

static tpl_val_t
method_replace(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return tpl_replace(c, s, method_str_arg(c, a, 0), method_str_arg(c, a, 1),
                       tpl_arg_int(c, a, 2, "count", -1));
}

static tpl_val_t
method_join(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_val_t l = tpl_iter(c, tpl_arg_need(c, a, 0, "iterable"));

    for (uint32_t i = 0; i < l.u.list->n; i++) {
        if (l.u.list->v[i].kind != TPL_STR) {
            tpl_fail(c, INFER_INVALID, "sequence item %u: expected str "
                     "instance, %s found", i,
                     tpl_type_name(l.u.list->v[i]));
        }
    }

    return tpl_join(c, s, l);
}

static tpl_val_t
method_find_in(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a, int last)
{
    tpl_val_t   sub = method_str_arg(c, a, 0);
    int64_t     at, from = tpl_arg_int(c, a, 1, "start", 0);
    const char *hit;
    tpl_val_t   whole = s;

    if (from != 0) {
        s = tpl_slice(c, s, tpl_int(from), tpl_none(), tpl_none());
    }
    tpl_charge(c, s.len);
    if (last) {
        at = method_rmem(c, s.u.s, s.len, sub);

    } else {
        hit = sub.len == 0 ? s.u.s
              : s.len == 0 ? NULL
              : memmem(s.u.s, s.len, sub.u.s, sub.len);
        at = hit != NULL ? hit - s.u.s : -1;
    }
    if (at < 0) {
        return tpl_int(-1);
    }
    at += s.u.s - whole.u.s;
    return tpl_int(tpl_utf8_count(c, tpl_str(whole.u.s, (size_t) at)));
}

static tpl_val_t
method_find(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return method_find_in(c, s, a, 0);
}

static tpl_val_t
method_rfind(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    return method_find_in(c, s, a, 1);
}

static tpl_val_t
method_index(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_val_t v = method_find_in(c, s, a, 0);

    if (v.u.i < 0) {
        tpl_fail(c, INFER_INVALID, "substring not found");
    }

    return v;
}

static tpl_val_t
method_count(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_val_t   sub = method_str_arg(c, a, 0);
    const char *p = s.u.s, *end = p + s.len;
    int64_t     n = 0;

    if (sub.len == 0) {
        return tpl_int((int64_t) tpl_utf8_count(c, s) + 1);
    }
    tpl_charge(c, s.len);
    while (p < end
           && (p = memmem(p, (size_t) (end - p), sub.u.s, sub.len)) != NULL)
    {
        n++;
        p += sub.len;
    }

    return tpl_int(n);
}

/* isdigit and its kin: every code point is of the class, and there is one */
static tpl_val_t
method_is(tpl_ctx_t *c, tpl_val_t s, int digit, int alpha, int space)
{
    tpl_charge(c, s.len);
    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, n = tpl_cp(s.u.s + i, s.len - i, &cp);

        if (!(digit && cp >= '0' && cp <= '9')
            && !(alpha && tpl_is_alpha(cp))
            && !(space && tpl_is_space(cp)))
        {
            return tpl_bool(0);
        }
        i += n;
    }

    return tpl_bool(s.len != 0);
}

static tpl_val_t
method_isdigit(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return method_is(c, s, 1, 0, 0);
}

static tpl_val_t
method_isalpha(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return method_is(c, s, 0, 1, 0);
}

static tpl_val_t
method_isalnum(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return method_is(c, s, 1, 1, 0);
}

static tpl_val_t
method_isspace(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return method_is(c, s, 0, 0, 1);
}

/* A letter that has case, and none of the other case. */
static tpl_val_t
method_case(tpl_ctx_t *c, tpl_val_t s, int upper)
{
    int seen = 0;

    tpl_charge(c, s.len);
    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, n = tpl_cp(s.u.s + i, s.len - i, &cp);
        int      is_upper = tpl_to_lower(cp) != cp;

        if (is_upper || tpl_to_upper(cp) != cp) {
            if (is_upper != upper) {
                return tpl_bool(0);
            }
            seen = 1;
        }
        i += n;
    }

    return tpl_bool(seen);
}

static tpl_val_t
method_isupper(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return method_case(c, s, 1);
}

static tpl_val_t
method_islower(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    (void) a;
    return method_case(c, s, 0);
}

/* str.format with {} , {0} and {name}; no conversions */
static tpl_val_t
method_format(tpl_ctx_t *c, tpl_val_t s, const tpl_args_t *a)
{
    tpl_buf_t b = { 0 };
    uint32_t  next = 0;

    for (uint32_t i = 0; i < s.len; i++) {
        char             ch = s.u.s[i];
        uint32_t         from = i + 1, e = from;
        const tpl_val_t *v = NULL;
        char             name[64];

        if ((ch == '{' || ch == '}') && from < s.len && s.u.s[from] == ch) {
            tpl_put_part(c, &b, s, i++, 1);
            continue;
        }
        if (ch != '{') {
            tpl_put_part(c, &b, s, i, 1);
            continue;
        }

        while (e < s.len && s.u.s[e] != '}' && e - from < sizeof(name) - 1) {
            name[e - from] = s.u.s[e];
            e++;
        }
        name[e - from] = '\0';
        if (e < s.len && s.u.s[e] == '}') {
            v = e == from ? tpl_arg(a, next++, NULL)
                : strspn(name, "0123456789") == e - from && e - from < 9
                ? tpl_arg(a, (uint32_t) strtoul(name, NULL, 10), NULL)
                : tpl_arg(a, UINT32_MAX, name);
        }
        if (v == NULL) {
            tpl_fail(c, INFER_UNSUPPORTED, "format field '%s' is missing or "
                     "not supported", name);
        }
        tpl_print(c, &b, *v);
        i = e;
    }

    return tpl_buf_str(&b);
}

const tpl_func_t tpl_str_methods[] = {
    { "strip", method_strip },
    { "lstrip", method_lstrip },
    { "rstrip", method_rstrip },
    { "split", method_split },
    { "rsplit", method_rsplit },
    { "partition", method_partition },
    { "splitlines", method_splitlines },
    { "startswith", method_startswith },
    { "endswith", method_endswith },
    { "removeprefix", method_removeprefix },
    { "removesuffix", method_removesuffix },
    { "upper", method_upper },
    { "lower", method_lower },
    { "casefold", method_lower },
    { "title", method_title },
    { "capitalize", method_capitalize },
    { "replace", method_replace },
    { "join", method_join },
    { "find", method_find },
    { "rfind", method_rfind },
    { "index", method_index },
    { "count", method_count },
    { "isdigit", method_isdigit },
    { "isnumeric", method_isdigit },
    { "isdecimal", method_isdigit },
    { "isalpha", method_isalpha },
    { "isalnum", method_isalnum },
    { "isspace", method_isspace },
    { "isupper", method_isupper },
    { "islower", method_islower },
    { "format", method_format },
    { NULL, NULL }
};


static tpl_val_t
list_append(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    tpl_push(c, l, tpl_arg_need(c, a, 0, "object"));
    return tpl_none();
}

static tpl_val_t
list_extend(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    tpl_val_t o = tpl_iter(c, tpl_arg_need(c, a, 0, "iterable"));
    uint32_t  n = o.u.list->n;

    for (uint32_t i = 0; i < n; i++) {
        tpl_push(c, l, o.u.list->v[i]);
    }

    return tpl_none();
}

static tpl_val_t
list_insert(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    int64_t    i = tpl_arg_int(c, a, 0, "index", 0);
    tpl_val_t *v;
    uint32_t   n = l.u.list->n;

    tpl_push(c, l, tpl_arg_need(c, a, 1, "object"));
    tpl_charge(c, n * sizeof(tpl_val_t));
    i = i < 0 ? i + n : i;
    i = i < 0 ? 0 : i > n ? n : i;
    v = l.u.list->v;

    tpl_val_t o = v[n];

    memmove(&v[i + 1], &v[i], (n - (size_t) i) * sizeof(tpl_val_t));
    v[i] = o;
    return tpl_none();
}

static tpl_val_t
list_pop(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    int64_t    i = tpl_arg_int(c, a, 0, "index", -1);
    uint32_t   n = l.u.list->n;
    tpl_val_t *v = l.u.list->v, o;

    i = i < 0 ? i + n : i;
    if (i < 0 || i >= n) {
        tpl_fail(c, INFER_INVALID, "pop index out of range");
    }
    tpl_charge(c, n * sizeof(tpl_val_t));
    o = v[i];
    memmove(&v[i], &v[i + 1], (n - (size_t) i - 1) * sizeof(tpl_val_t));
    l.u.list->n--;
    return o;
}

static tpl_val_t
list_index(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    tpl_val_t v = tpl_arg_need(c, a, 0, "value");

    tpl_charge(c, l.u.list->n * sizeof(tpl_val_t));
    for (uint32_t i = 0; i < l.u.list->n; i++) {
        if (tpl_equal(c, l.u.list->v[i], v)) {
            return tpl_int(i);
        }
    }
    tpl_fail(c, INFER_INVALID, "value is not in list");
}

static tpl_val_t
list_count(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    tpl_val_t v = tpl_arg_need(c, a, 0, "value");
    int64_t   n = 0;

    tpl_charge(c, l.u.list->n * sizeof(tpl_val_t));
    for (uint32_t i = 0; i < l.u.list->n; i++) {
        n += tpl_equal(c, l.u.list->v[i], v);
    }

    return tpl_int(n);
}

const tpl_func_t tpl_list_methods[] = {
    { "append", list_append },
    { "extend", list_extend },
    { "insert", list_insert },
    { "pop", list_pop },
    { "index", list_index },
    { "count", list_count },
    { NULL, NULL }
};


static tpl_val_t
dict_items(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    tpl_val_t r = tpl_new_list(c, TPL_LIST, d.u.dict->n);

    (void) a;
    for (uint32_t i = 0; i < d.u.dict->n; i++) {
        tpl_push(c, r, tpl_pair(c, d.u.dict->keys[i], d.u.dict->vals[i]));
    }

    return r;
}

static tpl_val_t
dict_keys(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    (void) a;
    return tpl_iter(c, d);
}

static tpl_val_t
dict_values(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    tpl_val_t r = tpl_new_list(c, TPL_LIST, d.u.dict->n);

    (void) a;
    for (uint32_t i = 0; i < d.u.dict->n; i++) {
        tpl_push(c, r, d.u.dict->vals[i]);
    }

    return r;
}

static tpl_val_t
dict_get(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    tpl_val_t       *p = tpl_dict_get(c, d.u.dict,
                                      tpl_arg_need(c, a, 0, "key"));
    const tpl_val_t *dflt = tpl_arg(a, 1, "default");

    return p != NULL ? *p : dflt != NULL ? *dflt : tpl_none();
}

static tpl_val_t
dict_pop(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    tpl_val_t  key = tpl_arg_need(c, a, 0, "key"), v;
    tpl_val_t *p = tpl_dict_get(c, d.u.dict, key);

    if (p == NULL) {
        return tpl_arg_need(c, a, 1, "default");
    }
    v = *p;
    tpl_dict_del(c, d.u.dict, key);
    return v;
}

static tpl_val_t
dict_setdefault(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    tpl_val_t        key = tpl_arg_need(c, a, 0, "key");
    tpl_val_t       *p = tpl_dict_get(c, d.u.dict, key);
    const tpl_val_t *dflt = tpl_arg(a, 1, "default");

    if (p != NULL) {
        return *p;
    }
    tpl_dict_set(c, d.u.dict, key, dflt != NULL ? *dflt : tpl_none());
    return dflt != NULL ? *dflt : tpl_none();
}

static tpl_val_t
dict_update(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    if (a->n != 0) {
        tpl_val_t o = a->pos[0];

        if (o.kind != TPL_DICT) {
            tpl_fail(c, INFER_INVALID, "update() needs a mapping");
        }
        for (uint32_t i = 0; i < o.u.dict->n; i++) {
            tpl_dict_set(c, d.u.dict, o.u.dict->keys[i], o.u.dict->vals[i]);
        }
    }
    for (uint32_t i = 0; i < a->n_kw; i++) {
        tpl_dict_set(c, d.u.dict, a->kw[i].name, a->kw[i].v);
    }

    return tpl_none();
}

static tpl_val_t
dict_copy(tpl_ctx_t *c, tpl_val_t d, const tpl_args_t *a)
{
    tpl_val_t r = tpl_new_dict(c, d.u.dict->n);

    (void) a;
    for (uint32_t i = 0; i < d.u.dict->n; i++) {
        tpl_dict_add(c, r.u.dict, d.u.dict->keys[i], d.u.dict->vals[i]);
    }

    return r;
}

const tpl_func_t tpl_dict_methods[] = {
    { "items", dict_items },
    { "keys", dict_keys },
    { "values", dict_values },
    { "get", dict_get },
    { "pop", dict_pop },
    { "setdefault", dict_setdefault },
    { "update", dict_update },
    { "copy", dict_copy },
    { NULL, NULL }
};


static tpl_val_t
loop_cycle(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    if (a->n == 0) {
        tpl_fail(c, INFER_INVALID, "no items for cycling given");
    }

    return a->pos[l.u.loop->index0 % a->n];
}

static tpl_val_t
loop_changed(tpl_ctx_t *c, tpl_val_t l, const tpl_args_t *a)
{
    tpl_val_t now = tpl_new_list(c, TPL_TUPLE, a->n);
    int       same;

    for (uint32_t i = 0; i < a->n; i++) {
        tpl_push(c, now, a->pos[i]);
    }
    same = tpl_equal(c, l.u.loop->changed, now);
    l.u.loop->changed = now;
    return tpl_bool(!same);
}

const tpl_func_t tpl_loop_methods[] = {
    { "cycle", loop_cycle },
    { "changed", loop_changed },
    { NULL, NULL }
};
