/*
 * body_vec.h: the row functions of ref_vec.c over v16 lanes. Included once
 * by vec_avx2.c and once by vec_avx512.c, each after its v16 header. Same
 * operations in the same order as the definitions, so equal by memcmp.
 */

#include <math.h>
#include <string.h>

#include "x86/x86.h"


/* kern_exp() per lane. */
V16_INLINE v16_t
v16_exp(v16_t x)
{
    v16_t  t, n, r, p;

    t = v16_fma(x, v16_set1(0x1.715476p+0f), v16_set1(0x1.8p+23f));
    n = v16_sub(t, v16_set1(0x1.8p+23f));
    r = v16_fma(n, v16_set1(-0x1.62e400p-1f), x);
    r = v16_fma(n, v16_set1(-0x1.7f7d1cp-20f), r);
    p = v16_fma(r, v16_set1(1.0f / 5040), v16_set1(1.0f / 720));
    p = v16_fma(p, r, v16_set1(1.0f / 120));
    p = v16_fma(p, r, v16_set1(1.0f / 24));
    p = v16_fma(p, r, v16_set1(1.0f / 6));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_mul(p, v16_pow2(t));
    p = v16_if_lt(x, v16_set1(-87.0f), v16_set1(0.0f), p);
    return v16_if_lt(v16_set1(88.37f), x, v16_set1(INFINITY), p);
}
