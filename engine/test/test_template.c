/*
 * test_template.c: the Jinja interpreter against what Jinja2 answers
 * (fixtures/template.jsonl, provenance beside it), limits on hostile
 * templates, sources that end at a guard page, concurrent renders.
 */

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tap.h"
#include "text/template.h"

#define NOW  1700000000

/* Renders src with vars; *out is the caller's, empty on failure. */
static int
render_marked(const char *src, size_t len, json_t *vars,
    const infer_template_limits_t *lim, infer_rendered_t *out,
    infer_err_t *err)
{
    infer_template_t *t;
    int               rc;

    memset(out, 0, sizeof(*out));
    memset(err, 0, sizeof(*err));
    rc = infer_template_compile(&t, src, len, err);
    if (rc != INFER_OK) {
        return rc;
    }
    rc = infer_template_render(t, vars, lim, NOW, out, err);
    infer_template_free(t);
    return rc;
}

/* The text alone; NULL on failure. */
static int
render(const char *src, size_t len, json_t *vars,
    const infer_template_limits_t *lim, char **out, size_t *n,
    infer_err_t *err)
{
    infer_rendered_t r;
    int              rc = render_marked(src, len, vars, lim, &r, err);

    free(r.client);
    *out = r.text;
    *n = r.len;
    return rc;
}

static void
fixture(const char *path)
{
    FILE  *f = fopen(path, "r");
    char  *line = NULL;
    size_t cap = 0;
    int    cases = 0, bad = 0;

    while (f != NULL && getline(&line, &cap, f) > 0) {
        json_t     *j = json_loads(line, JSON_ALLOW_NUL, NULL);
        json_t     *t = json_object_get(j, "t"), *o = json_object_get(j, "o");
        json_t     *fail = json_object_get(j, "fail");
        char       *out;
        size_t      n = 0;
        infer_err_t err;
        int         rc;

        cases++;
        rc = render(json_string_value(t), json_string_length(t),
                    json_object_get(j, "v"), NULL, &out, &n, &err);
        if (fail != NULL ? rc != json_integer_value(fail) || !err.text[0]
            : rc != INFER_OK || n != json_string_length(o)
              || memcmp(out, json_string_value(o), n) != 0)
        {
            bad++;
            diag("%s", json_string_value(t));
            diag("got %d %s", rc, rc == INFER_OK ? out : err.text);
        }
        free(out);
        json_decref(j);
    }
    if (f != NULL) {
        fclose(f);
    }
    free(line);
    ok(cases > 400 && bad == 0, "%d cases as Jinja2 has them, %d differ",
       cases, bad);
}

/* The prompts of the golden file through a template of the same format. */
static void
golden(const char *path)
{
    static const char src[] =
        "{% for m in messages %}{% if loop.first and messages[0]['role'] != "
        "'system' %}{{ '<|im_start|>system\\nYou are a helpful AI assistant "
        "named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content ~ '<|im_end|>\\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\\n' "
        "if add_generation_prompt }}";
    FILE  *f = fopen(path, "r");
    char  *line = NULL;
    size_t cap = 0;
    int    cases = 0, good = 0;

    while (f != NULL && getline(&line, &cap, f) > 0) {
        json_t     *j = json_loads(line, JSON_ALLOW_NUL, NULL);
        json_t     *want = json_object_get(j, "prompt");
        char       *out;
        size_t      n = 0;
        infer_err_t err;

        cases++;
        json_object_set_new(j, "add_generation_prompt", json_true());
        if (render(src, sizeof(src) - 1, j, NULL, &out, &n, &err)
            == INFER_OK)
        {
            good += strcmp(out, json_string_value(want)) == 0;
        }
        free(out);
        json_decref(j);
    }
    if (f != NULL) {
        fclose(f);
    }
    free(line);
    ok(cases > 0 && good == cases, "golden prompts: %d of %d", good, cases);
}


