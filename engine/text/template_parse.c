/*
 * template_parse.c: tokens -> tree, the expressions. A recursive descent
 * with the nesting counted; chains (a + b + c, x | f | g) are loops.
 * Statements are in template_stmt.c.
 */

#include "text/template_int.h"

static tpl_node_t *parse_or(tpl_parser_t *p);
static tpl_node_t *parse_unary(tpl_parser_t *p, int filters);


tpl_node_t *
tpl_node(tpl_parser_t *p, int kind)
{
    tpl_node_t *n = tpl_alloc(p->c, sizeof(tpl_node_t));

    memset(n, 0, sizeof(tpl_node_t));
    n->kind = (uint8_t) kind;
    n->line = p->toks.t[p->pos].line;
    return n;
}

static const tpl_token_t *
parse_tok(const tpl_parser_t *p)
{
    return &p->toks.t[p->pos];
}

/* The last token is EOF and is never passed. */
static void
parse_next(tpl_parser_t *p)
{
    if (parse_tok(p)->type != TPL_T_EOF) {
        p->pos++;
    }
    p->c->line = parse_tok(p)->line;
}

void
tpl_unexpected(tpl_parser_t *p)
{
    const tpl_token_t *t = parse_tok(p);

    p->c->line = t->line;
    switch (t->type) {
    case TPL_T_EOF:
        tpl_fail(p->c, INFER_INVALID, "unexpected end of the template");
    case TPL_T_NAME:
        tpl_fail(p->c, INFER_INVALID, "unexpected \"%.*s\"",
                 (int) (t->v.len < 64 ? t->v.len : 64), t->v.u.s);
    case TPL_T_OP:
        if (t->op < 128) {
            tpl_fail(p->c, INFER_INVALID, "unexpected '%c'", t->op);
        }
        tpl_fail(p->c, INFER_INVALID, "unexpected operator");
    case TPL_T_BLOCK_END:
    case TPL_T_VAR_END:
        tpl_fail(p->c, INFER_INVALID, "unexpected end of a tag");
    default:
        tpl_fail(p->c, INFER_INVALID, "syntax error");
    }
}

void
tpl_parse_enter(tpl_parser_t *p)
{
    if (++p->depth > TPL_MAX_NEST) {
        tpl_fail(p->c, INFER_INVALID, "nested too deeply");
    }
}

int
tpl_is_op(const tpl_parser_t *p, int op)
{
    const tpl_token_t *t = parse_tok(p);

    return t->type == TPL_T_OP && t->op == op;
}

int
tpl_take_op(tpl_parser_t *p, int op)
{
    if (!tpl_is_op(p, op)) {
        return 0;
    }
    parse_next(p);
    return 1;
}

void
tpl_expect_op(tpl_parser_t *p, int op)
{
    if (!tpl_take_op(p, op)) {
        tpl_unexpected(p);
    }
}

int
tpl_is_name(const tpl_parser_t *p, const char *s)
{
    const tpl_token_t *t = parse_tok(p);

    return t->type == TPL_T_NAME && tpl_is_str(t->v, s);
}

int
tpl_take_name(tpl_parser_t *p, const char *s)
{
    if (!tpl_is_name(p, s)) {
        return 0;
    }
    parse_next(p);
    return 1;
}

tpl_val_t
tpl_expect_name(tpl_parser_t *p)
{
    const tpl_token_t *t = parse_tok(p);

    if (t->type != TPL_T_NAME) {
        tpl_unexpected(p);
    }
    parse_next(p);
    return t->v;
}

