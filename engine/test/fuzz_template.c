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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const infer_template_limits_t limits = { 20000, 65536, 32 };

    infer_template_t *t;
    infer_err_t       err = { 0, "" };
    json_t           *vars;
    char             *out = NULL;
    size_t            n = 0;
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
                     "user", "content", " H\xc3\xa9llo a\n", "role",
                     "assistant", "content", "x", "tools", "name", "f",
                     "args", 1, 2.5, "d", "k", "v\"'", "l", 1, 2,
                     "add_generation_prompt", 1, "bos_token", "<s>");
    if (vars == NULL) {
        abort();
    }
    rc = infer_template_render(t, vars, &limits, 1700000000, &out, &n, &err);
    if (rc == INFER_OK ? out == NULL || out[n] != '\0' || n > 65536
                       : out != NULL || err.text[0] == '\0')
    {
        abort();
    }
    free(out);
    json_decref(vars);
    infer_template_free(t);
    return 0;
}
