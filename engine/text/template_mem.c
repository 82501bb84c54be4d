/*
 * template_mem.c: the ground under the template interpreter: an arena with a
 * cap, the way out on errors, the budget of steps, growing text, whose text
 * it is, and code points. Arena lifetime: one compile or one render.
 */

#include "text/template_int.h"

struct tpl_chunk_s {
    tpl_chunk_t  *next;
    size_t        used, size;
};

#define MEM_CHUNK  (32u * 1024)
#define MEM_HEAD   ((sizeof(tpl_chunk_t) + 15) & ~(size_t) 15)


void
tpl_fail(tpl_ctx_t *c, int rc, const char *fmt, ...)
{
    char     text[384];
    va_list  ap;

    va_start(ap, fmt);
    (void) vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);

    c->rc = infer_err(c->err, rc, "template line %u: %s", c->line, text);
    longjmp(c->env, 1);
}

void *
tpl_alloc(tpl_ctx_t *c, size_t n)
{
    tpl_chunk_t *ch = c->chunks;

    if (n > c->cap) {
        tpl_fail(c, INFER_INVALID, "needs too much memory");
    }
    n = (n + 15) & ~(size_t) 15;

    if (ch != NULL && ch->size - ch->used >= n) {
        void *p = (char *) ch + MEM_HEAD + ch->used;

        ch->used += n;
        return p;
    }

    size_t size = n > MEM_CHUNK / 4 ? n : MEM_CHUNK;

    if (size > c->cap - c->total) {
        tpl_fail(c, INFER_INVALID, "needs too much memory");
    }
    ch = malloc(MEM_HEAD + size);
    if (ch == NULL) {
        tpl_fail(c, INFER_NOMEM, "out of memory");
    }
    c->total += size;
    ch->size = size;
    ch->used = n;

    /* a chunk of its own goes behind the one that still has room */
    if (size != MEM_CHUNK && c->chunks != NULL) {
        ch->next = c->chunks->next;
        c->chunks->next = ch;

    } else {
        ch->next = c->chunks;
        c->chunks = ch;
    }

    return (char *) ch + MEM_HEAD;
}

void *
tpl_array(tpl_ctx_t *c, size_t n, size_t size)
{
    if (n != 0 && size > c->cap / n) {
        tpl_fail(c, INFER_INVALID, "needs too much memory");
    }

    return tpl_alloc(c, n * size);
}

void
tpl_free_chunks(tpl_chunk_t *ch)
{
    while (ch != NULL) {
        tpl_chunk_t *next = ch->next;

        free(ch);
        ch = next;
    }
}

void
tpl_step(tpl_ctx_t *c)
{
    if (c->steps == 0) {
        tpl_fail(c, INFER_INVALID, "takes too many steps");
    }
    c->steps--;
}

/* Work that allocates nothing is paid by the bytes it looks at. */
void
tpl_charge(tpl_ctx_t *c, size_t bytes)
{
    size_t n = bytes / TPL_STEP_BYTES;

    if (n > c->steps) {
        tpl_fail(c, INFER_INVALID, "takes too many steps");
    }
    c->steps -= n;
}

/* Marks of cap bytes, those that are there kept, zeroes behind. */
static void
mem_marks(tpl_ctx_t *c, tpl_buf_t *b, size_t cap)
{
    uint8_t *m = tpl_alloc(c, cap);
    size_t had = b->client != NULL ? b->len : 0;

    if (had != 0) {
        memcpy(m, b->client, had);
    }
    memset(m + had, 0, cap - had);
    b->client = m;
}

