/*
 * text_model.h: a small byte-level BPE vocabulary as a GGUF file without
 * tensors in a memfd, for tests of the text side. All 256 bytes are tokens
 * 0 .. 255 (in the order of the bytes); tests add merges, special tokens
 * and keys.
 */

#ifndef INFER_TEXT_MODEL_H
#define INFER_TEXT_MODEL_H

#include "model/gguf.h"
#include "text/text.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TM_MAX  (1 << 20)

typedef struct {
    const char  *text;        /* in GPT-2's alphabet */
    int32_t      type;        /* 0 ends a list */
} tm_token_t;

typedef struct {
    const char        *pre;
    const tm_token_t  *extra;     /* ids from 256 on */
    const char *const *merges;    /* NULL ends the list */
    const char        *tpl;
    const char        *model;     /* NULL: "gpt2" */
    int                bos, eos;  /* -1: no key */
    int                add_bos;   /* -1: no key */
    int                no_types;
    int                skip_byte; /* this byte's token is "?skip"; 0: none */
} tm_conf_t;

typedef struct {
    unsigned char  *p;
    size_t          len;
} tm_buf_t;


static void
tm_raw(tm_buf_t *b, const void *p, size_t n)
{
    if (b->len + n > TM_MAX) {
        abort();
    }

    memcpy(b->p + b->len, p, n);
    b->len += n;
}


static void
tm_num(tm_buf_t *b, uint64_t v, size_t n)
{
    tm_raw(b, &v, n);
}


static void
tm_str(tm_buf_t *b, const char *s)
{
    tm_num(b, strlen(s), 8);
    tm_raw(b, s, strlen(s));
}


static void
tm_key_str(tm_buf_t *b, const char *key, const char *value)
{
    tm_str(b, key);
    tm_num(b, INFER_GGUF_STRING, 4);
    tm_str(b, value);
}


static void
tm_array(tm_buf_t *b, const char *key, uint32_t type, uint64_t n)
{
    tm_str(b, key);
    tm_num(b, INFER_GGUF_ARRAY, 4);
    tm_num(b, type, 4);
    tm_num(b, n, 8);
}


/* Byte c in GPT-2's alphabet; out has room for 3. */
static void
tm_letter(int c, char *out)
{
    unsigned cp = 0;
    int next = 256;

    for (int i = 0; i <= c; i++) {
        int printable = (i >= 33 && i <= 126) || (i >= 161 && i <= 172)
                        || i >= 174;

        cp = (unsigned) (printable ? i : next++);
    }

    if (cp < 128) {
        out[0] = (char) cp;
        out[1] = '\0';

    } else {
        out[0] = (char) (0xc0 | cp >> 6);
        out[1] = (char) (0x80 | (cp & 63));
        out[2] = '\0';
    }
}


static void
tm_tokens(tm_buf_t *b, const tm_conf_t *c, uint32_t n_extra)
{
    char letter[4];

    tm_array(b, "tokenizer.ggml.tokens", INFER_GGUF_STRING, 256 + n_extra);

    for (int i = 0; i < 256; i++) {
        tm_letter(i, letter);
        tm_str(b, c->skip_byte != 0 && i == c->skip_byte ? "?skip" : letter);
    }

    for (uint32_t i = 0; i < n_extra; i++) {
        tm_str(b, c->extra[i].text);
    }

    if (!c->no_types) {
        tm_array(b, "tokenizer.ggml.token_type", INFER_GGUF_INT32,
                 256 + n_extra);

        for (uint32_t i = 0; i < 256 + n_extra; i++) {
            tm_num(b, i < 256 ? 1 : (uint32_t) c->extra[i - 256].type, 4);
        }
    }
}


/* The file as a memfd; the caller closes it. */
__attribute__((unused))
static int
tm_file(const tm_conf_t *c)
{
    tm_buf_t b = { malloc(TM_MAX), 0 };
    uint32_t n_extra = 0, n_merges = 0;
    uint64_t n_kv = 5, at;
    int fd = memfd_create("text_model", MFD_CLOEXEC);

    if (b.p == NULL || fd < 0) {
        abort();
    }

    while (c->extra != NULL && c->extra[n_extra].type != 0) {
        n_extra++;
    }

    while (c->merges != NULL && c->merges[n_merges] != NULL) {
        n_merges++;
    }

    n_kv += (c->pre != NULL) + (c->tpl != NULL) + (c->bos >= 0)
            + (c->eos >= 0) + (c->add_bos >= 0) - (c->no_types != 0);
    tm_raw(&b, "GGUF", 4);
    tm_num(&b, 3, 4);
    tm_num(&b, 0, 8);
    at = b.len;
    tm_num(&b, n_kv, 8);
    tm_key_str(&b, "general.architecture", "llama");
    tm_key_str(&b, "tokenizer.ggml.model", c->model ? c->model : "gpt2");
    tm_tokens(&b, c, n_extra);
    tm_array(&b, "tokenizer.ggml.merges", INFER_GGUF_STRING, n_merges);

    for (uint32_t i = 0; i < n_merges; i++) {
        tm_str(&b, c->merges[i]);
    }

    if (c->pre != NULL) {
        tm_key_str(&b, "tokenizer.ggml.pre", c->pre);
    }

    if (c->tpl != NULL) {
        tm_key_str(&b, "tokenizer.chat_template", c->tpl);
    }

    if (c->bos >= 0) {
        tm_str(&b, "tokenizer.ggml.bos_token_id");
        tm_num(&b, INFER_GGUF_UINT32, 4);
        tm_num(&b, (uint64_t) c->bos, 4);
    }

    if (c->eos >= 0) {
        tm_str(&b, "tokenizer.ggml.eos_token_id");
        tm_num(&b, INFER_GGUF_UINT32, 4);
        tm_num(&b, (uint64_t) c->eos, 4);
    }

    if (c->add_bos >= 0) {
        tm_str(&b, "tokenizer.ggml.add_bos_token");
        tm_num(&b, INFER_GGUF_BOOL, 4);
        tm_num(&b, (uint64_t) c->add_bos, 1);
    }

    memcpy(b.p + at, &n_kv, 8);

    while (b.len % 32 != 0) {
        tm_num(&b, 0, 1);
    }

    if (write(fd, b.p, b.len) != (ssize_t) b.len) {
        abort();
    }

    free(b.p);

    return fd;
}


/* Builds the image of a file; closes fd. */
__attribute__((unused))
static int
tm_build(int fd, void **image, size_t *len, infer_err_t *err)
{
    infer_gguf_t *g;
    int rc = infer_gguf_open(&g, fd, err);

    *image = NULL;

    if (rc == INFER_OK) {
        rc = infer_text_build(g, NULL, 0, image, len, err);
        infer_gguf_close(g);
    }

    close(fd);

    return rc;
}


/* Builds and opens; NULL with a diagnostic line when that fails. *image
 * is freed by the caller after infer_text_close. */
__attribute__((unused))
static infer_text_t *
tm_open(int fd, void **image)
{
    infer_text_t *t = NULL;
    infer_err_t err = { 0, "" };
    size_t len;

    if (tm_build(fd, image, &len, &err) != INFER_OK
        || infer_text_open(&t, *image, len, &err) != INFER_OK)
    {
        printf("# %s\n", err.text);
    }

    return t;
}

#endif
