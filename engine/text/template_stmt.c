/*
 * template_stmt.c: tokens -> tree, the statements, and the two functions
 * that make and free a compiled template.
 */

#include "text/template_int.h"

static tpl_node_t *stmt_body(tpl_parser_t *p, const char *const *ends);


static void
stmt_end_tag(tpl_parser_t *p)
{
    if (p->toks.t[p->pos].type != TPL_T_BLOCK_END) {
        tpl_unexpected(p);
    }
    p->pos++;
}

/* "endfor" and its tag end; the tag begin is passed. */
static void
stmt_close(tpl_parser_t *p, const char *word)
{
    if (!tpl_take_name(p, word)) {
        tpl_unexpected(p);
    }
    stmt_end_tag(p);
}

static tpl_node_t *
stmt_block(tpl_parser_t *p, const char *end)
{
    const char *const ends[] = { end, NULL };
    tpl_node_t       *n;

    stmt_end_tag(p);
    n = stmt_body(p, ends);
    stmt_close(p, end);
    return n;
}

/* name, name.attr (set only) or a tuple of targets */
static tpl_node_t *
stmt_target(tpl_parser_t *p, int with_attr)
{
    tpl_node_t *first = NULL, **tail = &first, *n;
    int         tuple = 0;

    tpl_parse_enter(p);
    for ( ;; ) {
        if (tpl_take_op(p, '(')) {
            n = stmt_target(p, 0);
            tpl_expect_op(p, ')');

        } else {
            n = tpl_node(p, TPL_N_NAME);
            n->v = tpl_expect_name(p);
            n->id = tpl_name_id(p, n->v);
            if (with_attr && tpl_take_op(p, '.')) {
                tpl_node_t *o = tpl_node(p, TPL_N_ATTR);

                o->a = n;
                o->v = tpl_expect_name(p);
                n = o;
            }
        }
        *tail = n;
        tail = &n->next;
        if (!tpl_take_op(p, ',')) {
            break;
        }
        tuple = 1;
        if (tpl_is_op(p, '=') || tpl_is_op(p, ')') || tpl_is_name(p, "in")) {
            break;
        }
    }

    p->depth--;
    if (!tuple) {
        return first;
    }
    n = tpl_node(p, TPL_N_TUPLE);
    n->list = first;
    return n;
}

static tpl_node_t *
stmt_for(tpl_parser_t *p)
{
    static const char *const ends[] = { "else", "endfor", NULL };
    tpl_node_t              *n = tpl_node(p, TPL_N_FOR);

    n->a = stmt_target(p, 0);
    if (!tpl_take_name(p, "in")) {
        tpl_unexpected(p);
    }
    n->b = tpl_parse_tuple(p, 0);
    if (tpl_take_name(p, "if")) {
        n->c = tpl_parse_expr(p);
    }
    if (tpl_is_name(p, "recursive")) {
        tpl_fail(p->c, INFER_UNSUPPORTED, "recursive loops are not supported");
    }
    stmt_end_tag(p);

    p->loops++;
    n->list = stmt_body(p, ends);
    p->loops--;
    if (tpl_take_name(p, "else")) {
        n->d = tpl_node(p, TPL_N_GROUP);
        n->d->list = stmt_block(p, "endfor");

    } else {
        stmt_close(p, "endfor");
    }

    return n;
}

static tpl_node_t *
stmt_if(tpl_parser_t *p)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    tpl_node_t              *n = tpl_node(p, TPL_N_IF), **tail = &n->list;

    for ( ;; ) {
        tpl_node_t *b = tpl_node(p, TPL_N_BRANCH);

        b->a = tpl_parse_tuple(p, 0);
        stmt_end_tag(p);
        b->list = stmt_body(p, ends);
        *tail = b;
        tail = &b->next;

        if (tpl_take_name(p, "elif")) {
            continue;
        }
        if (tpl_take_name(p, "else")) {
            b = tpl_node(p, TPL_N_BRANCH);
            b->list = stmt_block(p, "endif");
            *tail = b;

        } else {
            stmt_close(p, "endif");
        }
        return n;
    }
}

static tpl_node_t *
stmt_set(tpl_parser_t *p)
{
    tpl_node_t *n = tpl_node(p, TPL_N_SET);

    n->a = stmt_target(p, 1);
    if (tpl_take_op(p, '=')) {
        n->b = tpl_parse_tuple(p, 1);
        stmt_end_tag(p);
        return n;
    }

    n->kind = TPL_N_SETBLOCK;
    n->b = tpl_parse_filters(p, NULL, 0);
    n->list = stmt_block(p, "endset");
    return n;
}

