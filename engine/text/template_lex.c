/*
 * template_lex.c: template source -> tokens, whitespace control included
 * (trim_blocks and lstrip_blocks on, one newline at the end dropped, as the
 * environment that chat templates are written for). Reads src[0..len) only.
 */

#include <errno.h>

#include "text/template_int.h"

typedef struct {
    tpl_ctx_t     *c;
    const char    *src;
    size_t         len, pos;
    uint32_t       line;
    int            line_start;   /* the last token ended with a newline */
    tpl_tokens_t  *out;
} lex_t;


static tpl_token_t *
lex_push(lex_t *x, int type)
{
    tpl_tokens_t *o = x->out;

    if (o->n == o->cap) {
        uint32_t cap = o->cap != 0 ? o->cap * 2 : 64;
        tpl_token_t *t = tpl_array(x->c, cap, sizeof(tpl_token_t));

        if (o->n != 0) {
            memcpy(t, o->t, o->n * sizeof(tpl_token_t));
        }
        o->t = t;
        o->cap = cap;
    }

    tpl_token_t *t = &o->t[o->n++];

    memset(t, 0, sizeof(tpl_token_t));
    t->type = (uint8_t) type;
    t->line = x->line;
    return t;
}

static int
lex_at(const lex_t *x, size_t pos, const char *s)
{
    size_t n = strlen(s);

    return pos <= x->len && n <= x->len - pos
           && memcmp(x->src + pos, s, n) == 0;
}

static int
lex_space(char ch)
{
    return ch == ' ' || (ch >= 9 && ch <= 13);
}

/* Moves on and counts lines. */
static void
lex_move(lex_t *x, size_t to)
{
    for ( ; x->pos < to; x->pos++) {
        x->line += x->src[x->pos] == '\n';
    }
    x->c->line = x->line;
}

/* After the end mark of a block or comment: sign '-' eats white space,
 * no sign eats one newline. */
static void
lex_after(lex_t *x, char sign, int trim)
{
    size_t from = x->pos, to = x->pos;

    if (sign == '-') {
        while (to < x->len && lex_space(x->src[to])) {
            to++;
        }

    } else if (sign == 0 && trim && to < x->len && x->src[to] == '\n') {
        to++;
    }
    lex_move(x, to);
    x->line_start = to > from && x->src[to - 1] == '\n';
}

/* Text before a tag that starts at end; sign is the tag's own. */
static void
lex_data(lex_t *x, size_t end, char sign, int lstrip)
{
    size_t from = x->pos, to = end, i;

    if (sign == '-') {
        while (to > from && lex_space(x->src[to - 1])) {
            to--;
        }

    } else if (sign == 0 && lstrip) {
        for (i = to; i > from && x->src[i - 1] != '\n'
                     && lex_space(x->src[i - 1]); i--)
        {
            /* void */
        }
        if (i > from ? x->src[i - 1] == '\n' : x->line_start) {
            to = i;
        }
    }

    if (to > from) {
        lex_push(x, TPL_T_DATA)->v = tpl_str(x->src + from, to - from);
    }
    lex_move(x, end);
}

static uint32_t
lex_hex(lex_t *x, size_t *i, size_t end, int digits)
{
    uint32_t v = 0;

    for (int k = 0; k < digits; k++, (*i)++) {
        char ch = *i < end ? x->src[*i] : 0;

        if (ch >= '0' && ch <= '9') {
            v = v * 16 + (uint32_t) (ch - '0');

        } else if ((ch | 32) >= 'a' && (ch | 32) <= 'f') {
            v = v * 16 + (uint32_t) ((ch | 32) - 'a' + 10);

        } else {
            tpl_fail(x->c, INFER_INVALID, "bad escape in a string");
        }
    }

    return v;
}

/* One escape; *i is behind the backslash. */
static void
lex_escape(lex_t *x, tpl_buf_t *b, size_t *i, size_t end)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    char              ch = x->src[(*i)++];
    const char       *p = memchr(from, ch, sizeof(from) - 1);
    uint32_t          cp;

    if (p != NULL) {
        tpl_put(x->c, b, &to[p - from], 1);
        return;
    }
    if (ch == '\n') {
        return;
    }

    if (ch == 'x' || ch == 'u' || ch == 'U') {
        cp = lex_hex(x, i, end, ch == 'x' ? 2 : ch == 'u' ? 4 : 8);

    } else if (ch >= '0' && ch <= '7') {
        cp = (uint32_t) (ch - '0');
        for (int k = 0; k < 2 && *i < end && x->src[*i] >= '0'
                        && x->src[*i] <= '7'; k++)
        {
            cp = cp * 8 + (uint32_t) (x->src[(*i)++] - '0');
        }

    } else {
        tpl_put(x->c, b, "\\", 1);
        tpl_put(x->c, b, &ch, 1);
        return;
    }

    if (cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) {
        tpl_fail(x->c, INFER_INVALID, "bad code point in a string");
    }
    tpl_put_cp(x->c, b, cp, 0);
}

