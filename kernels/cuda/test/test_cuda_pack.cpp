/*
 * test_cuda_pack.cpp: which family a type is served in, and the images of
 * the q8 family, taken apart here by the drawing in gemm.h: every value and
 * scale as in the file, zeros elsewhere, nothing left unwritten.
 */

#include "test_q8.h"
#include "cuda_ops.h"

/* What an element of a packed matrix of the q8 family is. */
static float
value(const cu_weight_t &w, const uint8_t *image, uint32_t r, uint32_t k)
{
    const cu_traits_t  t = cu_traits(w.form);
    const uint32_t     tile = r / 16, b = k / 32, c = k % 32;
    const uint32_t     lane = r % 8 * 4 + c % 16 / 4;
    const uint32_t     word = c / 16 * 2 + r % 16 / 8;
    const uint32_t     link = t.subs == 2 ? 2 * b + c / 16 : b;
    const uint8_t      v = image[((size_t) tile * cu_steps(t, w.n_in)
                                  + (t.nibbles ? b / 2 : b)) * 512
                                 + lane * 16 + word * 4 + c % 4];
    const uint8_t     *s = image + cu_q8_data(&w)
                           + ((size_t) tile * cu_groups(t, w.n_in) + link / 4)
                             * cu_group_bytes(t)
                           + (r % 16 * 4 + link % 4) * t.scale;
    int                q = (int8_t) v;
    float              f, d[2] = { 0, 0 };

    if (t.nibbles) {
        q = v >> (b % 2 * 4) & 15;
        q = w.form == CU_N4Z && q >= 8 ? q - 16 : q;
    }
    for (int i = 0; i <= t.min; i++, s += cu_q8_scale(&w)) {
        uint16_t  h;

        memcpy(&h, s, 2);
        memcpy(&d[i], s, 4);
        d[i] = t.scale == 2 ? cpu_f16_to_f32(h) : d[i];
    }
    f = d[0] * (float) q;
    return t.min ? f + d[1] : f;
}

static std::vector<uint8_t>
pack(const cu_weight_t &w, uint64_t bytes, uint32_t type,
    const std::vector<uint8_t> &raw, uint8_t fill, bool backwards)
{
    std::vector<uint8_t>  image(bytes, fill);
    const uint32_t        units = (w.n_out + CU_PACK_ROWS - 1) / CU_PACK_ROWS;

    for (uint32_t i = 0; i < units; i++) {
        const uint32_t  r0 = (backwards ? units - 1 - i : i) * CU_PACK_ROWS;
        const uint32_t  n = w.n_out - r0 < CU_PACK_ROWS ? w.n_out - r0
                                                        : CU_PACK_ROWS;

        (void) cu_pack_rows(&w, type, image.data(),
                            raw.data() + r0 * test_row_bytes(type, w.n_in),
                            r0, n);
    }
    return image;
}

/* Data and scales, without what rounds their lengths up. */
static void
images(uint32_t type, uint32_t n_out, uint32_t n_in)
{
    cu_weight_t           w;
    uint64_t              bytes = 0;
    int                   lossy = -1;
    bool                  same = true, near = true;
    std::vector<uint8_t>  raw = test_tensor(type, n_out, n_in, 1);
    std::vector<float>    x((size_t) n_out * n_in);

    if (cu_pack_plan(type, n_out, n_in, CU_Q8, &w, &bytes, &lossy)
        != INFER_OK)
    {
        ok(0, "%s %u x %u: plan", kern_type_name(type), n_out, n_in);
        return;
    }

    const std::vector<uint8_t>  a = pack(w, bytes, type, raw, 0xa5, false);
    const std::vector<uint8_t>  b = pack(w, bytes, type, raw, 0x5a, true);

    kern_dequant_ref(x.data(), type, raw.data(), x.size());
    for (uint32_t r = 0; r < n_out; r++) {
        for (uint32_t k = 0; k < n_in; k++) {
            const float  v = value(w, a.data(), r, k);

            near = near && memcmp(&v, &x[(size_t) r * n_in + k], 4) == 0;
        }
    }
    same = bytes % 256 == 0 && memcmp(a.data(), b.data(), bytes) == 0;
    ok(near && same && lossy == 0, "%s %u x %u: values%s%s",
       kern_type_name(type), n_out, n_in, near ? "" : " differ",
       same ? "" : ", image depends on what was there");
}

/* Rows that fill the last tile are zero. */
static void
padding(void)
{
    cu_weight_t           w;
    uint64_t              bytes;
    int                   lossy, zero = 1;
    std::vector<uint8_t>  raw = test_tensor(KERN_Q5_1, 17, 96, 1);

    (void) cu_pack_plan(KERN_Q5_1, 17, 96, CU_Q8, &w, &bytes, &lossy);

    const std::vector<uint8_t>  a = pack(w, bytes, KERN_Q5_1, raw, 0xa5,
                                         false);

    for (uint32_t r = 17; r < 32; r++) {
        for (uint32_t k = 0; k < 96; k++) {
            zero &= value(w, a.data(), r, k) == 0;
        }
    }
    ok(zero, "rows beyond the last are zero");
}

