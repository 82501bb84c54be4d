/*
 * api_fields.c: reading typed fields of a request's JSON.
 */

#include <math.h>

#include "text/api_int.h"


__attribute__((format(printf, 4, 0)))
static void
fields_error(api_ctx_t *c, int rc, const char *param, const char *fmt,
    va_list ap)
{
    infer_api_error_rc(c->error, rc, "");
    c->error->code = rc == INFER_UNSUPPORTED ? "unsupported_parameter"
                                             : "invalid_value";
    (void) snprintf(c->error->param, sizeof(c->error->param), "%s", param);
    (void) vsnprintf(c->error->message, sizeof(c->error->message), fmt, ap);
}


int
api_invalid(api_ctx_t *c, const char *param, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fields_error(c, INFER_INVALID, param, fmt, ap);
    va_end(ap);

    return INFER_INVALID;
}


int
api_unsupported(api_ctx_t *c, const char *param, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fields_error(c, INFER_UNSUPPORTED, param, fmt, ap);
    va_end(ap);

    return INFER_UNSUPPORTED;
}


int
api_nomem(api_ctx_t *c)
{
    infer_api_error_rc(c->error, INFER_NOMEM, NULL);

    return INFER_NOMEM;
}


json_t *
api_get(api_ctx_t *c, const char *name)
{
    json_t *v = json_object_get(c->root, name);

    return json_is_null(v) ? NULL : v;
}


int
api_bool(api_ctx_t *c, const char *name, int *out)
{
    json_t *v = api_get(c, name);

    if (v == NULL) {
        return INFER_OK;
    }

    if (!json_is_boolean(v)) {
        return api_invalid(c, name, "'%s' must be true or false.", name);
    }

    *out = json_is_true(v);

    return INFER_OK;
}


int
api_integer(const json_t *v, int64_t *out)
{
    double d;

    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return 1;
    }

    d = json_real_value(v);

    if (!json_is_real(v) || d != floor(d) || fabs(d) >= 0x1p62) {
        return 0;
    }

    *out = (int64_t) d;

    return 1;
}


int
api_int(api_ctx_t *c, const char *name, int64_t min, int64_t max,
    int64_t *out)
{
    json_t   *v = api_get(c, name);
    int64_t   i;

    if (v == NULL) {
        return INFER_OK;
    }

    if (!json_is_number(v)) {
        return api_invalid(c, name, "'%s' must be an integer.", name);
    }

    if (!api_integer(v, &i)) {
        return api_invalid(c, name, fabs(json_real_value(v)) >= 0x1p62
                           ? "'%s' is too large."
                           : "'%s' must be an integer.", name);
    }

    if (i < min || i > max) {
        return max >= INT32_MAX && i > max
               ? api_invalid(c, name, "'%s' is too large.", name)
               : max >= INT32_MAX
               ? api_invalid(c, name, "'%s' must be at least %lld.", name,
                             (long long) min)
               : api_invalid(c, name, "'%s' must be from %lld to %lld.", name,
                             (long long) min, (long long) max);
    }

    *out = i;

    return INFER_OK;
}


int
api_number(api_ctx_t *c, const char *name, double min, double max, float *out)
{
    json_t  *v = api_get(c, name);
    double   d;

    if (v == NULL) {
        return INFER_OK;
    }

    if (!json_is_number(v)) {
        return api_invalid(c, name, "'%s' must be a number.", name);
    }

    d = json_number_value(v);

    if (!(d >= min && d <= max)) {
        return api_invalid(c, name, "'%s' must be from %g to %g.", name, min,
                           max);
    }

    *out = (float) d;

    return INFER_OK;
}


