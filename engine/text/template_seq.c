/*
 * template_seq.c: the filters over sequences. Where Jinja gives a generator,
 * these give a list.
 */

#include "text/template_seq.h"


static tpl_val_t
seq_get(tpl_ctx_t *c, tpl_val_t v, const tpl_val_t *attribute)
{
    return attribute != NULL && attribute->kind != TPL_NONE
           ? tpl_path(c, v, *attribute) : v;
}

/* The keys by which filters compare: attribute, then case folded. */
static tpl_val_t *
seq_keys(tpl_ctx_t *c, tpl_list_t *l, const tpl_val_t *attribute, int fold)
{
    tpl_val_t *keys = tpl_array(c, l->n, sizeof(tpl_val_t));

    for (uint32_t i = 0; i < l->n; i++) {
        tpl_step(c);
        keys[i] = seq_get(c, l->v[i], attribute);
        if (fold) {
            keys[i] = tpl_fold(c, keys[i]);
        }
    }

    return keys;
}

static tpl_val_t
seq_copy(tpl_ctx_t *c, tpl_val_t v)
{
    tpl_val_t l = tpl_iter(c, v);
    tpl_val_t r = tpl_new_list(c, TPL_LIST, l.u.list->n);

    for (uint32_t i = 0; i < l.u.list->n; i++) {
        tpl_push(c, r, l.u.list->v[i]);
    }

    return r;
}

tpl_val_t
tpl_seq_length(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    switch (v.kind) {
    case TPL_UNDEF:
        return tpl_int(0);
    case TPL_STR:
        return tpl_int(tpl_utf8_count(c, v));
    case TPL_LIST:
    case TPL_TUPLE:
        return tpl_int(v.u.list->n);
    case TPL_DICT:
        return tpl_int(v.u.dict->n);
    default:
        tpl_fail(c, INFER_INVALID, "object of type '%s' has no len()",
                 tpl_type_name(v));
    }
}

tpl_val_t
tpl_seq_join(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    const tpl_val_t *d = tpl_arg(a, 0, "d");
    const tpl_val_t *attribute = tpl_arg(a, 1, "attribute");
    tpl_val_t        l = tpl_iter(c, v);

    if (attribute != NULL) {
        tpl_val_t r = tpl_new_list(c, TPL_LIST, l.u.list->n);

        for (uint32_t i = 0; i < l.u.list->n; i++) {
            tpl_push(c, r, seq_get(c, l.u.list->v[i], attribute));
        }
        l = r;
    }

    return tpl_join(c, d != NULL ? *d : tpl_cstr(""), l);
}

tpl_val_t
tpl_seq_first(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_list_t *l = tpl_iter(c, v).u.list;

    (void) a;
    return l->n != 0 ? l->v[0]
                     : tpl_undef("No first item, sequence was empty.", 34);
}

tpl_val_t
tpl_seq_last(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_list_t *l = tpl_iter(c, v).u.list;

    (void) a;
    return l->n != 0 ? l->v[l->n - 1]
                     : tpl_undef("No last item, sequence was empty.", 33);
}

tpl_val_t
tpl_seq_list(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    (void) a;
    return seq_copy(c, v);
}

/* map, select and their kin take anything false for an empty sequence. */
static tpl_list_t *
seq_items_or_none(tpl_ctx_t *c, tpl_val_t v)
{
    return tpl_truth(v) ? tpl_iter(c, v).u.list
                        : tpl_new_list(c, TPL_LIST, 0).u.list;
}

/* The arguments from the skip-th on, for a filter or test inside. */
static tpl_args_t
seq_rest(const tpl_args_t *a, uint32_t skip)
{
    tpl_args_t r = *a;

    skip = skip < a->n ? skip : a->n;
    if (a->n != 0) {
        r.pos += skip;
    }
    r.n -= skip;
    return r;
}

tpl_val_t
tpl_seq_map(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    const tpl_val_t  *attribute = tpl_arg(a, UINT32_MAX, "attribute");
    const tpl_val_t  *dflt = tpl_arg(a, UINT32_MAX, "default");
    tpl_args_t        rest = seq_rest(a, 1);
    tpl_list_t       *l = seq_items_or_none(c, v);
    tpl_val_t         r = tpl_new_list(c, TPL_LIST, l->n);
    const tpl_func_t *f = NULL;

    if (attribute == NULL || a->n != 0) {
        tpl_val_t name = tpl_arg_need(c, a, 0, "filter");

        attribute = NULL;
        f = tpl_find(tpl_filters, name);
        if (f == NULL) {
            tpl_fail(c, INFER_UNSUPPORTED, "no filter named '%.*s'",
                     (int) (name.kind == TPL_STR && name.len < 100
                            ? name.len : 0), name.u.s);
        }
    }

    for (uint32_t i = 0; i < l->n; i++) {
        tpl_val_t o;

        tpl_step(c);
        if (f != NULL) {
            o = f->fn(c, l->v[i], &rest);

        } else {
            o = tpl_path(c, l->v[i], *attribute);
            o = o.kind == TPL_UNDEF && dflt != NULL ? *dflt : o;
        }
        tpl_push(c, r, o);
    }

    return r;
}