static const char *const guarded[] = {
    "a {%- if x is defined and y[1:2] -%} b {% elif 'q' in \"z\\n\" %}c"
    "{% else %}{{ 1.5e3 + 0x1f ~ none }}{% endif %}\n  {#- c -#}\n",
    "{% for a, b in d.items() if a != 'z' recursive %}{% endfor %}",
    "{% for a, b in d.items() if a != 'z' %}{{ loop.cycle(1, 2) }}"
    "{% break %}{% else %}n{% endfor %}{% set ns.x = [1, (2, 3), {'a': 4}] %}"
    "{% set v | upper %}t{% endset %}{% raw %} {{ r }} {% endraw -%} e",
    "{% macro m(a, b='\\u00e9\\x41\\101') %}{{ a | default(b, true) | "
    "map('upper', *a, **b) }}{% endmacro %}{{ m(1, b=2)[::-1].x.1 }}"
    "{% call(x) m(1) %}{% endcall %}{% filter trim %}\xc3\xa9{% endfilter %}"
    "{% with a=1 %}{% endwith %}{% generation %}{% endgeneration %}",
    "{{ not a is not none and -1 ** 2 // 3 % 4 <= 5 == 6 }}{{ {'a': {}}}}",
    "{%+ if 1 +%}{%- endif +%}{{- 'a' -}}{{+ 1 }}{#+ +#}",
    "{{ 1_000 0b1 0o7 1e5 1. }}{{ x.y['z'] }}"
};

