/*
 * make_tiny.c: writes a small random llama-architecture GGUF file for tests
 * and for a first try without a download. See tiny_gguf.h for what is in it.
 */

#include "tool/tiny_gguf.h"

#include <errno.h>
#include <getopt.h>

static const char usage[] =
    "usage: make_tiny [-s SEED] [-o FILE] [options]\n"
    "  -s, --seed N            default 1\n"
    "  -o, --output FILE       default: standard output\n"
    "  --type T                q4_0 q4_1 q5_0 q5_1 q8_0 f16 bf16 f32 mixed\n"
    "  --shape L,D,H,G,F       layers, width, heads, kv heads, ffn width\n"
    "  --head-dim K            default D / H\n"
    "  --vocab N               default 512, at least 259\n"
    "  --context N             default 2048\n"
    "  --pre NAME              pre-tokenizer, default smollm\n"
    "  --template FILE|none    chat template instead of the built-in one\n"
    "  --tied                  no head of its own\n";


static int
type_of(const char *name, uint32_t *type)
{
    static const struct { const char *name; uint32_t type; } t[] = {
        { "q4_0", TINY_Q4_0 }, { "q4_1", TINY_Q4_1 }, { "q5_0", TINY_Q5_0 },
        { "q5_1", TINY_Q5_1 }, { "q8_0", TINY_Q8_0 }, { "f16", TINY_F16 },
        { "bf16", TINY_BF16 }, { "f32", TINY_F32 }, { "mixed", TINY_MIXED }
    };

    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        if (strcmp(t[i].name, name) == 0) {
            *type = t[i].type;
            return 1;
        }
    }

    return 0;
}


static char *
read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    size_t cap = 1 << 20;
    char *text = malloc(cap);

    if (f == NULL || text == NULL) {
        fprintf(stderr, "make_tiny: cannot read \"%s\": %s\n", path,
                strerror(errno));
        exit(1);
    }

    *len = fread(text, 1, cap, f);
    fclose(f);

    return text;
}


static void
refuse(const char *option, const char *value)
{
    fprintf(stderr, "make_tiny: bad value \"%s\" of %s\n%s", value, option,
            usage);
    exit(1);
}


static uint32_t
number(const char *option, const char *value)
{
    char *end;
    unsigned long n = strtoul(value, &end, 10);

    if (*value < '0' || *value > '9' || *end != '\0' || n > (1 << 24)) {
        refuse(option, value);
    }

    return (uint32_t) n;
}


static const char *
parse(int argc, char **argv, tiny_conf_t *c, char **template_text)
{
    static const struct option options[] = {
        { "seed", required_argument, NULL, 's' },
        { "output", required_argument, NULL, 'o' },
        { "type", required_argument, NULL, 't' },
        { "shape", required_argument, NULL, 'S' },
        { "head-dim", required_argument, NULL, 'K' },
        { "vocab", required_argument, NULL, 'V' },
        { "context", required_argument, NULL, 'C' },
        { "pre", required_argument, NULL, 'P' },
        { "template", required_argument, NULL, 'T' },
        { "tied", no_argument, NULL, 'x' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 }
    };
    const char *output = NULL;
    int opt;

    while ((opt = getopt_long(argc, argv, "s:o:h", options, NULL)) != -1) {
        switch (opt) {

        case 's':
            c->seed = strtoull(optarg, NULL, 10);
            break;

        case 'o':
            output = optarg;
            break;

        case 't':
            if (!type_of(optarg, &c->type)) {
                refuse("--type", optarg);
            }
            break;

        case 'S':
            if (sscanf(optarg, "%u,%u,%u,%u,%u", &c->L, &c->D, &c->H, &c->G,
                       &c->F) != 5)
            {
                refuse("--shape", optarg);
            }
            break;

        case 'K':
            c->K = number("--head-dim", optarg);
            break;

        case 'V':
            c->V = number("--vocab", optarg);
            break;

        case 'C':
            c->S = number("--context", optarg);
            break;

        case 'P':
            c->pre = optarg;
            break;

        case 'T':
            c->tpl = NULL;

            if (strcmp(optarg, "none") != 0) {
                free(*template_text);
                *template_text = read_file(optarg, &c->tpl_len);
                c->tpl = *template_text;
            }
            break;

        case 'x':
            c->tied = 1;
            break;

        default:
            fputs(usage, opt == 'h' ? stdout : stderr);
            exit(opt != 'h');
        }
    }

    return output;
}


int
main(int argc, char **argv)
{
    tiny_conf_t conf = tiny_default;
    char *template_text = NULL;
    size_t len;
    const char *output = parse(argc, argv, &conf, &template_text);
    void *file = tiny_build(&conf, &len);

    free(template_text);

    if (file == NULL) {
        fprintf(stderr, "make_tiny: no such shape, or out of memory\n");
        return 1;
    }

    FILE *f = output ? fopen(output, "wb") : stdout;

    if (f == NULL || fwrite(file, 1, len, f) != len || fclose(f) != 0) {
        fprintf(stderr, "make_tiny: cannot write \"%s\": %s\n",
                output ? output : "standard output", strerror(errno));
        free(file);
        return 1;
    }

    free(file);

    return 0;
}