/* ( name, name = default ) */
static tpl_node_t *
stmt_params(tpl_parser_t *p)
{
    tpl_node_t *first = NULL, **tail = &first;
    int         defaults = 0;

    tpl_expect_op(p, '(');
    while (!tpl_take_op(p, ')')) {
        tpl_node_t *n;

        if (first != NULL) {
            tpl_expect_op(p, ',');
            if (tpl_take_op(p, ')')) {
                break;
            }
        }
        n = tpl_node(p, TPL_N_PARAM);
        n->v = tpl_expect_name(p);
        n->id = tpl_name_id(p, n->v);
        if (tpl_take_op(p, '=')) {
            n->a = tpl_parse_expr(p);
            defaults = 1;

        } else if (defaults) {
            tpl_fail(p->c, INFER_INVALID,
                     "non-default argument follows default argument");
        }
        *tail = n;
        tail = &n->next;
    }

    return first;
}

static tpl_node_t *
stmt_macro(tpl_parser_t *p)
{
    tpl_node_t *n = tpl_node(p, TPL_N_MACRO);
    uint32_t    loops = p->loops;

    n->v = tpl_expect_name(p);
    n->id = tpl_name_id(p, n->v);
    n->a = stmt_params(p);
    p->loops = 0;
    n->list = stmt_block(p, "endmacro");
    p->loops = loops;
    return n;
}

static tpl_node_t *
stmt_call(tpl_parser_t *p)
{
    tpl_node_t *n = tpl_node(p, TPL_N_CALLBLOCK);
    uint32_t    loops = p->loops;

    n->b = tpl_node(p, TPL_N_MACRO);
    n->b->v = tpl_cstr("caller");
    if (tpl_is_op(p, '(')) {
        n->b->a = stmt_params(p);
    }
    n->a = tpl_parse_expr(p);
    if (n->a->kind != TPL_N_CALL) {
        tpl_fail(p->c, INFER_INVALID, "a call block needs a call");
    }
    p->loops = 0;
    n->b->list = stmt_block(p, "endcall");
    p->loops = loops;
    return n;
}

static tpl_node_t *
stmt_with(tpl_parser_t *p)
{
    tpl_node_t *n = tpl_node(p, TPL_N_WITH), **tail = &n->a;

    while (p->toks.t[p->pos].type != TPL_T_BLOCK_END) {
        tpl_node_t *s;

        if (n->a != NULL) {
            tpl_expect_op(p, ',');
        }
        s = tpl_node(p, TPL_N_SET);
        s->a = tpl_node(p, TPL_N_NAME);
        s->a->v = tpl_expect_name(p);
        s->a->id = tpl_name_id(p, s->a->v);
        tpl_expect_op(p, '=');
        s->b = tpl_parse_expr(p);
        *tail = s;
        tail = &s->next;
    }
    n->list = stmt_block(p, "endwith");
    return n;
}

static tpl_node_t *
stmt_jump(tpl_parser_t *p, int kind)
{
    tpl_node_t *n = tpl_node(p, kind);

    if (p->loops == 0) {
        tpl_fail(p->c, INFER_INVALID, "break or continue outside a loop");
    }
    stmt_end_tag(p);
    return n;
}

/* One tag; its begin is passed. */
static tpl_node_t *
stmt_tag(tpl_parser_t *p)
{
    tpl_node_t *n;

    if (tpl_take_name(p, "for")) {
        return stmt_for(p);
    }
    if (tpl_take_name(p, "if")) {
        return stmt_if(p);
    }
    if (tpl_take_name(p, "set")) {
        return stmt_set(p);
    }
    if (tpl_take_name(p, "macro")) {
        return stmt_macro(p);
    }
    if (tpl_take_name(p, "call")) {
        return stmt_call(p);
    }
    if (tpl_take_name(p, "with")) {
        return stmt_with(p);
    }
    if (tpl_take_name(p, "break")) {
        return stmt_jump(p, TPL_N_BREAK);
    }
    if (tpl_take_name(p, "continue")) {
        return stmt_jump(p, TPL_N_CONTINUE);
    }
    if (tpl_take_name(p, "filter")) {
        n = tpl_node(p, TPL_N_FILTERBLOCK);
        n->b = tpl_parse_filters(p, NULL, 1);
        n->list = stmt_block(p, "endfilter");
        return n;
    }
    if (tpl_take_name(p, "generation")) {
        n = tpl_node(p, TPL_N_GROUP);
        n->list = stmt_block(p, "endgeneration");
        return n;
    }
    if (tpl_take_name(p, "do")) {
        n = tpl_node(p, TPL_N_DO);
        n->a = tpl_parse_expr(p);
        stmt_end_tag(p);
        return n;
    }

    static const char *const missing[] = {
        "include", "import", "from", "extends", "block", "autoescape",
        "trans"
    };

    for (size_t i = 0; i < sizeof(missing) / sizeof(missing[0]); i++) {
        if (tpl_is_name(p, missing[i])) {
            tpl_fail(p->c, INFER_UNSUPPORTED, "tag \"%s\" is not supported",
                     missing[i]);
        }
    }
    tpl_unexpected(p);
}