/* Text of the template's. */
void
tpl_put(tpl_ctx_t *c, tpl_buf_t *b, const char *s, size_t n)
{
    if (n > c->max_output - b->len) {
        tpl_fail(c, INFER_INVALID, "output is longer than %zu bytes",
                 c->max_output);
    }
    if (n > b->cap - b->len) {
        size_t cap = (b->len + n) * 2 + 48;
        char *p = tpl_alloc(c, cap);

        if (b->len != 0) {
            memcpy(p, b->p, b->len);
        }
        if (b->client != NULL) {
            mem_marks(c, b, cap);
        }
        b->p = p;
        b->cap = cap;
    }
    if (n != 0) {
        memcpy(b->p + b->len, s, n);
        b->len += n;
    }
}

/* Text that was made of the client's, or not. */
void
tpl_put_as(tpl_ctx_t *c, tpl_buf_t *b, const char *s, size_t n, int client)
{
    size_t at = b->len;

    tpl_put(c, b, s, n);
    if (client && n != 0) {
        if (b->client == NULL) {
            mem_marks(c, b, b->cap);
        }
        memset(b->client + at, 1, n);
    }
}

/* v[at..at+n), bytes, whosever they are. */
void
tpl_put_part(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v, size_t at, size_t n)
{
    size_t from = b->len;

    tpl_put_as(c, b, v.u.s + at, n, v.flag != TPL_TEMPLATE);
    if (v.flag == TPL_MIXED && n != 0) {
        memcpy(b->client + from, v.client + at, n);
    }
}

void
tpl_put_str(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v)
{
    tpl_put_part(c, b, v, 0, v.len);
}

int
tpl_is_client(tpl_val_t s, size_t at)
{
    return s.flag == TPL_MIXED ? s.client[at] : s.flag == TPL_CLIENT;
}

/* Whose each byte of s is, as a mixed string has it. */
void
tpl_copy_client(uint8_t *to, tpl_val_t s)
{
    if (s.flag == TPL_MIXED) {
        memcpy(to, s.client, s.len);

    } else {
        memset(to, s.flag == TPL_CLIENT, s.len);
    }
}

/* s[at..at+n), bytes */
tpl_val_t
tpl_sub(tpl_val_t s, size_t at, size_t n)
{
    s.u.s += at;
    s.len = (uint32_t) n;
    if (s.flag == TPL_MIXED) {
        s.client += at;
    }

    return s;
}

void
tpl_puts(tpl_ctx_t *c, tpl_buf_t *b, const char *s)
{
    tpl_put(c, b, s, strlen(s));
}

void
tpl_put_cp(tpl_ctx_t *c, tpl_buf_t *b, uint32_t cp, int client)
{
    char   s[4];
    size_t n;

    if (cp < 0x80) {
        s[0] = (char) cp;
        n = 1;

    } else if (cp < 0x800) {
        s[0] = (char) (0xc0 | cp >> 6);
        s[1] = (char) (0x80 | (cp & 0x3f));
        n = 2;

    } else if (cp < 0x10000) {
        s[0] = (char) (0xe0 | cp >> 12);
        s[1] = (char) (0x80 | (cp >> 6 & 0x3f));
        s[2] = (char) (0x80 | (cp & 0x3f));
        n = 3;

    } else {
        s[0] = (char) (0xf0 | cp >> 18);
        s[1] = (char) (0x80 | (cp >> 12 & 0x3f));
        s[2] = (char) (0x80 | (cp >> 6 & 0x3f));
        s[3] = (char) (0x80 | (cp & 0x3f));
        n = 4;
    }

    tpl_put_as(c, b, s, n, client);
}

/* The text as a value; the buffer is not used any more. */
tpl_val_t
tpl_buf_str(const tpl_buf_t *b)
{
    tpl_val_t s = tpl_str(b->len != 0 ? b->p : "", b->len);

    if (b->client != NULL) {
        s.flag = TPL_MIXED;
        s.client = b->client;
    }

    return s;
}

