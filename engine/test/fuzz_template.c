/*
 * fuzz_template.c: any bytes as a chat template: compiled, and rendered with
 * a typical request under small limits. Every failure has a sentence.
 */

#include <string.h>

#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);

static const char *const seeds[] = {
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + "
    "m.content|trim }}{% if not loop.last %}{% continue %}{% endif %}"
    "{% endfor %}",
    "{%- set ns = namespace(i=0, s='') -%}{% for k, v in d.items() if k -%}"
    "{% set ns.i = ns.i + v|length %}{{ v[::-1] ~ loop.index }}{% else %}"
    "{% endfor %}{{ tools|tojson(indent=2) }}",
    "{% macro f(a, b='x', c=[]) %}{{ a if a is defined else b|upper }}"
    "{{ caller() if caller }}{% endmacro %}{{ f(1, c={'a': 1.5}) }}"
    "{% call f(2) %}t{% endcall %}{% raw %}{{{% endraw %}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute="
    "'content')|join(', ')|replace('a', 'b')|indent(2)|e }}{# c #}"
    "{{ range(3)|batch(2)|list }}{{ '%s %05.1f' % ('a', 2) }}",
    "{% filter upper|trim %}{{ 'a,b'.split(',')[0].strip('a').title() }}"
    "{{ 7 // -2 ** 3 % 5 }}{% endfilter %}{% with q=1 %}{{ q in [1] }}"
    "{% endwith %}{{ d|dictsort|first|last }}{{ x|groupby('a') }}"
};

size_t
fuzz_seed(uint32_t i, uint8_t *buf, size_t cap)
{
    size_t n;

    if (i >= sizeof(seeds) / sizeof(seeds[0])) {
        return 0;
    }
    n = strlen(seeds[i]);
    n = n < cap ? n : cap;
    memcpy(buf, seeds[i], n);
    return n;
}

/* Bytes of the one Chinese letter, which only the client's text has, are the
 * client's whatever the template did with them. */
static int
fuzz_whose(const infer_rendered_t *r, const uint8_t *data, size_t len)
{
    if (memchr(data, 0xe4, len) != NULL || memchr(data, '\\', len) != NULL) {
        return 1;
    }

    for (size_t i = 0; i < r->len; i++) {
        if (r->text[i] == '\xe4' && (r->client == NULL || !r->client[i])) {
            return 0;
        }
    }

    return 1;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const infer_template_limits_t limits = { 20000, 65536, 32 };

    infer_template_t *t;
    infer_err_t       err = { 0, "" };
    json_t           *vars;
    infer_rendered_t  out;
    int               rc;

    rc = infer_template_compile(&t, (const char *) data, len, &err);
    if (rc != INFER_OK) {
        if (err.text[0] == '\0' || t != NULL) {
            abort();
        }
        return 0;
    }

    vars = json_pack("{s:[{s:s,s:s},{s:s,s:s}],s:[{s:s,s:[n,b,f]}],"
                     "s:{s:s,s:[i,i]},s:b,s:s}", "messages", "role",
                     "user", "content", " H\xc3\xa9llo \xe4\xb8\xad a\n",
                     "role", "assistant", "content", "x\xe4\xb8\xad",
                     "tools", "name", "f\xe4\xb8\xad", "args", 1, 2.5, "d",
                     "k\xe4\xb8\xad", "v\"'\xe4\xb8\xad", "l", 1, 2,
                     "add_generation_prompt", 1, "bos_token", "<s>");
    if (vars == NULL) {
        abort();
    }
    rc = infer_template_render(t, vars, &limits, 1700000000, &out, &err);
    if (rc == INFER_OK ? out.text == NULL || out.text[out.len] != '\0'
                         || out.len > 65536 || !fuzz_whose(&out, data, len)
                       : out.text != NULL || err.text[0] == '\0')
    {
        abort();
    }
    infer_rendered_free(&out);
    json_decref(vars);
    infer_template_free(t);
    return 0;
}