uint32_t
tpl_name_id(tpl_parser_t *p, tpl_val_t name)
{
    infer_template_t *t = p->tpl;

    for (uint32_t i = 0; i < t->n_names; i++) {
        if (t->names[i].len == name.len
            && memcmp(t->names[i].u.s, name.u.s, name.len) == 0)
        {
            return i;
        }
    }

    if (t->n_names == t->cap_names) {
        uint32_t cap = t->cap_names != 0 ? t->cap_names * 2 : 32;
        tpl_val_t *v;

        if (cap > 2048) {
            tpl_fail(p->c, INFER_INVALID, "too many names");
        }
        v = tpl_array(p->c, cap, sizeof(tpl_val_t));
        if (t->n_names != 0) {
            memcpy(v, t->names, t->n_names * sizeof(tpl_val_t));
        }
        t->names = v;
        t->cap_names = cap;
    }
    t->names[t->n_names] = name;
    return t->n_names++;
}

/* ( ... ) of a call or filter; the opening one is passed. */
static tpl_node_t *
parse_args(tpl_parser_t *p)
{
    tpl_node_t *first = NULL, **tail = &first;
    int         named = 0;

    while (!tpl_take_op(p, ')')) {
        const tpl_token_t *t = parse_tok(p);
        tpl_node_t        *n;

        if (first != NULL) {
            tpl_expect_op(p, ',');
            if (tpl_take_op(p, ')')) {
                break;
            }
            t = parse_tok(p);
        }

        if (tpl_is_op(p, '*') || tpl_is_op(p, TPL_OP_POW)) {
            n = tpl_node(p, tpl_is_op(p, '*') ? TPL_N_STAR : TPL_N_STARSTAR);
            parse_next(p);
            n->a = tpl_parse_expr(p);
            named |= n->kind == TPL_N_STARSTAR;

        } else if (t->type == TPL_T_NAME && t[1].type == TPL_T_OP
                   && t[1].op == '=')
        {
            n = tpl_node(p, TPL_N_KWARG);
            n->v = tpl_expect_name(p);
            parse_next(p);
            n->a = tpl_parse_expr(p);
            named = 1;

        } else {
            if (named) {
                tpl_unexpected(p);
            }
            n = tpl_parse_expr(p);
        }

        *tail = n;
        tail = &n->next;
    }

    return first;
}

static tpl_node_t *
parse_dict(tpl_parser_t *p)
{
    tpl_node_t *n = tpl_node(p, TPL_N_DICT), **tail = &n->list;

    while (!tpl_take_op(p, '}')) {
        tpl_node_t *pair;

        if (n->list != NULL) {
            tpl_expect_op(p, ',');
            if (tpl_take_op(p, '}')) {
                break;
            }
        }
        pair = tpl_node(p, TPL_N_PAIR);
        pair->a = tpl_parse_expr(p);
        tpl_expect_op(p, ':');
        pair->b = tpl_parse_expr(p);
        *tail = pair;
        tail = &pair->next;
    }

    return n;
}

static tpl_node_t *
parse_list(tpl_parser_t *p)
{
    tpl_node_t *n = tpl_node(p, TPL_N_LIST), **tail = &n->list;

    while (!tpl_take_op(p, ']')) {
        if (n->list != NULL) {
            tpl_expect_op(p, ',');
            if (tpl_take_op(p, ']')) {
                break;
            }
        }
        *tail = tpl_parse_expr(p);
        tail = &(*tail)->next;
    }

    return n;
}

static tpl_node_t *
parse_name(tpl_parser_t *p)
{
    tpl_node_t *n = tpl_node(p, TPL_N_CONST);
    tpl_val_t   v = tpl_expect_name(p);

    if (tpl_is_str(v, "true") || tpl_is_str(v, "True")) {
        n->v = tpl_bool(1);

    } else if (tpl_is_str(v, "false") || tpl_is_str(v, "False")) {
        n->v = tpl_bool(0);

    } else if (tpl_is_str(v, "none") || tpl_is_str(v, "None")) {
        n->v = tpl_none();

    } else {
        n->kind = TPL_N_NAME;
        n->id = tpl_name_id(p, v);
        n->v = v;
    }

    return n;
}