static void
plans(void)
{
    static const struct {
        uint32_t     type;
        cu_family_e  asked, got;
        int          lossy;
    } plan[] = {
        { KERN_Q4_0, CU_Q8, CU_Q8, 0 }, { KERN_Q6_K, CU_Q8, CU_Q8, 0 },
        { KERN_F16, CU_Q8, CU_F16, 0 }, { KERN_BF16, CU_Q8, CU_BF16, 0 },
        { KERN_F32, CU_Q8, CU_BF16, 1 },
        { KERN_Q4_0, CU_W4A16, CU_W4A16, 0 },
        { KERN_Q4_1, CU_W4A16, CU_W4A16, 0 },
        { KERN_Q4_K, CU_W4A16, CU_W4A16, 1 },
        { KERN_Q6_K, CU_W4A16, CU_Q8, 0 },
        { KERN_Q8_0, CU_W4A16, CU_Q8, 0 },
        { KERN_F16, CU_W4A16, CU_W4A16, 1 },
        { KERN_Q4_K, CU_BF16, CU_BF16, 1 },
        { KERN_BF16, CU_BF16, CU_BF16, 0 },
        { KERN_BF16, CU_FP8, CU_FP8, 1 }, { KERN_F32, CU_W8A8, CU_W8A8, 1 }
    };
    cu_weight_t  w;
    uint64_t     bytes;
    int          lossy, same = 1;

    for (size_t i = 0; i < N_OF(plan); i++) {
        lossy = -1;
        if (cu_pack_plan(plan[i].type, 64, 256, plan[i].asked, &w, &bytes,
                         &lossy) != INFER_OK
            || w.family != (uint32_t) plan[i].got || lossy != plan[i].lossy)
        {
            diag("%s asked for family %d: %u, lossy %d",
                 kern_type_name(plan[i].type), plan[i].asked, w.family,
                 lossy);
            same = 0;
        }
    }
    ok(same, "families that types are served in");
    ok(cu_pack_plan(99, 64, 256, CU_Q8, &w, &bytes, &lossy)
       == INFER_UNSUPPORTED
       && cu_pack_plan(KERN_Q4_K, 64, 288, CU_Q8, &w, &bytes, &lossy)
          == INFER_UNSUPPORTED
       && cu_pack_plan(KERN_Q4_0, 64, 48, CU_Q8, &w, &bytes, &lossy)
          == INFER_UNSUPPORTED
       && cu_pack_plan(KERN_F32, 0, 64, CU_Q8, &w, &bytes, &lossy)
          == INFER_UNSUPPORTED, "types and shapes that are refused");
}

/* A sentence exactly where values are rounded; test_cuda_embed.cpp measures
 * what it says. */
static void
losses(void)
{
    static const struct {
        uint32_t     type, precision;
        const char  *text;               /* "": nothing is lost */
    } loss[] = {
        { KERN_Q4_0, KERN_PREC_Q8, "" }, { KERN_F16, KERN_PREC_Q8, "" },
        { KERN_Q8_0, KERN_PREC_W4A16, "" },
        { KERN_F32, KERN_PREC_Q8, "weights of type F32 are rounded to bf16, "
          "each by at most 0.4 %" },
        { KERN_F32, KERN_PREC_F16, "weights of type F32 are rounded to f16, "
          "each by at most 0.05 %" },
        { KERN_BF16, KERN_PREC_FP8, "weights of type BF16 are rounded to fp8 "
          "with one scale a row, each by at most 6.3 %, or 0.0002 % of its "
          "row's largest" },
        { KERN_Q8_0, KERN_PREC_W8A8, "weights of type Q8_0 are rounded to 8 "
          "bits with one scale a row, each by at most 0.4 % of its row's "
          "largest" },
        { KERN_F32, KERN_PREC_W4A16, "weights of type F32 are rounded to 4 "
          "bits, each by at most 3.4 % of the range of 32 of them" },
        { KERN_Q4_K, KERN_PREC_W4A16, "weights of type Q4_K have their scales "
          "and minima rounded to f16, each by at most 0.05 %" }
    };

    for (size_t i = 0; i < N_OF(loss); i++) {
        kern_shape_t         s;
        const kern_tensor_t  t = { loss[i].type, 64, 256 };
        char                 text[160] = "";
        int                  lost;

        memset(&s, 0, sizeof(s));
        s.precision = loss[i].precision;
        lost = cu_ops.loss(&s, &t, text, sizeof(text));
        ok(lost == (loss[i].text[0] != 0) && strcmp(text, loss[i].text) == 0,
           "%s as %s: %s", kern_type_name(t.type),
           kern_prec_name(s.precision), lost ? text : "nothing is lost");
    }
}

int
main(int argc, char **argv)
{
    test_begin(argc, argv);
    plans();
    losses();
    for (uint32_t type : test_types) {
        uint32_t  values, bytes;

        kern_type_layout(type, &values, &bytes);
        if (values > 1) {
            images(type, 64, 256);
            images(type, 131, values == 32 ? 96 : 512);
            images(type, 1, values == 32 ? 32 : 256);
        }
    }
    padding();
    return test_end();
}
