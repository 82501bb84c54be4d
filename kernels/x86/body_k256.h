/*
 * body_k256.h: the part of body_dot256.h for forms with 5 bits, of groups and
 * of the table (cpu.h). Included by it alone.
 *
 * tile     16 outputs x 1, 2 or 4 rows, f32 sums in L1, as there
 * math     vpdpbusd, or else maddubs of unsigned values; as many of its
 *          results stay in 16 bits as fit: 8 of up to 15, 4 of up to 31, 2
 *          of up to 63. Forms of 8 bits and of the table: |w| times the
 *          activation with the sign of w, at most 2 * 128 * 127 = 32,512:
 *          widened one by one for few rows, else k_signed_half()
 */

/* Whether values lose their zero point before they are multiplied. */
TILE_INLINE int
k_signed(const cpu_traits_t t)
{
    return !DOT_VNNI && (t.low == 8 || t.table);
}

/* Values of columns 16h + 4i .. + 3 of 8 outputs, unsigned but for
 * k_signed(). */
TILE_INLINE __m256i
k_values(const uint8_t *w, const int h, const int i, const cpu_traits_t t)
{
    __m256i  v, u;

    if (t.low == 8) {
        v = tile_w(w + (4 * h + i) * 64);
        return k_signed(t)
               ? _mm256_xor_si256(v, _mm256_set1_epi8((char) 0x80)) : v;
    }
    if (t.low == 4) {
        v = tile_w(w + i * 64);
        v = h ? _mm256_srli_epi16(v, 4) : v;
        v = _mm256_and_si256(v, _mm256_set1_epi8(15));
    } else {
        v = tile_w(w + h * 64);
        v = i ? _mm256_srli_epi16(v, 2 * i) : v;
        v = _mm256_and_si256(v, _mm256_set1_epi8(3));
    }
    if (t.table) {
        u = _mm256_broadcastsi128_si256(
                _mm_loadu_si128((const __m128i *) kern_iq4_values));
        if (!k_signed(t)) {
            u = _mm256_xor_si256(u, _mm256_set1_epi8((char) 0x80));
        }
        return _mm256_shuffle_epi8(u, v);
    }

    if (t.high == 1) {
        u = tile_w(w + t.low * 64);
        u = 4 * h + i < t.low ? _mm256_slli_epi16(u, t.low - 4 * h - i)
            : _mm256_srli_epi16(u, 4 * h + i - t.low);
        u = _mm256_and_si256(u, _mm256_set1_epi8((char) (1 << t.low)));
        v = _mm256_or_si256(v, u);
    } else if (t.high == 2) {
        u = tile_w(w + t.low * 64 + h * 64);
        u = 2 * i < t.low ? _mm256_slli_epi16(u, t.low - 2 * i)
            : _mm256_srli_epi16(u, 2 * i - t.low);
        u = _mm256_and_si256(u, _mm256_set1_epi8((char) (3 << t.low)));
        v = _mm256_or_si256(v, u);
    }
    return v;
}

#if !DOT_VNNI

/* Sums of one half of a panel, 8 outputs, of signed values. The products y
 * of two columns fill 16 bits; lo is their sum modulo 2^16, hi the sum of
 * y >> 4, so 16 hi <= sum <= 16 hi + 8 * 15 tells what is missing. */
TILE_INLINE void
k_signed_half(__m256i *s, const uint8_t *w, const int8_t *q, size_t step,
    const int rows, const cpu_traits_t t)
{
    const __m256i  one = _mm256_set1_epi16(1), p16 = _mm256_set1_epi16(16);
    __m256i        lo[TILE_ROWS], hi[TILE_ROWS], v, m, y, z;
    int            c, r, h, i;

#pragma GCC unroll 8
    for (c = 0; c < 8; c++) {
        h = t.low == 4 ? c % 2 : c / 4;
        i = t.low == 4 ? c / 2 : c % 4;
        v = k_values(w, h, i, t);
        m = _mm256_abs_epi8(v);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            y = tile_x(q + (size_t) r * step + h * 16 + i * 4);
            y = _mm256_maddubs_epi16(m, _mm256_sign_epi8(y, v));
            z = _mm256_srai_epi16(y, 4);
            lo[r] = c == 0 ? y : _mm256_add_epi16(lo[r], y);
            hi[r] = c == 0 ? z : _mm256_add_epi16(hi[r], z);
            TILE_PIN(lo[r]);
            TILE_PIN(hi[r]);
        }
    }
#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        z = _mm256_sub_epi16(lo[r], _mm256_slli_epi16(hi[r], 4));
        s[r] = _mm256_add_epi32(_mm256_madd_epi16(hi[r], p16),
                                _mm256_madd_epi16(z, one));
    }
}

#endif

/* Integer sums s[half][row] of one panel of a block, or of the block's half
 * `sub` where it has two scales. */