tpl_node_t *
tpl_parse_primary(tpl_parser_t *p)
{
    const tpl_token_t *t = parse_tok(p);
    tpl_node_t        *n;

    switch (t->type) {
    case TPL_T_NAME:
        return parse_name(p);

    case TPL_T_INT:
    case TPL_T_FLOAT:
        n = tpl_node(p, TPL_N_CONST);
        n->v = t->v;
        parse_next(p);
        return n;

    case TPL_T_STR:
        n = tpl_node(p, TPL_N_CONST);
        n->v = t->v;
        parse_next(p);
        if (parse_tok(p)->type == TPL_T_STR) {
            tpl_buf_t b = { 0 };

            tpl_put(p->c, &b, n->v.u.s, n->v.len);
            while (parse_tok(p)->type == TPL_T_STR) {
                tpl_put(p->c, &b, parse_tok(p)->v.u.s, parse_tok(p)->v.len);
                parse_next(p);
            }
            n->v = tpl_buf_str(&b);
        }
        return n;

    default:
        break;
    }

    if (tpl_take_op(p, '(')) {
        if (tpl_is_op(p, ')')) {
            n = tpl_node(p, TPL_N_TUPLE);

        } else {
            n = tpl_parse_tuple(p, 1);
        }
        tpl_expect_op(p, ')');
        return n;
    }
    if (tpl_take_op(p, '[')) {
        return parse_list(p);
    }
    if (tpl_take_op(p, '{')) {
        return parse_dict(p);
    }

    tpl_unexpected(p);
}

/* What stands in [ ]: an expression, a tuple or a slice. */
static tpl_node_t *
parse_subscript(tpl_parser_t *p)
{
    tpl_node_t *s = tpl_node(p, TPL_N_SLICE);

    if (!tpl_is_op(p, ':')) {
        tpl_node_t *n = tpl_parse_tuple(p, 1);

        if (!tpl_is_op(p, ':')) {
            return n;
        }
        s->a = n;
    }

    tpl_expect_op(p, ':');
    if (!tpl_is_op(p, ':') && !tpl_is_op(p, ']')) {
        s->b = tpl_parse_expr(p);
    }
    if (tpl_take_op(p, ':') && !tpl_is_op(p, ']')) {
        s->c = tpl_parse_expr(p);
    }

    return s;
}

static tpl_node_t *
parse_call(tpl_parser_t *p, tpl_node_t *f)
{
    tpl_node_t *n = tpl_node(p, TPL_N_CALL);

    n->a = f;
    n->list = parse_args(p);
    return n;
}

tpl_node_t *
tpl_parse_postfix(tpl_parser_t *p, tpl_node_t *o)
{
    for ( ;; ) {
        tpl_node_t *n;

        if (tpl_take_op(p, '.')) {
            const tpl_token_t *t = parse_tok(p);

            if (t->type == TPL_T_INT) {
                n = tpl_node(p, TPL_N_ITEM);
                n->b = tpl_parse_primary(p);

            } else {
                n = tpl_node(p, TPL_N_ATTR);
                n->v = tpl_expect_name(p);
            }
            n->a = o;

        } else if (tpl_take_op(p, '[')) {
            n = tpl_node(p, TPL_N_ITEM);
            n->a = o;
            n->b = parse_subscript(p);
            tpl_expect_op(p, ']');

        } else if (tpl_take_op(p, '(')) {
            n = parse_call(p, o);

        } else {
            return o;
        }
        o = n;
    }
}

/* name or name.name, as filters and tests have */
static tpl_val_t
parse_dotted(tpl_parser_t *p)
{
    tpl_val_t v = tpl_expect_name(p);

    while (tpl_is_op(p, '.')) {
        tpl_buf_t b = { 0 };
        tpl_val_t w;

        parse_next(p);
        w = tpl_expect_name(p);
        tpl_put(p->c, &b, v.u.s, v.len);
        tpl_put(p->c, &b, ".", 1);
        tpl_put(p->c, &b, w.u.s, w.len);
        v = tpl_buf_str(&b);
    }

    return v;
}