static void
lex_string(lex_t *x)
{
    char      quote = x->src[x->pos];
    size_t    i = x->pos + 1, end = i;
    tpl_buf_t b = { 0 };

    while (end < x->len && x->src[end] != quote) {
        end += x->src[end] == '\\' ? 2 : 1;
    }
    if (end >= x->len) {
        tpl_fail(x->c, INFER_INVALID, "a string has no end");
    }

    tpl_token_t *t = lex_push(x, TPL_T_STR);

    if (memchr(x->src + i, '\\', end - i) == NULL) {
        t->v = tpl_str(x->src + i, end - i);

    } else {
        while (i < end) {
            if (x->src[i] == '\\') {
                i++;
                lex_escape(x, &b, &i, end);

            } else {
                tpl_put(x->c, &b, &x->src[i++], 1);
            }
        }
        t->v = tpl_buf_str(&b);
    }
    lex_move(x, end + 1);
}

static int
lex_digit(const lex_t *x, size_t i, int base)
{
    char ch = i < x->len ? x->src[i] : 0;

    if (base == 16 && (ch | 32) >= 'a' && (ch | 32) <= 'f') {
        return 1;
    }

    return ch >= '0' && ch < '0' + (base < 10 ? base : 10);
}

static size_t
lex_digits(const lex_t *x, size_t i, int base)
{
    while (lex_digit(x, i, base)
           || (i < x->len && x->src[i] == '_' && lex_digit(x, i + 1, base)))
    {
        i++;
    }

    return i;
}

static void
lex_number(lex_t *x)
{
    char   text[64], *p = text;
    size_t i = x->pos, from = i, e;
    int    base = 10, is_float = 0;

    if (x->src[i] == '0' && i + 2 < x->len) {
        char k = (char) (x->src[i + 1] | 32);

        base = k == 'x' ? 16 : k == 'o' ? 8 : k == 'b' ? 2 : 10;
        if (base != 10 && !lex_digit(x, i + 2, base)) {
            base = 10;
        }
        from = i = base != 10 ? i + 2 : i;
    }

    i = lex_digits(x, i, base);
    if (base == 10) {
        if (i < x->len && x->src[i] == '.' && lex_digit(x, i + 1, 10)) {
            is_float = 1;
            i = lex_digits(x, i + 1, 10);
        }
        if (i < x->len && (x->src[i] | 32) == 'e') {
            e = i + 1;
            e += e < x->len && (x->src[e] == '+' || x->src[e] == '-');
            if (lex_digit(x, e, 10)) {
                is_float = 1;
                i = lex_digits(x, e, 10);
            }
        }
    }

    if (i - from >= sizeof(text)) {
        tpl_fail(x->c, INFER_INVALID, "a number is too long");
    }
    for (size_t k = from; k < i; k++) {
        if (x->src[k] != '_') {
            *p++ = x->src[k];
        }
    }
    *p = '\0';

    tpl_token_t *t = lex_push(x, is_float ? TPL_T_FLOAT : TPL_T_INT);

    if (is_float) {
        t->v = tpl_float(strtod(text, NULL));

    } else {
        errno = 0;
        t->v = tpl_int(strtoll(text, NULL, base));
        if (errno != 0) {
            tpl_fail(x->c, INFER_INVALID, "integer \"%s\" is too large", text);
        }
    }
    lex_move(x, i);
}

static int
lex_name_char(char ch)
{
    return ((ch | 32) >= 'a' && (ch | 32) <= 'z') || ch == '_'
           || (ch >= '0' && ch <= '9') || (ch & 0x80) != 0;
}

static void
lex_operator(lex_t *x)
{
    static const struct {
        char     s[3];
        uint8_t  op;
    } two[] = {
        { "==", TPL_OP_EQ }, { "!=", TPL_OP_NE }, { "<=", TPL_OP_LE },
        { ">=", TPL_OP_GE }, { "//", TPL_OP_FLOOR }, { "**", TPL_OP_POW }
    };

    for (size_t k = 0; k < sizeof(two) / sizeof(two[0]); k++) {
        if (lex_at(x, x->pos, two[k].s)) {
            lex_push(x, TPL_T_OP)->op = two[k].op;
            lex_move(x, x->pos + 2);
            return;
        }
    }

    char ch = x->src[x->pos];

    if (ch == '\0' || strchr("+-*/%~<>=()[]{},:.|", ch) == NULL) {
        tpl_fail(x->c, INFER_INVALID, "unexpected character (code %u)",
                 (unsigned char) ch);
    }
    lex_push(x, TPL_T_OP)->op = (uint8_t) ch;
    lex_move(x, x->pos + 1);
}

