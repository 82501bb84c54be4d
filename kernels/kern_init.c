/*
 * kern_init.c: probes the machine and chooses a backend from one table of
 * levels, best first.
 */

#include <string.h>

#include "arm/arm.h"
#include "cpu_ctx.h"
#include "kern_plugin.h"
#include "ref/ref.h"
#include "x86/x86.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* Equal ids give equal bits. All q8 levels share one definition, up to and
 * including attention. The number changes when the definition does. */
#define NUMERICS_F32  1
#define NUMERICS_Q8   2

typedef struct {
    kern_ops_t    ops;            /* first: open() finds its level by it */
    const char   *isa;            /* name in the configuration */
    int         (*has)(void);
    cpu_inner_t   inner;
} init_level_t;


static int
init_has_always(void)
{
    return 1;
}

#if defined(__x86_64__)

/* XCR0: which register files the kernel saves. */
static uint32_t
init_xcr0(void)
{
    uint32_t  eax, edx;

    __asm__ volatile ("xgetbv" : "=a" (eax), "=d" (edx) : "c" (0));
    (void) edx;
    return eax;
}

static void
init_cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile ("cpuid"
                      : "=a" (r[0]), "=b" (r[1]), "=c" (r[2]), "=d" (r[3])
                      : "a" (leaf), "c" (sub));
}

static int
init_has_avx2(void)
{
    uint32_t  r[4];

    init_cpuid(0, 0, r);
    if (r[0] < 7) {
        return 0;
    }
    init_cpuid(1, 0, r);
    /* FMA, OSXSAVE, AVX, F16C */
    if ((r[2] & (1u << 12)) == 0 || (r[2] & (1u << 27)) == 0
        || (r[2] & (1u << 28)) == 0 || (r[2] & (1u << 29)) == 0
        || (init_xcr0() & 0x6) != 0x6)
    {
        return 0;
    }
    init_cpuid(7, 0, r);
    return (r[1] & (1u << 5)) != 0;
}

static int
init_has_avx512(void)
{
    uint32_t  r[4];

    if (!init_has_avx2() || (init_xcr0() & 0xe6) != 0xe6) {
        return 0;
    }
    init_cpuid(7, 0, r);
    /* F, DQ, BW, VL; VNNI */
    return (r[1] & (1u << 16)) != 0 && (r[1] & (1u << 17)) != 0
           && (r[1] & (1u << 30)) != 0 && (r[1] & (1u << 31)) != 0
           && (r[2] & (1u << 11)) != 0;
}

/* VEX vpdpbusd, of processors without AVX-512. */
static int
init_has_avxvnni(void)
{
    uint32_t  r[4];

    if (!init_has_avx2()) {
        return 0;
    }
    init_cpuid(7, 0, r);
    if (r[0] < 1) {
        return 0;
    }
    init_cpuid(7, 1, r);
    return (r[0] & (1u << 4)) != 0;
}

#endif


#if defined(__aarch64__)