int
api_ids(api_ctx_t *c, const char *param, const json_t *v, size_t max,
    int32_t **ids, uint32_t *n_ids)
{
    size_t    n = json_array_size(v);
    int64_t   id;
    int32_t  *p;

    if (!json_is_array(v)) {
        return api_invalid(c, param, "'%s' must be an array of token ids.",
                           param);
    }

    if (n > (max ? max : INT32_MAX)) {
        return api_invalid(c, param, "'%s' has more than %zu elements.",
                           param, max ? max : INT32_MAX);
    }

    p = malloc(n ? n * sizeof(*p) : 1);

    if (p == NULL) {
        return api_nomem(c);
    }

    for (size_t i = 0; i < n; i++) {
        if (!api_integer(json_array_get(v, i), &id) || id < 0
            || id >= (int64_t) infer_text_vocab(c->text))
        {
            free(p);
            return api_invalid(c, param, "'%s[%zu]' must be a token id, an "
                               "integer from 0 to %u.", param, i,
                               infer_text_vocab(c->text) - 1);
        }

        p[i] = (int32_t) id;
    }

    *ids = p;
    *n_ids = (uint32_t) n;

    return INFER_OK;
}


int
api_copy(api_ctx_t *c, const char *s, size_t len, infer_str_t *out)
{
    char *p = malloc(len + 1);

    if (p == NULL) {
        return api_nomem(c);
    }

    if (len != 0) {
        memcpy(p, s, len);
    }

    p[len] = '\0';
    *out = (infer_str_t) { p, len };

    return INFER_OK;
}


/* Behind the string that starts at s[i]; the text is valid JSON. */
static size_t
seed_skip_string(const char *s, size_t len, size_t i)
{
    for (i++; i < len && s[i] != '"'; i++) {
        i += s[i] == '\\';
    }

    return i + 1;
}


static size_t
seed_skip_space(const char *s, size_t len, size_t i)
{
    while (i < len && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n'
                       || s[i] == '\r'))
    {
        i++;
    }

    return i;
}


/* Decimal digits modulo 2^64; 0 when it isn't a plain integer. */
static int
seed_digits(const char *s, size_t len, size_t i, uint64_t *seed)
{
    int       minus = i < len && s[i] == '-';
    uint64_t  v = 0;

    for (i += (size_t) minus; i < len && s[i] >= '0' && s[i] <= '9'; i++) {
        v = v * 10 + (uint64_t) (s[i] - '0');
    }

    if (i < len && (s[i] == '.' || s[i] == 'e' || s[i] == 'E')) {
        return 0;
    }

    *seed = minus ? 0 - v : v;

    return 1;
}


/* The last member "seed" of the outermost object, from the text itself:
 * jansson has no integers of more than 63 bits. */
static int
seed_from_text(const char *s, size_t len, uint64_t *seed)
{
    int     depth = 0, found = 0;
    size_t  i = 0, at;

    while (i < len) {
        if (s[i] != '"') {
            depth += s[i] == '{' || s[i] == '[';
            depth -= s[i] == '}' || s[i] == ']';
            i++;
            continue;
        }

        at = i;
        i = seed_skip_string(s, len, i);

        if (depth != 1 || i - at != 6 || i > len
            || memcmp(s + at, "\"seed\"", 6) != 0)
        {
            continue;
        }

        at = seed_skip_space(s, len, i);

        if (at < len && s[at] == ':') {
            at = seed_skip_space(s, len, at + 1);
            found = seed_digits(s, len, at, seed);
        }
    }

    return found;
}


int
api_seed(api_ctx_t *c)
{
    json_t    *v = api_get(c, "seed");
    int64_t    i = 0;
    uint64_t  *seed = &c->req->sampling.seed;

    c->req->seed_set = c->conf->seed_set;

    if (v == NULL) {
        return INFER_OK;
    }

    if (!json_is_number(v)) {
        return api_invalid(c, "seed", "'seed' must be an integer.");
    }

    c->req->seed_set = 1;

    if (c->big && seed_from_text(c->body, c->body_len, seed)) {
        return INFER_OK;
    }

    if (!api_integer(v, &i)) {
        return api_invalid(c, "seed", "'seed' must be an integer.");
    }

    *seed = (uint64_t) i;

    return INFER_OK;
}