/* Inside {{ }} or {% %}, up to and with the end mark. */
static void
lex_expr(lex_t *x, int end_type)
{
    const char *mark = end_type == TPL_T_VAR_END ? "}}" : "%}";
    uint32_t    braces = 0;

    for ( ;; ) {
        while (x->pos < x->len && lex_space(x->src[x->pos])) {
            lex_move(x, x->pos + 1);
        }
        if (x->pos >= x->len) {
            tpl_fail(x->c, INFER_INVALID, "the template ends inside a tag");
        }

        char ch = x->src[x->pos];
        char sign = ch == '-' || (ch == '+' && mark[0] == '%') ? ch : 0;

        if (braces == 0 && lex_at(x, x->pos + (sign != 0), mark)) {
            lex_push(x, end_type);
            lex_move(x, x->pos + (sign != 0) + 2);
            lex_after(x, sign, mark[0] == '%');
            return;
        }

        if (ch == '"' || ch == '\'') {
            lex_string(x);

        } else if (ch >= '0' && ch <= '9') {
            lex_number(x);

        } else if (lex_name_char(ch)) {
            size_t i = x->pos;

            while (i < x->len && lex_name_char(x->src[i])) {
                i++;
            }
            lex_push(x, TPL_T_NAME)->v = tpl_str(x->src + x->pos,
                                                 i - x->pos);
            lex_move(x, i);

        } else {
            braces += ch == '{' || ch == '[' || ch == '(';
            braces -= (ch == '}' || ch == ']' || ch == ')') && braces != 0;
            lex_operator(x);
        }
    }
}

/* Length of "{% word %}" at pos with its signs, or 0. */
static size_t
lex_word_tag(const lex_t *x, size_t pos, const char *word, char *sign,
    char *end_sign)
{
    size_t i = pos;

    *sign = *end_sign = 0;
    if (!lex_at(x, i, "{%")) {
        return 0;
    }
    i += 2;
    if (i < x->len && (x->src[i] == '-' || x->src[i] == '+')) {
        *sign = x->src[i++];
    }
    while (i < x->len && lex_space(x->src[i])) {
        i++;
    }
    if (!lex_at(x, i, word)) {
        return 0;
    }
    for (i += strlen(word); i < x->len && lex_space(x->src[i]); i++) {
        /* void */
    }
    if (i < x->len && (x->src[i] == '-' || x->src[i] == '+')) {
        *end_sign = x->src[i++];
    }

    return lex_at(x, i, "%}") ? i + 2 - pos : 0;
}

/* {% raw %} has been passed. */
static void
lex_raw(lex_t *x)
{
    for (size_t i = x->pos; i < x->len; i++) {
        char   sign, end_sign;
        size_t n;

        if (x->src[i] != '{') {
            continue;
        }
        n = lex_word_tag(x, i, "endraw", &sign, &end_sign);
        if (n != 0) {
            lex_data(x, i, sign, 1);
            lex_move(x, i + n);
            lex_after(x, end_sign, 1);
            return;
        }
    }

    tpl_fail(x->c, INFER_INVALID, "raw has no endraw");
}

static void
lex_comment(lex_t *x)
{
    for (size_t i = x->pos + 2; i < x->len; i++) {
        if (lex_at(x, i, "#}")) {
            char ch = i > x->pos + 2 ? x->src[i - 1] : 0;

            lex_move(x, i + 2);
            lex_after(x, ch == '-' || ch == '+' ? ch : 0, 1);
            return;
        }
    }

    tpl_fail(x->c, INFER_INVALID, "a comment has no end");
}

void
tpl_lex(tpl_ctx_t *c, const char *src, size_t len, tpl_tokens_t *out)
{
    lex_t x = { .c = c, .src = src, .len = len, .line = 1, .line_start = 1,
                .out = out };

    if (len != 0 && src[len - 1] == '\n') {
        x.len--;
    }

    for (size_t i = 0; i < x.len; ) {
        char   ch = i + 1 < x.len && src[i] == '{' ? src[i + 1] : 0;
        char   sign, end_sign;
        size_t n;

        if (ch != '{' && ch != '%' && ch != '#') {
            i++;
            continue;
        }

        n = ch == '%' ? lex_word_tag(&x, i, "raw", &sign, &end_sign) : 0;
        if (n != 0 && end_sign != '+') {
            lex_data(&x, i, sign, 1);
            lex_move(&x, i + n);
            lex_after(&x, end_sign, 0);
            lex_raw(&x);

        } else {
            sign = i + 2 < x.len && (src[i + 2] == '-' || src[i + 2] == '+')
                   ? src[i + 2] : 0;
            lex_data(&x, i, sign, ch != '{');
            if (ch == '#') {
                lex_comment(&x);

            } else {
                lex_push(&x, ch == '{' ? TPL_T_VAR_BEGIN
                                       : TPL_T_BLOCK_BEGIN);
                lex_move(&x, i + 2 + (sign != 0));
                lex_expr(&x, ch == '{' ? TPL_T_VAR_END : TPL_T_BLOCK_END);
            }
        }
        i = x.pos;
    }

    lex_data(&x, x.len, '+', 0);
    lex_push(&x, TPL_T_EOF);
}