static int
init_has_neon(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

#endif


static int init_open(kern_ctx_t **ctx, const kern_ops_t *ops,
    const kern_shape_t *shape, infer_err_t *err);

/* What all CPU levels have in common. */
#define INIT_CPU_OPS                                                          \
    .depth = 1,                                                               \
    .open = init_open,                                                        \
    .close = kern_cpu_close,                                                  \
    .pack = kern_cpu_pack,                                                    \
    .weight_free = kern_cpu_weight_free,                                      \
    .weight_bytes = kern_cpu_weight_bytes,                                    \
    .begin = kern_cpu_begin,                                                  \
    .embed = kern_cpu_embed,                                                  \
    .attn = kern_cpu_attn,                                                    \
    .ffn = kern_cpu_ffn,                                                      \
    .head = kern_cpu_head,                                                    \
    .submit = kern_cpu_submit,                                                \
    .wait = kern_cpu_wait,                                                    \
    .logits = kern_cpu_logits,                                                \
    .kv_page_bytes = kern_cpu_kv_page_bytes,                                  \
    .kv_zero = kern_cpu_kv_zero,                                              \
    .parallel = kern_cpu_parallel

/* A level whose linears are lin and whose other entries end in rest. */
#define INIT_LEVEL(name_, isa_, has_, q8_, rest, lin)                         \
    {                                                                         \
        .isa = isa_,                                                          \
        .has = has_,                                                          \
        .ops = { .name = name_,                                               \
                 .numerics = q8_ ? NUMERICS_Q8 : NUMERICS_F32, INIT_CPU_OPS,  \
                 .argmax = kern_argmax_ ## rest,                              \
                 .exp_row = kern_exp_row_ ## rest },                          \
        .inner = { .name = name_, .q8 = q8_,                                  \
                   .rmsnorm = kern_rmsnorm_ ## rest,                          \
                   .quantize = kern_quantize_ ## rest,                        \
                   .linear = lin,                                             \
                   .silu_mul = kern_silu_mul_ ## rest,                        \
                   .rope = kern_rope_ ## rest,                                \
                   .kv_store = kern_kv_store_ ## rest,                        \
                   .attend = kern_attend_ ## rest,                            \
                   .attend_part = kern_attend_part_ ## rest,                  \
                   .attend_join = kern_attend_join_ ## rest,                  \
                   .argmax = kern_argmax_ ## rest,                            \
                   .exp_row = kern_exp_row_ ## rest }                         \
    }

static const init_level_t  init_levels[] = {
#if defined(__x86_64__)
    INIT_LEVEL("avx512", "avx512", init_has_avx512, 1, avx512,
               kern_linear_avx512),
    INIT_LEVEL("avxvnni", "avxvnni", init_has_avxvnni, 1, avx2,
               kern_linear_avxvnni),
    INIT_LEVEL("vnni256", "vnni256", init_has_avx512, 1, avx2,
               kern_linear_vnni256),
    INIT_LEVEL("avx2", "avx2", init_has_avx2, 1, avx2, kern_linear_avx2),
#endif
#if defined(__aarch64__)
    INIT_LEVEL("neon", "neon", init_has_neon, 1, neon, kern_linear_neon),
#endif
    INIT_LEVEL("ref-q8", "ref-q8", init_has_always, 1, ref,
               kern_linear_q8_ref),
    INIT_LEVEL("ref-f32", "ref", init_has_always, 0, ref, kern_linear_f32_ref)
};

#define INIT_N_LEVELS  (sizeof(init_levels) / sizeof(init_levels[0]))


static int
init_open(kern_ctx_t **ctx, const kern_ops_t *ops, const kern_shape_t *shape,
    infer_err_t *err)
{
    const init_level_t  *level = (const init_level_t *) ops;

    return kern_cpu_open(ctx, &level->inner, shape, err);
}

static const char *const  init_kv_names[KERN_N_KV_TYPES] = {
    [KERN_KV_F16] = "f16", [KERN_KV_BF16] = "bf16", [KERN_KV_Q8] = "q8",
    [KERN_KV_FP8] = "fp8"
};

const char *
kern_kv_name(uint32_t type)
{
    return type < KERN_N_KV_TYPES ? init_kv_names[type] : NULL;
}

int
kern_kv_type(const char *name)
{
    int  i;

    for (i = 0; i < KERN_N_KV_TYPES; i++) {
        if (strcmp(init_kv_names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

static const char *const  init_precs[KERN_N_PRECS] = {
    [KERN_PREC_Q8] = "q8", [KERN_PREC_BF16] = "bf16",
    [KERN_PREC_F16] = "f16", [KERN_PREC_W4A16] = "w4a16",
    [KERN_PREC_FP8] = "fp8", [KERN_PREC_W8A8] = "w8a8"
};

const char *
kern_prec_name(uint32_t prec)
{
    return prec < KERN_N_PRECS ? init_precs[prec] : NULL;
}

int
kern_prec(const char *name)
{
    int  i;

    for (i = 0; i < KERN_N_PRECS; i++) {
        if (strcmp(init_precs[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

int
kern_device(const char *device)
{
    const char  *p;
    int          n = 0;

    if (strcmp(device, "cpu") == 0 || strcmp(device, "cuda") == 0) {
        return 0;
    }
    if (strncmp(device, "cuda:", 5) != 0 || device[5] == '\0') {
        return -1;
    }
    for (p = device + 5; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || n > 99) {
            return -1;
        }
        n = 10 * n + (*p - '0');
    }
    return n;
}

static const init_level_t *
init_find(const char *isa)
{
    size_t  i;

    for (i = 0; i < INIT_N_LEVELS; i++) {
        if (strcmp(init_levels[i].isa, isa) == 0) {
            return &init_levels[i];
        }
    }
    return NULL;
}

const cpu_inner_t *
cpu_inner(const char *isa)
{
    const init_level_t  *level = init_find(isa);

    return level != NULL && level->has() ? &level->inner : NULL;
}

/* The CPU level of that name, the best one for NULL and "auto". */
static const kern_ops_t *
init_cpu(const char *isa, infer_err_t *err)
{
    const init_level_t  *level;
    size_t               i;

    if (isa == NULL || strcmp(isa, "auto") == 0) {
        for (i = 0; !init_levels[i].has(); i++) { /* void */ }
        return &init_levels[i].ops;
    }

    level = init_find(isa);
    if (level == NULL) {
        (void) infer_err(err, INFER_UNSUPPORTED,
                         "unknown instruction set \"%s\"", isa);
        return NULL;
    }
    if (!level->has()) {
        (void) infer_err(err, INFER_UNSUPPORTED,
                         "this machine cannot run \"%s\"", isa);
        return NULL;
    }
    return &level->ops;
}

const kern_ops_t *
kern_init(const char *device, const char *isa, infer_err_t *err)
{
    const kern_ops_t  *cpu;

    if (kern_device(device) < 0) {
        (void) infer_err(err, INFER_UNSUPPORTED,
                         "unknown device \"%s\", there are \"cpu\" and "
                         "\"cuda[:N]\"", device);
        return NULL;
    }

    cpu = init_cpu(isa, err);
    return cpu == NULL || strcmp(device, "cpu") == 0
           ? cpu : kern_plugin_ops(cpu, err);
}