/* Up to a tag that starts with one of ends (NULL: the end of the template);
 * its begin is passed then. */
static tpl_node_t *
stmt_body(tpl_parser_t *p, const char *const *ends)
{
    tpl_node_t *first = NULL, **tail = &first;

    tpl_parse_enter(p);
    for ( ;; ) {
        const tpl_token_t *t = &p->toks.t[p->pos];
        tpl_node_t        *n;

        p->c->line = t->line;
        if (t->type == TPL_T_EOF) {
            if (ends != NULL) {
                tpl_unexpected(p);
            }
            break;
        }
        if (t->type == TPL_T_DATA) {
            n = tpl_node(p, TPL_N_DATA);
            n->v = t->v;
            p->pos++;

        } else if (t->type == TPL_T_VAR_BEGIN) {
            n = tpl_node(p, TPL_N_OUTPUT);
            p->pos++;
            n->a = tpl_parse_tuple(p, 1);
            if (p->toks.t[p->pos].type != TPL_T_VAR_END) {
                tpl_unexpected(p);
            }
            p->pos++;

        } else {
            p->pos++;
            for (uint32_t i = 0; ends != NULL && ends[i] != NULL; i++) {
                if (tpl_is_name(p, ends[i])) {
                    p->depth--;
                    return first;
                }
            }
            n = stmt_tag(p);
        }
        *tail = n;
        tail = &n->next;
    }

    p->depth--;
    return first;
}

tpl_node_t *
tpl_parse(tpl_parser_t *p)
{
    return stmt_body(p, NULL);
}

/* Everything that may longjmp; apart, so that no local of the caller
 * changes after setjmp. */
static void
stmt_compile(tpl_ctx_t *c, infer_template_t *t, const char *src, size_t len)
{
    tpl_parser_t p = { .c = c, .tpl = t };

    if (len > TPL_MAX_SOURCE) {
        tpl_fail(c, INFER_INVALID, "longer than %u bytes", TPL_MAX_SOURCE);
    }
    if (!tpl_utf8_valid(src, len)) {
        tpl_fail(c, INFER_INVALID, "not valid UTF-8");
    }

    /* a copy with newlines as Jinja has them */
    char  *s = tpl_alloc(c, len + 1);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (src[i] == '\0') {
            tpl_fail(c, INFER_INVALID, "a NUL byte, so it is no text");
        }
        if (src[i] == '\r') {
            s[n++] = '\n';
            i += i + 1 < len && src[i + 1] == '\n';

        } else {
            s[n++] = src[i];
        }
        c->line += s[n - 1] == '\n';
    }

    c->line = 1;

    static const char *const fixed[] = { "loop", "varargs", "kwargs",
                                         "caller" };

    for (uint32_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
        (void) tpl_name_id(&p, tpl_cstr(fixed[i]));
    }

    tpl_lex(c, s, n, &p.toks);
    c->line = 1;
    t->body = tpl_parse(&p);
}

int
infer_template_compile(infer_template_t **tpl, const char *src, size_t len,
    infer_err_t *err)
{
    tpl_ctx_t *c = calloc(1, sizeof(tpl_ctx_t));
    infer_template_t *t = calloc(1, sizeof(infer_template_t));
    int rc;

    *tpl = NULL;
    if (c == NULL || t == NULL) {
        free(c);
        free(t);
        return infer_err(err, INFER_NOMEM, "out of memory");
    }
    c->err = err;
    c->line = 1;
    c->cap = TPL_COMPILE_CAP;
    c->max_output = TPL_MAX_SOURCE;
    c->steps = UINT64_MAX;

    if (setjmp(c->env) == 0) {
        stmt_compile(c, t, src, len);
    }

    rc = c->rc;
    t->chunks = c->chunks;
    free(c);
    if (rc != INFER_OK) {
        infer_template_free(t);
        return rc;
    }

    *tpl = t;
    return INFER_OK;
}

void
infer_template_free(infer_template_t *tpl)
{
    if (tpl != NULL) {
        tpl_free_chunks(tpl->chunks);
        free(tpl);
    }
}