static int
parse_test_arg_follows(const tpl_parser_t *p)
{
    switch (parse_tok(p)->type) {
    case TPL_T_NAME:
        return !tpl_is_name(p, "else") && !tpl_is_name(p, "or")
               && !tpl_is_name(p, "and") && !tpl_is_name(p, "is")
               && !tpl_is_name(p, "if") && !tpl_is_name(p, "in")
               && !tpl_is_name(p, "not") && !tpl_is_name(p, "recursive");
    case TPL_T_STR:
    case TPL_T_INT:
    case TPL_T_FLOAT:
        return 1;
    default:
        return tpl_is_op(p, '[') || tpl_is_op(p, '{');
    }
}

static tpl_node_t *
parse_test(tpl_parser_t *p, tpl_node_t *o)
{
    int         negate = tpl_take_name(p, "not");
    tpl_node_t *n = tpl_node(p, TPL_N_TEST);

    n->a = o;
    n->v = parse_dotted(p);
    n->func = tpl_find(tpl_tests, n->v);
    if (tpl_take_op(p, '(')) {
        n->list = parse_args(p);

    } else if (parse_test_arg_follows(p)) {
        n->list = tpl_parse_postfix(p, tpl_parse_primary(p));
    }

    if (negate) {
        o = tpl_node(p, TPL_N_NOT);
        o->a = n;
        n = o;
    }

    return n;
}

static tpl_node_t *
parse_filter(tpl_parser_t *p, tpl_node_t *o)
{
    tpl_node_t *n = tpl_node(p, TPL_N_FILTER);

    n->a = o;
    n->v = parse_dotted(p);
    n->func = tpl_find(tpl_filters, n->v);
    if (tpl_take_op(p, '(')) {
        n->list = parse_args(p);
    }

    return n;
}

/* first: a filter name may stand without its bar ({% filter upper %}) */
tpl_node_t *
tpl_parse_filters(tpl_parser_t *p, tpl_node_t *o, int first)
{
    if (first) {
        o = parse_filter(p, o);
    }
    while (tpl_take_op(p, '|')) {
        o = parse_filter(p, o);
    }

    return o;
}

static tpl_node_t *
parse_unary(tpl_parser_t *p, int filters)
{
    tpl_node_t *n;

    tpl_parse_enter(p);
    if (tpl_is_op(p, '-') || tpl_is_op(p, '+')) {
        n = tpl_node(p, tpl_is_op(p, '-') ? TPL_N_NEG : TPL_N_POS);
        parse_next(p);
        n->a = parse_unary(p, 0);

    } else {
        n = tpl_parse_primary(p);
    }
    n = tpl_parse_postfix(p, n);

    while (filters) {
        if (tpl_take_op(p, '|')) {
            n = parse_filter(p, n);

        } else if (tpl_take_name(p, "is")) {
            n = parse_test(p, n);

        } else if (tpl_take_op(p, '(')) {
            n = parse_call(p, n);

        } else {
            break;
        }
    }

    p->depth--;
    return n;
}

/* Binary operators by level, loosest first. */
static const uint8_t parse_levels[][5] = {
    { '+', '-', 0 },
    { '~', 0 },
    { '*', '/', TPL_OP_FLOOR, '%', 0 },
    { TPL_OP_POW, 0 }
};

#define PARSE_LEVELS  4

static tpl_node_t *
parse_binary(tpl_parser_t *p, uint32_t level)
{
    if (level == PARSE_LEVELS) {
        return parse_unary(p, 1);
    }

    tpl_node_t *n = parse_binary(p, level + 1);

    for ( ;; ) {
        const tpl_token_t *t = parse_tok(p);
        tpl_node_t        *b;

        if (t->type != TPL_T_OP || t->op == 0
            || strchr((const char *) parse_levels[level], t->op) == NULL)
        {
            return n;
        }
        b = tpl_node(p, TPL_N_BINARY);
        b->op = t->op;
        parse_next(p);
        b->a = n;
        b->b = parse_binary(p, level + 1);
        n = b;
    }
}

