/*
 * mma.cpp: tensor-core products and ldmatrix. Fragment layouts: PTX ISA,
 * "Matrix Fragments for mma.m16n8k16" and "... m16n8k32": with lane = 4 g +
 * t, register r of a holds rows g + 8 (r & 1), columns from (r >> 1) * K/2;
 * register r of b holds column g, rows from r * K/2; within a register the
 * elements are columns (rows of b) E t .. E t + E - 1, E = 2 or 4.
 */

#include "fiber.h"

namespace simt {

/* Products of 16-bit and 8-bit floats are exact in f32; sums are f32,
 * ascending k. K: 16 or 32; E: elements of a register; T: type of sums. */
template <class T, int K, int E, class F>
static void product(Coll *c, F element)
{
    constexpr int BITS = 32 / E;
    T a[16][K], b[K][8], d[16][8];

    for (int l = 0; l < 32; l++) {
        const int g = l >> 2, t = l & 3;
        Frag      f;

        memcpy(&f, c->val[l], sizeof f);
        for (int r = 0; r < 4; r++) {
            for (int e = 0; e < E; e++) {
                a[g + (r & 1) * 8][t * E + e + (r >> 1) * (K / 2)]
                    = element(f.a[r] >> BITS * e);
            }
            memcpy(&d[g + (r >> 1) * 8][t * 2 + (r & 1)], &f.c[r], 4);
        }
        for (int r = 0; r < 2; r++) {
            for (int e = 0; e < E; e++) {
                b[t * E + e + r * (K / 2)][g] = element(f.b[r] >> BITS * e);
            }
        }
    }

    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < K; k++) {
            for (int j = 0; j < 8; j++) {
                d[i][j] += a[i][k] * b[k][j];
            }
        }
    }

    for (int l = 0; l < 32; l++) {
        for (int r = 0; r < 4; r++) {
            memcpy(c->res[l] + 4 * r,
                   &d[(l >> 2) + (r >> 1) * 8][(l & 3) * 2 + (r & 1)], 4);
        }
    }
}

void mma_bf16_fin(Coll *c)
{
    product<float, 16, 2>(c, [](uint32_t v) {
        return bf16_value((uint16_t) v); });
}

void mma_f16_fin(Coll *c)
{
    product<float, 16, 2>(c, [](uint32_t v) {
        return half_value((uint16_t) v); });
}

void mma_s8_fin(Coll *c)
{
    product<int, 32, 4>(c, [](uint32_t v) { return (int) (int8_t) v; });
}

void mma_e4m3_fin(Coll *c)
{
    product<float, 32, 4>(c, [](uint32_t v) {
        return e4m3_value((uint8_t) v); });
}

void mma(Finish fin, void *d, const uint32_t a[4], const uint32_t b[2],
    const char *file, int line)
{
    Frag  f;
    Coll *c;

    memcpy(f.a, a, sizeof f.a);
    memcpy(f.b, b, sizeof f.b);
    memcpy(f.c, d, sizeof f.c);
    c = enter(OP_MMA, ~0u, &f, sizeof f, file, line, fin);
    memcpy(d, c->res[lane()], sizeof f.c);
    leave(c);
}

/* Lanes 8 i .. 8 i + 7 give the rows of matrix i. Lane 4 g + t gets columns
 * 2 t, 2 t + 1 of row g; transposed: rows 2 t, 2 t + 1 of column g. */
void ldmatrix(uint32_t *r, const void *row, int n, bool trans,
    const char *file, int line)
{
    const unsigned me = lane(), g = me / 4, t = me % 4;
    Coll          *c;

    if ((int) me < 8 * n) {
        if ((uintptr_t) row & 15) {
            fail("%s:%d: row address of ldmatrix is not a multiple of 16",
                 file, line);
        }
        touch(row, 16, false, false, __builtin_return_address(0));
    }
    c = enter(OP_LDM, ~0u, &row, sizeof row, file, line);
    for (int i = 0; i < n; i++) {
        const char *p[2];
        uint16_t    v[2];

        for (unsigned h = 0; h < 2; h++) {
            unsigned from = trans ? 2 * t + h : g;
            memcpy(&p[h], c->val[8 * i + (int) from], sizeof p[h]);
            memcpy(&v[h], p[h] + (trans ? 2 * g : 4 * t + 2 * h), 2);
        }
        r[i] = (uint32_t) v[1] << 16 | v[0];
    }
    leave(c);
}

}  // namespace simt
