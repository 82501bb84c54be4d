/*
 * template_text.c: what filters and methods do with strings: case, strip,
 * replace, lines, join. Also the reading of arguments and sorting.
 */

#include "text/template_int.h"


const tpl_func_t *
tpl_find(const tpl_func_t *table, tpl_val_t name)
{
    for ( ; table->name != NULL; table++) {
        if (tpl_is_str(name, table->name)) {
            return table;
        }
    }

    return NULL;
}

/* Argument i or the one called name (may be NULL); NULL when neither. */
const tpl_val_t *
tpl_arg(const tpl_args_t *a, uint32_t i, const char *name)
{
    if (i < a->n) {
        return &a->pos[i];
    }
    for (uint32_t k = 0; name != NULL && k < a->n_kw; k++) {
        if (tpl_is_str(a->kw[k].name, name)) {
            return &a->kw[k].v;
        }
    }

    return NULL;
}

tpl_val_t
tpl_arg_need(tpl_ctx_t *c, const tpl_args_t *a, uint32_t i, const char *name)
{
    const tpl_val_t *v = tpl_arg(a, i, name);

    if (v == NULL) {
        tpl_fail(c, INFER_INVALID, "argument \"%s\" is missing", name);
    }

    return *v;
}

int64_t
tpl_arg_int(tpl_ctx_t *c, const tpl_args_t *a, uint32_t i, const char *name,
    int64_t dflt)
{
    const tpl_val_t *v = tpl_arg(a, i, name);

    if (v == NULL || v->kind == TPL_NONE) {
        return dflt;
    }
    if (v->kind != TPL_INT && v->kind != TPL_BOOL) {
        tpl_fail(c, INFER_INVALID, "argument \"%s\" is not an integer", name);
    }

    return v->u.i;
}

int
tpl_arg_true(const tpl_args_t *a, uint32_t i, const char *name, int dflt)
{
    const tpl_val_t *v = tpl_arg(a, i, name);

    return v != NULL ? tpl_truth(*v) : dflt;
}

tpl_val_t
tpl_map_case(tpl_ctx_t *c, tpl_val_t s, int upper)
{
    tpl_buf_t b = { 0 };

    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, n = tpl_cp(s.u.s + i, s.len - i, &cp);

        tpl_put_cp(c, &b, upper ? tpl_to_upper(cp) : tpl_to_lower(cp),
                   tpl_is_client(s, i));
        i += n;
    }

    return tpl_buf_str(&b);
}

tpl_val_t
tpl_capitalize(tpl_ctx_t *c, tpl_val_t s)
{
    tpl_buf_t b = { 0 };
    uint32_t  cp, n;

    if (s.len == 0) {
        return s;
    }
    n = tpl_cp(s.u.s, s.len, &cp);
    tpl_put_cp(c, &b, tpl_to_upper(cp), tpl_is_client(s, 0));
    tpl_put_str(c, &b, tpl_map_case(c, tpl_sub(s, n, s.len - n), 0));
    return tpl_buf_str(&b);
}

static int
text_strips(uint32_t cp, const tpl_val_t *chars, const char *s, uint32_t n)
{
    return chars == NULL ? tpl_is_space(cp)
                         : memmem(chars->u.s, chars->len, s, n) != NULL;
}

/* sides: 1 left, 2 right, 3 both; chars NULL: white space */
tpl_val_t
tpl_strip(tpl_ctx_t *c, tpl_val_t s, const tpl_val_t *chars, int sides)
{
    uint32_t from = 0, to = s.len;

    if (chars != NULL && chars->kind != TPL_STR) {
        if (chars->kind != TPL_NONE) {
            tpl_fail(c, INFER_INVALID, "strip arg must be None or str");
        }
        chars = NULL;
    }

    tpl_charge(c, s.len);
    while ((sides & 1) && from < to) {
        uint32_t cp, n = tpl_cp(s.u.s + from, to - from, &cp);

        tpl_charge(c, chars != NULL ? chars->len : 0);
        if (!text_strips(cp, chars, s.u.s + from, n)) {
            break;
        }
        from += n;
    }
    while ((sides & 2) && to > from) {
        uint32_t cp, at = to - 1;

        while (at > from && (s.u.s[at] & 0xc0) == 0x80) {
            at--;
        }
        (void) tpl_cp(s.u.s + at, to - at, &cp);
        tpl_charge(c, chars != NULL ? chars->len : 0);
        if (!text_strips(cp, chars, s.u.s + at, to - at)) {
            break;
        }
        to = at;
    }

    return tpl_sub(s, from, to - from);
}