static int
parse_compare_op(tpl_parser_t *p)
{
    const tpl_token_t *t = parse_tok(p);

    if (t->type == TPL_T_OP
        && (t->op == '<' || t->op == '>'
            || (t->op >= TPL_OP_EQ && t->op <= TPL_OP_GE)))
    {
        parse_next(p);
        return t->op;
    }
    if (tpl_take_name(p, "in")) {
        return TPL_OP_IN;
    }
    if (tpl_is_name(p, "not") && t[1].type == TPL_T_NAME
        && tpl_is_str(t[1].v, "in"))
    {
        parse_next(p);
        parse_next(p);
        return TPL_OP_NOT_IN;
    }

    return 0;
}

static tpl_node_t *
parse_compare(tpl_parser_t *p)
{
    tpl_node_t  *n = parse_binary(p, 0), *first = NULL, **tail = &first;
    int          op;

    while ((op = parse_compare_op(p)) != 0) {
        tpl_node_t *cmp = tpl_node(p, TPL_N_CMP);

        cmp->op = (uint8_t) op;
        cmp->a = parse_binary(p, 0);
        *tail = cmp;
        tail = &cmp->next;
    }

    if (first != NULL) {
        tpl_node_t *o = tpl_node(p, TPL_N_COMPARE);

        o->a = n;
        o->list = first;
        n = o;
    }

    return n;
}

static tpl_node_t *
parse_not(tpl_parser_t *p)
{
    uint32_t nots = 0;

    while (tpl_take_name(p, "not")) {
        nots++;
    }

    tpl_node_t *n = parse_compare(p);

    /* not not not x is not x */
    for (nots = nots > 2 ? 2 - (nots & 1) : nots; nots != 0; nots--) {
        tpl_node_t *o = tpl_node(p, TPL_N_NOT);

        o->a = n;
        n = o;
    }

    return n;
}

static tpl_node_t *
parse_and(tpl_parser_t *p)
{
    tpl_node_t *n = parse_not(p);

    while (tpl_take_name(p, "and")) {
        tpl_node_t *o = tpl_node(p, TPL_N_AND);

        o->a = n;
        o->b = parse_not(p);
        n = o;
    }

    return n;
}

static tpl_node_t *
parse_or(tpl_parser_t *p)
{
    tpl_node_t *n = parse_and(p);

    while (tpl_take_name(p, "or")) {
        tpl_node_t *o = tpl_node(p, TPL_N_OR);

        o->a = n;
        o->b = parse_and(p);
        n = o;
    }

    return n;
}

static tpl_node_t *
parse_cond(tpl_parser_t *p, int with_cond)
{
    tpl_parse_enter(p);

    tpl_node_t *n = parse_or(p);

    while (with_cond && tpl_take_name(p, "if")) {
        tpl_node_t *o = tpl_node(p, TPL_N_COND);

        o->a = n;
        o->b = parse_or(p);
        if (tpl_take_name(p, "else")) {
            o->c = parse_cond(p, 1);
        }
        n = o;
    }

    p->depth--;
    return n;
}

tpl_node_t *
tpl_parse_expr(tpl_parser_t *p)
{
    return parse_cond(p, 1);
}

/* One expression, or a tuple where a comma follows. */
tpl_node_t *
tpl_parse_tuple(tpl_parser_t *p, int with_cond)
{
    tpl_node_t *n = parse_cond(p, with_cond), *t, **tail;

    if (!tpl_is_op(p, ',')) {
        return n;
    }

    t = tpl_node(p, TPL_N_TUPLE);
    t->list = n;
    tail = &n->next;
    while (tpl_take_op(p, ',')) {
        const tpl_token_t *k = parse_tok(p);

        if (k->type == TPL_T_BLOCK_END || k->type == TPL_T_VAR_END
            || tpl_is_op(p, ')') || tpl_is_op(p, ']') || tpl_is_op(p, '=')
            || tpl_is_name(p, "in"))
        {
            break;
        }
        *tail = parse_cond(p, with_cond);
        tail = &(*tail)->next;
    }

    return t;
}