TILE_INLINE void
k_block(__m256i (*s)[TILE_ROWS], const uint8_t *w, const int8_t *q,
    size_t step, const int sub, const int rows, const cpu_traits_t t)
{
    const int  n = t.subs == 2 ? 4 : 8;
    __m256i    v0, v1, x;
    int        c, r, h, i;
#if !DOT_VNNI
    const __m256i  one = _mm256_set1_epi16(1);
    const int      bits = t.low + t.high;
    const int      fit = k_signed(t) ? 1 : bits > 5 ? 2 : bits > 4 ? 4 : 8;
    const int      end = fit < n ? fit : n;
    __m256i        a[2][TILE_ROWS], y0, y1;

    if (k_signed(t) && rows > 2) {
        k_signed_half(s[0], w, q, step, rows, t);
        TILE_PIN_PTR(q);
        TILE_PIN_PTR(w);
        k_signed_half(s[1], w + 32, q, step, rows, t);
        return;
    }
#endif

#pragma GCC unroll 8
    for (c = 0; c < n; c++) {
        /* nibbles: low and high halves of one load */
        h = t.subs == 2 ? sub : t.low == 4 ? c % 2 : c / 4;
        i = t.subs == 2 ? c : t.low == 4 ? c / 2 : c % 4;
        v0 = k_values(w, h, i, t);
        v1 = k_values(w + 32, h, i, t);
#pragma GCC unroll 4
        for (r = 0; r < rows; r++) {
            x = tile_x(q + (size_t) r * step + h * 16 + i * 4);
#if DOT_VNNI
            s[0][r] = _mm256_dpbusd_epi32(s[0][r], v0, x);
            s[1][r] = _mm256_dpbusd_epi32(s[1][r], v1, x);
#else
            if (k_signed(t)) {
                y0 = _mm256_maddubs_epi16(_mm256_abs_epi8(v0),
                                          _mm256_sign_epi8(x, v0));
                y1 = _mm256_maddubs_epi16(_mm256_abs_epi8(v1),
                                          _mm256_sign_epi8(x, v1));
            } else {
                y0 = _mm256_maddubs_epi16(v0, x);
                y1 = _mm256_maddubs_epi16(v1, x);
            }
            a[0][r] = c % end == 0 ? y0 : _mm256_add_epi16(a[0][r], y0);
            a[1][r] = c % end == 0 ? y1 : _mm256_add_epi16(a[1][r], y1);
            TILE_PIN(a[0][r]);
            TILE_PIN(a[1][r]);
            if (c % end == end - 1) {
                s[0][r] = _mm256_add_epi32(s[0][r],
                              _mm256_madd_epi16(a[0][r], one));
                s[1][r] = _mm256_add_epi32(s[1][r],
                              _mm256_madd_epi16(a[1][r], one));
            }
#endif
        }
    }
}

/* Eight scales of the stripe's outputs from 8 * oct on. */
TILE_INLINE __m256
k_scale(const uint8_t *w, const uint8_t *head, int oct, const int sub,
    const cpu_traits_t t)
{
    __m256i  i;

    w += 3 * cpu_panel_bytes(t);
    if (t.scale == 2) {
        return tile_half(w + oct * 16);
    }
    if (t.scale == 4) {
        return _mm256_loadu_ps((const float *) (w + oct * 32));
    }
    i = _mm256_cvtepi8_epi32(_mm_loadl_epi64(
            (const __m128i *) (w + sub * CPU_STRIPE + oct * 8)));
    if (t.shared) {
        i = _mm256_and_si256(i, _mm256_set1_epi32(15));
    }
    return _mm256_mul_ps(tile_half(head + oct * 16), _mm256_cvtepi32_ps(i));
}

/* Minima to be added where they are f16, to be taken off otherwise. */
TILE_INLINE __m256
k_min(const uint8_t *w, const uint8_t *head, int oct, const int sub,
    const cpu_traits_t t)
{
    __m256i  i;

    w += 3 * cpu_panel_bytes(t);
    if (t.min == 2) {
        return tile_half(w + 2 * CPU_STRIPE + oct * 16);
    }
    w += (t.shared ? sub : 1) * CPU_STRIPE;
    i = _mm256_cvtepu8_epi32(_mm_loadl_epi64(
            (const __m128i *) (w + oct * 8)));
    if (t.shared) {
        i = _mm256_srli_epi32(i, 4);
    }
    return _mm256_mul_ps(tile_half(head + 2 * CPU_STRIPE + oct * 16),
                         _mm256_cvtepi32_ps(i));
}

/* What is kept of a tile between blocks. */
typedef struct {
    __m256  acc[6][TILE_ROWS], min[6][TILE_ROWS];
} k_sums_t;

/* One link of the chains of panel p: a block, or half of one. at: of row 0,
 * block b. */
TILE_INLINE void
k_link(k_sums_t *k, const uint8_t *w, const uint8_t *head, const int p,
    const cpu_acts_t *a, size_t at, uint32_t nb, __m128i shift,
    const int sub, const int rows, const cpu_traits_t t)
{
    __m256i  s[2][TILE_ROWS], z;
    __m256   d[2], m[2], da, x;
    size_t   i;
    float    sum;
    int      r, h;

#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        i = at + (size_t) r * nb;
        z = _mm256_setzero_si256();
        if (!t.min && !k_signed(t)) {
            z = _mm256_sll_epi32(_mm256_set1_epi32(
                    t.subs == 2 ? a->hsum[2 * i + (size_t) sub]
                                : a->nsum[i]), shift);
        }
        s[0][r] = s[1][r] = z;
    }
    k_block(s, w + p * cpu_panel_bytes(t), a->q + at * CPU_BLOCK,
            (size_t) nb * CPU_BLOCK, sub, rows, t);

    for (h = 0; h < 2; h++) {
        d[h] = k_scale(w, head, 2 * p + h, sub, t);
        m[h] = t.min ? k_min(w, head, 2 * p + h, sub, t) : d[h];
    }
