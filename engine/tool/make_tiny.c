/*
 * make_tiny.c: writes a random llama-architecture GGUF file: a small one for
 * tests and for a first try without a download, or one in the shape of a
 * real model, to measure speed with. See tiny_gguf.h for what is in it.
 */

#include "tool/tiny_gguf.h"

#include <errno.h>
#include <getopt.h>

static const char usage[] =
    "usage: make_tiny [-s SEED] [-o FILE] [options]\n"
    "  -s, --seed N            default 1\n"
    "  -o, --output FILE       default: standard output\n"
    "  --type T                q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k\n"
    "                          q6_k q8_k iq4_nl iq4_xs f16 bf16 f32 mixed;\n"
    "                          rows too short for a type get its substitute\n"
    "  --head T                type of embedding and head\n"
    "  --preset NAME           shape of smollm2-135m, qwen2-0.5b, llama-1b,\n"
    "                          llama-8b or gemma-head; all tied\n"
    "  --shape L,D,H,G,F       layers, width, heads, kv heads, ffn width\n"
    "  --head-dim K            default D / H\n"
    "  --vocab N               default 512, at least 259\n"
    "  --context N             default 2048\n"
    "  --pre NAME              pre-tokenizer, default smollm\n"
    "  --template FILE|none    chat template instead of the built-in one\n"
    "  --tied                  no head of its own\n"
    "  --repeat N              make N rows of a matrix, which then repeat: a\n"
    "                          large file in seconds, to measure speed with\n";


static const struct {
    const char  *name;
    uint32_t     L, D, H, G, F, V;
} presets[] = {
    { "smollm2-135m", 30, 576, 9, 3, 1536, 49152 },
    { "qwen2-0.5b", 24, 896, 14, 2, 4864, 151936 },
    { "llama-1b", 16, 2048, 32, 8, 8192, 128256 },
    { "llama-8b", 32, 4096, 32, 8, 14336, 128256 },
    { "gemma-head", 1, 640, 10, 2, 2048, 262144 }
};


static int
type_of(const char *name, uint32_t *type)
{
    if (strcmp(name, "mixed") == 0) {
        *type = TINY_MIXED;
        return 1;
    }

    return quant_type(name, type);
}


static int
preset_of(const char *name, tiny_conf_t *c)
{
    for (size_t i = 0; i < sizeof(presets) / sizeof(presets[0]); i++) {
        if (strcmp(presets[i].name, name) == 0) {
            c->L = presets[i].L;
            c->D = presets[i].D;
            c->H = presets[i].H;
            c->G = presets[i].G;
            c->F = presets[i].F;
            c->V = presets[i].V;
            c->tied = 1;
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
        { "head", required_argument, NULL, 'H' },
        { "preset", required_argument, NULL, 'p' },
        { "shape", required_argument, NULL, 'S' },
        { "head-dim", required_argument, NULL, 'K' },
        { "vocab", required_argument, NULL, 'V' },
        { "context", required_argument, NULL, 'C' },
        { "pre", required_argument, NULL, 'P' },
        { "template", required_argument, NULL, 'T' },
        { "tied", no_argument, NULL, 'x' },
        { "repeat", required_argument, NULL, 'R' },
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

        case 'H':
            if (!quant_type(optarg, &c->head)) {
                refuse("--head", optarg);
            }
            c->head++;
            break;

        case 'p':
            if (!preset_of(optarg, c)) {
                refuse("--preset", optarg);
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

        case 'R':
            c->repeat = number("--repeat", optarg);
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
    const char *output = parse(argc, argv, &conf, &template_text);

    if (!tiny_possible(&conf)) {
        fprintf(stderr, "make_tiny: no such shape\n");
        free(template_text);
        return 1;
    }

    FILE *f = output ? fopen(output, "wb") : stdout;
    int good = f != NULL && tiny_write(&conf, f);

    free(template_text);

    if (f == NULL || fclose(f) != 0 || !good) {
        fprintf(stderr, "make_tiny: cannot write \"%s\": %s\n",
                output ? output : "standard output", strerror(errno));
        return 1;
    }

    return 0;
}