/* Decodes one code point of valid UTF-8, n >= 1; returns its bytes. */
uint32_t
tpl_cp(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *) s;

    if (u[0] < 0x80 || n < 2) {
        *cp = u[0];
        return 1;
    }
    if (u[0] < 0xe0 || n < 3) {
        *cp = (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
        return 2;
    }
    if (u[0] < 0xf0 || n < 4) {
        *cp = (u[0] & 0x0fu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
        return 3;
    }
    *cp = (u[0] & 0x07u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6
          | (u[3] & 0x3fu);
    return 4;
}

int
tpl_utf8_valid(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *) s;
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };

    for (size_t i = 0; i < n; ) {
        size_t   k;
        uint32_t cp;

        if (u[i] < 0x80) {
            i++;
            continue;
        }
        k = u[i] >= 0xf0 ? 4 : u[i] >= 0xe0 ? 3 : 2;
        if (u[i] < 0xc2 || u[i] > 0xf4 || k > n - i) {
            return 0;
        }
        for (size_t j = 1; j < k; j++) {
            if ((u[i + j] & 0xc0) != 0x80) {
                return 0;
            }
        }
        (void) tpl_cp(s + i, k, &cp);
        if (cp < least[k] || cp > 0x10ffff
            || (cp >= 0xd800 && cp < 0xe000))
        {
            return 0;
        }
        i += k;
    }

    return 1;
}

uint32_t
tpl_utf8_count(tpl_ctx_t *c, tpl_val_t s)
{
    uint32_t n = 0;

    tpl_charge(c, s.len);
    for (uint32_t i = 0; i < s.len; i++) {
        n += (s.u.s[i] & 0xc0) != 0x80;
    }

    return n;
}

int
tpl_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85
           || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a)
           || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f
           || cp == 0x3000;
}

/* Case of Latin-1, Latin Extended-A, Greek and Cyrillic; other scripts that
 * have case stay as they are. */
uint32_t
tpl_to_lower(uint32_t cp)
{
    if (cp < 0x80) {
        return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
    }
    if ((cp >= 0xc0 && cp <= 0xde && cp != 0xd7)
        || (cp >= 0x391 && cp <= 0x3a9 && cp != 0x3a2)
        || (cp >= 0x410 && cp <= 0x42f))
    {
        return cp + 32;
    }
    if (cp >= 0x400 && cp <= 0x40f) {
        return cp + 80;
    }
    if ((cp >= 0x100 && cp <= 0x12f) || (cp >= 0x132 && cp <= 0x137)
        || (cp >= 0x14a && cp <= 0x177))
    {
        return cp | 1;
    }
    if ((cp >= 0x139 && cp <= 0x148) || (cp >= 0x179 && cp <= 0x17e)) {
        return cp + (cp & 1);
    }

    return cp == 0x178 ? 0xff : cp;
}

uint32_t
tpl_to_upper(uint32_t cp)
{
    if (cp < 0x80) {
        return cp >= 'a' && cp <= 'z' ? cp - 32 : cp;
    }
    if ((cp >= 0xe0 && cp <= 0xfe && cp != 0xf7)
        || (cp >= 0x3b1 && cp <= 0x3c9 && cp != 0x3c2)
        || (cp >= 0x430 && cp <= 0x44f))
    {
        return cp - 32;
    }
    if (cp >= 0x450 && cp <= 0x45f) {
        return cp - 80;
    }
    if ((cp >= 0x100 && cp <= 0x12f) || (cp >= 0x132 && cp <= 0x137)
        || (cp >= 0x14a && cp <= 0x177))
    {
        return cp & ~1u;
    }
    if ((cp >= 0x139 && cp <= 0x148) || (cp >= 0x179 && cp <= 0x17e)) {
        return cp - !(cp & 1);
    }

    return cp == 0xff ? 0x178 : cp;
}

int
tpl_is_alpha(uint32_t cp)
{
    if (cp < 0x80) {
        return (cp | 32) >= 'a' && (cp | 32) <= 'z';
    }

    return cp >= 0xc0 && cp != 0xd7 && cp != 0xf7
           && !(cp >= 0x2000 && cp <= 0x206f) && cp != 0x3000;
}