/* select and its kin: by_attr: argument 0 is an attribute */
static tpl_val_t
seq_choose(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a, int by_attr,
    int want)
{
    tpl_list_t       *l = seq_items_or_none(c, v);
    tpl_val_t         r = tpl_new_list(c, TPL_LIST, 0);
    uint32_t          skip = by_attr ? 1 : 0;
    const tpl_val_t  *attribute = NULL, *name = tpl_arg(a, skip, NULL);
    tpl_args_t        rest = seq_rest(a, skip + 1);
    const tpl_func_t *test = NULL;

    if (by_attr) {
        (void) tpl_arg_need(c, a, 0, "attribute");
        attribute = tpl_arg(a, 0, "attribute");
    }
    if (name != NULL) {
        test = tpl_find(tpl_tests, *name);
        if (test == NULL) {
            tpl_fail(c, INFER_UNSUPPORTED, "no test named '%.*s'",
                     (int) (name->kind == TPL_STR && name->len < 100
                            ? name->len : 0), name->u.s);
        }
    }

    for (uint32_t i = 0; i < l->n; i++) {
        tpl_val_t o;

        tpl_step(c);
        o = seq_get(c, l->v[i], attribute);
        if (test != NULL) {
            o = test->fn(c, o, &rest);
        }
        if (tpl_truth(o) == want) {
            tpl_push(c, r, l->v[i]);
        }
    }

    return r;
}

tpl_val_t
tpl_seq_select(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return seq_choose(c, v, a, 0, 1);
}

tpl_val_t
tpl_seq_reject(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return seq_choose(c, v, a, 0, 0);
}

tpl_val_t
tpl_seq_selectattr(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return seq_choose(c, v, a, 1, 1);
}

tpl_val_t
tpl_seq_rejectattr(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return seq_choose(c, v, a, 1, 0);
}

tpl_val_t
tpl_seq_reverse(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_list_t *l = tpl_iter(c, v).u.list;
    tpl_val_t   r = tpl_new_list(c, TPL_LIST, l->n);

    (void) a;
    for (uint32_t i = l->n; i > 0; i--) {
        tpl_push(c, r, l->v[i - 1]);
    }

    return v.kind == TPL_STR ? tpl_join(c, tpl_cstr(""), r) : r;
}

tpl_val_t
tpl_seq_sort(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    int              reverse = tpl_arg_true(a, 0, "reverse", 0);
    int              fold = !tpl_arg_true(a, 1, "case_sensitive", 0);
    const tpl_val_t *attribute = tpl_arg(a, 2, "attribute");
    tpl_val_t        r = seq_copy(c, v);
    tpl_list_t      *l = r.u.list;

    tpl_sort(c, seq_keys(c, l, attribute, fold), l->v, l->n, reverse);
    return r;
}

tpl_val_t
tpl_seq_unique(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    int              fold = !tpl_arg_true(a, 0, "case_sensitive", 0);
    const tpl_val_t *attribute = tpl_arg(a, 1, "attribute");
    tpl_list_t      *l = tpl_iter(c, v).u.list;
    tpl_val_t       *keys = seq_keys(c, l, attribute, fold);
    tpl_val_t        r = tpl_new_list(c, TPL_LIST, 0);
    tpl_val_t        seen = tpl_new_dict(c, 0);

    for (uint32_t i = 0; i < l->n; i++) {
        if (tpl_dict_get(c, seen.u.dict, keys[i]) == NULL) {
            tpl_dict_add(c, seen.u.dict, keys[i], tpl_none());
            tpl_push(c, r, l->v[i]);
        }
    }

    return r;
}

tpl_val_t
tpl_seq_items(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    if (v.kind == TPL_UNDEF) {
        return tpl_new_list(c, TPL_LIST, 0);
    }
    if (v.kind != TPL_DICT) {
        tpl_fail(c, INFER_INVALID, "can only get item pairs from a mapping");
    }

    return tpl_dict_methods[0].fn(c, v, a);
}

tpl_val_t
tpl_seq_dictsort(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    int              fold = !tpl_arg_true(a, 0, "case_sensitive", 0);
    const tpl_val_t *by = tpl_arg(a, 1, "by");
    int              reverse = tpl_arg_true(a, 2, "reverse", 0);
    tpl_val_t        r = tpl_seq_items(c, v, a);
    tpl_val_t        at = tpl_int(by != NULL && tpl_is_str(*by, "value"));
    tpl_list_t      *l = r.u.list;

    tpl_sort(c, seq_keys(c, l, &at, fold), l->v, l->n, reverse);
    return r;
}