/* count < 0: all */
tpl_val_t
tpl_replace(tpl_ctx_t *c, tpl_val_t s, tpl_val_t from, tpl_val_t to,
    int64_t count)
{
    tpl_buf_t   b = { 0 };
    const char *p = s.u.s, *end = p + s.len;

    if (s.kind != TPL_STR || from.kind != TPL_STR || to.kind != TPL_STR) {
        tpl_fail(c, INFER_INVALID, "replace() arguments must be str");
    }

    tpl_charge(c, s.len);
    while (count != 0) {
        const char *hit;
        uint32_t    cp, n;

        if (from.len == 0) {
            tpl_put_str(c, &b, to);
            if (p == end) {
                break;
            }
            n = tpl_cp(p, (size_t) (end - p), &cp);
            tpl_put_part(c, &b, s, (size_t) (p - s.u.s), n);
            p += n;

        } else {
            hit = p < end ? memmem(p, (size_t) (end - p), from.u.s, from.len)
                          : NULL;
            if (hit == NULL) {
                break;
            }
            tpl_put_part(c, &b, s, (size_t) (p - s.u.s),
                         (size_t) (hit - p));
            tpl_put_str(c, &b, to);
            p = hit + from.len;
        }
        count -= count > 0;
    }
    tpl_put_part(c, &b, s, (size_t) (p - s.u.s), (size_t) (end - p));
    return tpl_buf_str(&b);
}

/* Lines without their ends, as str.splitlines() */
tpl_val_t
tpl_lines(tpl_ctx_t *c, tpl_val_t s)
{
    tpl_val_t r = tpl_new_list(c, TPL_LIST, 0);
    uint32_t  from = 0;

    for (uint32_t i = 0; i < s.len; ) {
        uint32_t cp, n = tpl_cp(s.u.s + i, s.len - i, &cp);

        if ((cp >= 10 && cp <= 13) || (cp >= 28 && cp <= 30) || cp == 0x85
            || cp == 0x2028 || cp == 0x2029)
        {
            tpl_push(c, r, tpl_sub(s, from, i - from));
            if (cp == '\r' && i + 1 < s.len && s.u.s[i + 1] == '\n') {
                n++;
            }
            from = i + n;
        }
        i += n;
    }
    if (from < s.len) {
        tpl_push(c, r, tpl_sub(s, from, s.len - from));
    }

    return r;
}

tpl_val_t
tpl_join(tpl_ctx_t *c, tpl_val_t sep, tpl_val_t list)
{
    tpl_buf_t b = { 0 };

    for (uint32_t i = 0; i < list.u.list->n; i++) {
        if (i != 0) {
            tpl_print(c, &b, sep);
        }
        tpl_print(c, &b, list.u.list->v[i]);
    }

    return tpl_buf_str(&b);
}

/* A string in lower case, other values as they are: the key of filters that
 * ignore case. */
tpl_val_t
tpl_fold(tpl_ctx_t *c, tpl_val_t v)
{
    return v.kind == TPL_STR ? tpl_map_case(c, v, 0) : v;
}

/* Stable merge sort of vals by keys, both in place. */
void
tpl_sort(tpl_ctx_t *c, tpl_val_t *keys, tpl_val_t *vals, uint32_t n,
    int reverse)
{
    tpl_val_t *k1 = keys, *v1 = vals;
    tpl_val_t *k2 = tpl_array(c, n, sizeof(tpl_val_t));
    tpl_val_t *v2 = tpl_array(c, n, sizeof(tpl_val_t));

    for (uint64_t w = 1; w < n; w *= 2) {
        for (uint64_t lo = 0; lo < n; lo += 2 * w) {
            uint64_t mid = lo + w < n ? lo + w : n;
            uint64_t hi = lo + 2 * w < n ? lo + 2 * w : n;
            uint64_t i = lo, j = mid;

            for (uint64_t o = lo; o < hi; o++) {
                int right = i == mid;

                if (!right && j < hi) {
                    tpl_charge(c, TPL_STEP_BYTES / 4);
                    right = reverse ? tpl_less(c, k1[i], k1[j], "<")
                                    : tpl_less(c, k1[j], k1[i], "<");
                }
                k2[o] = k1[right ? j : i];
                v2[o] = v1[right ? j++ : i++];
            }
        }

        tpl_val_t *t = k1;

        k1 = k2;
        k2 = t;
        t = v1;
        v1 = v2;
        v2 = t;
    }

    if (k1 != keys && n != 0) {
        memcpy(keys, k1, n * sizeof(tpl_val_t));
        memcpy(vals, v1, n * sizeof(tpl_val_t));
    }
}