static void
guard(void)
{
    long   page = sysconf(_SC_PAGESIZE);
    char  *p = mmap(NULL, (size_t) page * 2, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    json_t *vars = json_pack("{s:{s:i,s:s},s:[i,i,i]}", "d", "a", 1, "b",
                             "c", "y", 1, 2, 3);
    int    tried = 0, silent = 0;

    if (p == MAP_FAILED
        || mprotect(p + page, (size_t) page, PROT_NONE) != 0)
    {
        ok(0, "guard page");
        return;
    }

    for (size_t k = 0; k < sizeof(guarded) / sizeof(guarded[0]); k++) {
        for (size_t n = 0; n <= strlen(guarded[k]); n++) {
            char       *out, *src = p + page - n;
            size_t      len = 0;
            infer_err_t err;

            memcpy(src, guarded[k], n);
            silent += render(src, n, vars, NULL, &out, &len, &err)
                      != INFER_OK && err.text[0] == '\0';
            free(out);
            tried++;
        }
    }
    json_decref(vars);
    munmap(p, (size_t) page * 2);
    ok(silent == 0, "%d truncated sources at a guard page, each error has "
       "its sentence", tried);
}


/* Refused with a sentence that contains this; limits by default. */
static const struct {
    const char  *src, *says;
    int          rc;
} hostile[] = {
    { "{{ 'a' * 10**9 }}", "too long", INFER_INVALID },
    { "{{ 'a' * 10**18 }}", "too long", INFER_INVALID },
    { "{{ [1] * 10**9 }}", "too long", INFER_INVALID },
    { "{{ [1,2,3] * 10**6 * 10 }}", "too long", INFER_INVALID },
    { "{{ range(10**9) }}", "range too big", INFER_INVALID },
    { "{{ range(-9223372036854775807, 9223372036854775807) }}",
      "range too big", INFER_INVALID },
    { "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
      "{% endfor %}", "", INFER_INVALID },
    { "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deep",
      INFER_INVALID },
    { "{% macro f(x) %}{{ f([x]) }}{% endmacro %}{{ f(1) }}", "deep",
      INFER_INVALID },
    { "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "deep",
      INFER_INVALID },
    { "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}", "deep",
      INFER_INVALID },
    { "{% set ns = namespace(x=[1]) %}{% for i in range(50) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x|list }}",
      "steps", INFER_INVALID },
    { "{% set ns = namespace(x=[1]) %}{% for i in range(50) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|string }}", "",
      INFER_INVALID },
    { "{% set l = [] %}{{ l.append(l) }}{{ l }}", "deep", INFER_INVALID },
    { "{% set l = [] %}{{ l.append(l) }}{{ l == [l] }}", "deep",
      INFER_INVALID },
    { "{% set l = [1] %}{% for x in l %}{{ l.append(x) }}{% endfor %}", "",
      INFER_INVALID },
    { "{% set ns = namespace(s='abcdefgh') %}{% for i in range(60) %}"
      "{% set ns.s = ns.s + ns.s %}{% endfor %}", "", INFER_INVALID },
    { "{% set ns = namespace(s='ab' * 4000000) %}{% for i in range(90000) %}"
      "{% set ns.s = ns.s|upper %}{% endfor %}", "memory", INFER_INVALID },
    { "{% set s = 'a' * 8000000 %}{% for i in range(99999) %}"
      "{{ s[i] if s.find('b') == 0 }}{% endfor %}", "steps",
      INFER_INVALID },
    { "{% set s = 'a' * 8000000 %}{% for i in range(99999) %}"
      "{{ s.rfind('ab') }}{% endfor %}", "steps", INFER_INVALID },
    { "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
      "output is longer", INFER_INVALID },
    { "{{ 'a'.replace('', 'b' * 4000) * 5000 }}", "too long",
      INFER_INVALID },
    { "{{ ('a' * 9999).replace('', 'b' * 9999) }}", "output is longer",
      INFER_INVALID },
    { "{{ '%0999999999d' % 1 }}", "format", INFER_UNSUPPORTED },
    { "{{ 9223372036854775807 + 1 }}", "overflow", INFER_INVALID },
    { "{{ (-9223372036854775807 - 1) // -1 }}", "overflow",
      INFER_INVALID },
    { "{{ (-9223372036854775807 - 1)|abs }}", "overflow", INFER_INVALID },
    { "{{ 2 ** 63 }}", "overflow", INFER_INVALID },
    { "{{ 3 ** 9223372036854775807 }}", "overflow", INFER_INVALID },
    { "{{ 99999999999999999999 }}", "too large", INFER_INVALID },
    { "{{ raise_exception('line {{ 1 }}') }}", "line {{ 1 }}",
      INFER_INVALID },
    { "\n\n{{ x.y }}", "line 3", INFER_INVALID },
    { "a\n{% if x", "line 2", INFER_INVALID },
    { "{{ 1|no_such }}", "no filter named 'no_such'", INFER_UNSUPPORTED },
    { "{{ 1 is no_such }}", "no test named 'no_such'", INFER_UNSUPPORTED },
    { "{{ no_such(1) }}", "'no_such'", INFER_UNSUPPORTED },
    { "{% include 'x' %}", "include", INFER_UNSUPPORTED },
    { "\xff\xfe", "UTF-8", INFER_INVALID },
    { "{{ '\\ud800' }}", "code point", INFER_INVALID }
};

static void
limits(void)
{
    json_t           *vars = json_object();
    infer_template_t *t;
    infer_err_t       e = { 0, "" };

    ok(infer_template_compile(&t, "a\n\0b", 4, &e) == INFER_INVALID
       && t == NULL && strstr(e.text, "line 2: a NUL") != NULL
       && infer_template_compile(&t, "\0\0", 2, &e) == INFER_INVALID,
       "NUL bytes are refused: %s", e.text);

    for (size_t k = 0; k < sizeof(hostile) / sizeof(hostile[0]); k++) {
        char       *out;
        size_t      n = 0;
        infer_err_t err;
        int         rc;

        rc = render(hostile[k].src, strlen(hostile[k].src), vars, NULL, &out,
                    &n, &err);
        ok(rc == hostile[k].rc && err.code == rc && err.text[0] != '\0'
           && strstr(err.text, hostile[k].says) != NULL,
           "hostile %zu is refused: %d %s", k, rc, err.text);
        free(out);
    }
    json_decref(vars);
}

/* open * n + mid + close * n, and what must come of it */
static void
nest(const char *open, const char *mid, const char *close, size_t n, int rc)
{
    size_t      a = strlen(open), m = strlen(mid), b = strlen(close), len = 0;
    char       *s = malloc((a + b) * n + m + 1), *out;
    json_t     *vars = json_object();
    infer_err_t err;
    int         got;

    for (size_t i = 0; i < n; i++) {
        memcpy(s + i * a, open, a);
        memcpy(s + n * a + m + i * b, close, b);
    }
    memcpy(s + n * a, mid, m);
    got = render(s, (a + b) * n + m, vars, NULL, &out, &len, &err);
    ok(got == rc, "%zu times \"%s\" gives %d %s", n, open, got,
       got == INFER_OK ? "" : err.text);
    free(out);
    free(s);
    json_decref(vars);
}

static void
nesting(void)
{
    nest("{% if 1 %}", "x", "{% endif %}", 20, INFER_OK);
    nest("{% if 1 %}", "x", "{% endif %}", 50000, INFER_INVALID);
    nest("{% if 1 %}", "x", "", 50000, INFER_INVALID);
    nest("{% for i in [1] %}", "x", "{% endfor %}", 1000, INFER_INVALID);
    nest("{% filter upper %}", "x", "{% endfilter %}", 1000, INFER_INVALID);
    nest("{{ ", "(((((((((((((((((((1)))))))))))))))))))", " }}", 1,
         INFER_OK);
    nest("{{ ((((((((((", "1", "", 9000, INFER_INVALID);
    nest("{{ [[[[[[[[[[", "1", "", 1, INFER_INVALID);
    nest("{% set x = ", "1", " %}", 1, INFER_OK);
    nest("{{ 1", "", " + 1", 1, INFER_INVALID);
    nest("", "{{ 1", "", 1, INFER_INVALID);

    static const char *const unit[][3] = {
        { "(", "1", ")" }, { "[", "1", "]" }, { "{1:", "1", "}" },
        { "-", "1", "" }, { "f(", "1", ")" }, { "x[", "1", "]" },
        { "1 if 1 else ", "1", "" }, { "x|d(", "1", ")" }
    };

    for (size_t k = 0; k < sizeof(unit) / sizeof(unit[0]); k++) {
        char   s[200000], *p = s;
        char  *out;
        size_t n = 0, reps = 9000;
        json_t *vars = json_object();
        infer_err_t err;

        p += sprintf(p, "{{ ");
        for (size_t i = 0; i < reps; i++) {
            p += sprintf(p, "%s", unit[k][0]);
        }
        p += sprintf(p, "%s", unit[k][1]);
        for (size_t i = 0; i < reps; i++) {
            p += sprintf(p, "%s", unit[k][2]);
        }
        p += sprintf(p, " }}");
        ok(render(s, (size_t) (p - s), vars, NULL, &out, &n, &err)
           == INFER_INVALID && strstr(err.text, "deep") != NULL,
           "deep \"%s\" is refused", unit[k][0]);
        free(out);
        json_decref(vars);
    }

    /* chains are as deep as they are long */
    static const char *const links[] = {
        " + 1", " ~ 1", "|d", ".x", "[0]", "()", " or 0", " and 1", " < 2",
        " if 1", " is defined", " * 1"
    };

    for (size_t k = 0; k < sizeof(links) / sizeof(links[0]); k++) {
        char   s[200000], *p = s;
        char  *out;
        size_t n = 0;
        json_t *vars = json_object();
        infer_err_t err;

        p += sprintf(p, "{{ 1");
        for (size_t i = 0; i < 12000; i++) {
            p += sprintf(p, "%s", links[k]);
        }
        p += sprintf(p, " }}{%% filter d");
        for (size_t i = 0; i < 9000; i++) {
            p += sprintf(p, "|d");
        }
        p += sprintf(p, " %%}{%% endfilter %%}");
        ok(render(s, (size_t) (p - s), vars, NULL, &out, &n, &err)
           != INFER_OK, "a chain of \"%s\" ends: %s", links[k], err.text);
        free(out);
        json_decref(vars);
    }
}

static void
own_limits(void)
{
    static const char src[] = "{% for i in range(100) %}{{ i }}{% endfor %}";
    infer_template_limits_t l = { 0, 0, 0 };
    json_t     *vars = json_object(), *deep = json_integer(1);
    char       *out;
    size_t      n = 0;
    infer_err_t err;

    l.max_steps = 50;
    ok(render(src, sizeof(src) - 1, vars, &l, &out, &n, &err)
       == INFER_INVALID && strstr(err.text, "steps"), "max_steps: %s",
       err.text);
    l.max_steps = 0;
    l.max_output = 189;
    ok(render(src, sizeof(src) - 1, vars, &l, &out, &n, &err)
       == INFER_INVALID && strstr(err.text, "output"), "max_output: %s",
       err.text);
    l.max_output = 190;
    ok(render(src, sizeof(src) - 1, vars, &l, &out, &n, &err) == INFER_OK
       && n == 190 && strlen(out) == 190, "190 bytes are just let through");
    free(out);
    l.max_depth = 2;
    ok(render("{% if 1 %}{% if 1 %}{% endif %}{% endif %}", 42, vars, &l,
              &out, &n, &err) == INFER_INVALID, "max_depth: %s", err.text);

    for (int i = 0; i < 100; i++) {
        deep = json_pack("[o]", deep);
    }
    json_object_set_new(vars, "deep", deep);
    ok(render("x", 1, vars, NULL, &out, &n, &err) == INFER_INVALID,
       "variables nested 100 deep: %s", err.text);
    json_decref(vars);
    ok(render("x", 1, NULL, NULL, &out, &n, &err) == INFER_INVALID,
       "no variables: %s", err.text);
}

/* A dict with many members, text with zero bytes, order of keys. */
static void
variables(void)
{
    static const char src[] =
        "{% for k in d %}{% if d[k] != loop.index0 %}bad{% endif %}"
        "{% endfor %}{{ d|length }}{{ d.k999 }}{{ d.nope is defined }}"
        "{{ s|length }}{{ s }}{{ o|tojson }}{{ big }}";
    json_t     *d = json_object(), *vars;
    char        key[16], *out;
    size_t      n = 0;
    infer_err_t err;

    for (int i = 0; i < 1000; i++) {
        (void) snprintf(key, sizeof(key), "k%d", i);
        json_object_set_new(d, key, json_integer(i));
    }
    vars = json_pack("{s:o,s:s%,s:{s:i,s:i,s:i},s:I}", "d", d, "s", "a\0b",
                     (size_t) 3, "o", "z", 1, "a", 2, "m", 3, "big",
                     (json_int_t) INT64_MIN);
    ok(render(src, sizeof(src) - 1, vars, NULL, &out, &n, &err) == INFER_OK
       && n == 60 && memcmp(out, "1000999False3a\0b{\"z\": 1, \"a\": 2, "
                                 "\"m\": 3}-9223372036854775808", n) == 0,
       "a large object, a zero byte, order of keys (%zu %s)", n, err.text);
    free(out);
    json_decref(vars);
}

typedef struct {
    const infer_template_t  *tpl;
    int                      good;
} thread_arg_t;

static void *
thread_main(void *p)
{
    thread_arg_t *a = p;

    for (int i = 0; i < 50; i++) {
        json_t     *vars = json_pack("{s:[i,i,i]}", "xs", 1, 2, i);
        char              want[32];
        infer_rendered_t  out;
        infer_err_t       err;

        (void) snprintf(want, sizeof(want), "(1)(2)(%d)", i);
        if (infer_template_render(a->tpl, vars, NULL, NOW, &out, &err)
            == INFER_OK)
        {
            a->good += strcmp(out.text, want) == 0;
        }
        infer_rendered_free(&out);
        json_decref(vars);
    }

    return NULL;
}

static void
threads(void)
{
    static const char src[] = "{% macro m(x) %}({{ x }}){% endmacro %}"
                              "{% for x in xs %}{{ m(x) }}{% endfor %}";
    infer_template_t *t;
    thread_arg_t      a[2] = { { NULL, 0 }, { NULL, 0 } };
    pthread_t         id[2];
    infer_err_t       err;

    if (!ok(infer_template_compile(&t, src, sizeof(src) - 1, &err)
            == INFER_OK, "compiles"))
    {
        return;
    }
    for (int i = 0; i < 2; i++) {
        a[i].tpl = t;
        if (pthread_create(&id[i], NULL, thread_main, &a[i]) != 0) {
            abort();
        }
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(id[i], NULL);
    }
    ok(a[0].good == 50 && a[1].good == 50,
       "one template rendered by two threads");
    infer_template_free(t);
    infer_template_free(NULL);
}


int
main(void)
{
    fixture("engine/test/fixtures/template.jsonl");
    golden("t/golden/smollm2/chat.jsonl");
    guard();
    limits();
    nesting();
    own_limits();
    variables();
    threads();
    return tap_done();
}