static tpl_val_t
seq_extreme(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a, int max)
{
    int              fold = !tpl_arg_true(a, 0, "case_sensitive", 0);
    const tpl_val_t *attribute = tpl_arg(a, 1, "attribute");
    tpl_list_t      *l = tpl_iter(c, v).u.list;
    tpl_val_t       *keys = seq_keys(c, l, attribute, fold);
    uint32_t         best = 0;

    if (l->n == 0) {
        return tpl_undef("No aggregated item, sequence was empty.", 39);
    }
    for (uint32_t i = 1; i < l->n; i++) {
        if (max ? tpl_less(c, keys[best], keys[i], ">")
                : tpl_less(c, keys[i], keys[best], "<"))
        {
            best = i;
        }
    }

    return l->v[best];
}

tpl_val_t
tpl_seq_min(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return seq_extreme(c, v, a, 0);
}

tpl_val_t
tpl_seq_max(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    return seq_extreme(c, v, a, 1);
}

tpl_val_t
tpl_seq_sum(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    const tpl_val_t *attribute = tpl_arg(a, 0, "attribute");
    const tpl_val_t *start = tpl_arg(a, 1, "start");
    tpl_list_t      *l = tpl_iter(c, v).u.list;
    tpl_val_t        sum = start != NULL ? *start : tpl_int(0);

    for (uint32_t i = 0; i < l->n; i++) {
        tpl_step(c);
        sum = tpl_binary(c, '+', sum, seq_get(c, l->v[i], attribute));
    }

    return sum;
}

tpl_val_t
tpl_seq_batch(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    int64_t          n = tpl_arg_int(c, a, 0, "linecount", 0);
    const tpl_val_t *fill = tpl_arg(a, 1, "fill_with");
    tpl_list_t      *l = tpl_iter(c, v).u.list;
    tpl_val_t        r = tpl_new_list(c, TPL_LIST, 0), row = tpl_none();

    if (n < 1) {
        tpl_fail(c, INFER_INVALID, "batch() needs a positive size");
    }
    for (uint32_t i = 0; i < l->n; i++) {
        if (i % (uint64_t) n == 0) {
            row = tpl_new_list(c, TPL_LIST, 0);
            tpl_push(c, r, row);
        }
        tpl_push(c, row, l->v[i]);
    }
    while (l->n != 0 && fill != NULL && row.u.list->n < n) {
        tpl_push(c, row, *fill);
    }

    return r;
}

tpl_val_t
tpl_seq_slice(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    int64_t          n = tpl_arg_int(c, a, 0, "slices", 0);
    const tpl_val_t *fill = tpl_arg(a, 1, "fill_with");
    tpl_list_t      *l = tpl_iter(c, v).u.list;
    tpl_val_t        r = tpl_new_list(c, TPL_LIST, 0);
    uint32_t         at = 0;

    if (n < 1 || n > TPL_MAX_RANGE) {
        tpl_fail(c, INFER_INVALID, "slice() needs a positive number");
    }
    for (int64_t i = 0; i < n; i++) {
        tpl_val_t row = tpl_new_list(c, TPL_LIST, 0);
        uint64_t  k = l->n / (uint64_t) n + (i < l->n % n);

        while (k-- > 0) {
            tpl_push(c, row, l->v[at++]);
        }
        if (fill != NULL && i >= l->n % n && l->n % n != 0) {
            tpl_push(c, row, *fill);
        }
        tpl_push(c, r, row);
    }

    return r;
}

tpl_val_t
tpl_seq_groupby(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a)
{
    tpl_val_t        attribute = tpl_arg_need(c, a, 0, "attribute");
    const tpl_val_t *dflt = tpl_arg(a, 1, "default");
    int              fold = !tpl_arg_true(a, 2, "case_sensitive", 0);
    tpl_val_t        s = seq_copy(c, v);
    tpl_list_t      *l = s.u.list;
    tpl_val_t       *keys = seq_keys(c, l, &attribute, 0), *folded, *order;
    tpl_val_t        r = tpl_new_list(c, TPL_LIST, 0), rows = tpl_none();

    folded = tpl_array(c, l->n, sizeof(tpl_val_t));
    order = tpl_array(c, l->n, sizeof(tpl_val_t));
    for (uint32_t i = 0; i < l->n; i++) {
        if (keys[i].kind == TPL_UNDEF && dflt != NULL) {
            keys[i] = *dflt;
        }
        folded[i] = fold ? tpl_fold(c, keys[i]) : keys[i];
        order[i] = tpl_int(i);
    }
    tpl_sort(c, folded, order, l->n, 0);

    for (uint32_t i = 0; i < l->n; i++) {
        int64_t at = order[i].u.i;

        if (i == 0 || !tpl_equal(c, folded[i], folded[i - 1])) {
            tpl_val_t g;

            rows = tpl_new_list(c, TPL_LIST, 0);
            g = tpl_pair(c, keys[at], rows);
            g.flag = 1;
            tpl_push(c, r, g);
        }
        tpl_push(c, rows, l->v[at]);
    }

    return r;
}