#pragma GCC unroll 4
    for (r = 0; r < rows; r++) {
        i = at + (size_t) r * nb;
        da = _mm256_set1_ps(a->d[i]);
        sum = 0;
        if (t.min) {
            sum = t.subs == 2
                  ? a->d[i] * (float) a->hsum[2 * i + (size_t) sub]
                  : t.min == 2 ? a->dsum[i] : -a->dsum[i];
        }
#pragma GCC unroll 2
        for (h = 0; h < 2; h++) {
            x = _mm256_mul_ps(d[h], da);
            k->acc[2 * p + h][r] = _mm256_fmadd_ps(
                _mm256_cvtepi32_ps(s[h][r]), x, k->acc[2 * p + h][r]);
            if (t.min) {
                k->min[2 * p + h][r] = _mm256_fmadd_ps(
                    m[h], _mm256_set1_ps(sum), k->min[2 * p + h][r]);
            }
        }
    }
}

/* All outputs of the stripe for `rows` rows. */
TILE_INLINE void
k_quant(const kern_weight_t *wt, const uint8_t *w, const cpu_acts_t *a,
    uint32_t row, float *y, size_t ldy, uint32_t valid, int add, int ahead,
    const int rows, const cpu_traits_t t)
{
    uint32_t        nb = wt->n_in / CPU_BLOCK, b;
    size_t          at = (size_t) row * nb;
    __m128i         shift = _mm_cvtsi32_si128((int) wt->zero_shift);
    const uint8_t  *head = w;
    k_sums_t        k;
    int             r, p;

    for (p = 0; p < 6; p++) {
        for (r = 0; r < rows; r++) {
            k.acc[p][r] = k.min[p][r] = _mm256_setzero_ps();
        }
    }
    for (b = 0; b < nb; b++, w += cpu_block_bytes(t)) {
        if (t.group > 1 && b % (uint32_t) t.group == 0) {
            head = w;
            w += cpu_head_bytes(t);
        }
#pragma GCC unroll 1
        for (p = 0; p < 3; p++) {
            if (ahead) {
                tile_ahead(w + p * (cpu_block_bytes(t) / 3),
                           cpu_block_bytes(t) / 3);
            }
            k_link(&k, w, head, p, a, at + b, nb, shift, 0, rows, t);
            if (t.subs == 2) {
                k_link(&k, w, head, p, a, at + b, nb, shift, 1, rows, t);
            }
        }
    }
    for (p = 0; p < 6 && (uint32_t) p * 8 < valid; p++) {
        for (r = 0; r < rows; r++) {
            if (t.min) {
                k.acc[p][r] = _mm256_add_ps(k.acc[p][r], k.min[p][r]);
            }
            tile_store(y + r * ldy + p * 8, k.acc[p][r], valid - p * 8, add);
        }
    }
}

TILE_INLINE void
k_rows(const kern_weight_t *wt, const uint8_t *w, const cpu_acts_t *a,
    uint32_t row, uint32_t n_rows, float *y, size_t ldy, uint32_t valid,
    int add, const cpu_traits_t t)
{
    uint32_t  r;

    for (r = 0; r + TILE_ROWS <= n_rows; r += TILE_ROWS) {
        k_quant(wt, w, a, row + r, y + r * ldy, ldy, valid, add, r == 0,
                TILE_ROWS, t);
    }
    if (n_rows - r >= 2) {
        k_quant(wt, w, a, row + r, y + r * ldy, ldy, valid, add, r == 0, 2,
                t);
        r += 2;
    }
    if (r < n_rows) {
        k_quant(wt, w, a, row + r, y + r * ldy, ldy, valid, add, r == 0, 1,
                t);
    }
}

static void
k_linear(const kern_weight_t *wt, const uint8_t *w, const cpu_acts_t *a,
    uint32_t r0, uint32_t n_rows, float *y, size_t ldy, uint32_t valid,
    int add)
{
    switch (wt->form) {
    case CPU_N5Z:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_N5Z));
        break;
    case CPU_N5M:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_N5M));
        break;
    case CPU_B8D:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_B8D));
        break;
    case CPU_T4:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_T4));
        break;
    case CPU_T4G:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_T4G));
        break;
    case CPU_G2:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_G2));
        break;
    case CPU_G3:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_G3));
        break;
    case CPU_G4:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_G4));
        break;
    case CPU_G5:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_G5));
        break;
    default:
        k_rows(wt, w, a, r0, n_rows, y, ldy, valid, add,
               cpu_traits(CPU_G6));
    }
}
