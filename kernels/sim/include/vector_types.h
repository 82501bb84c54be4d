/*
 * vector_types.h: stand-in for the toolkit's header, for C and C++. Names,
 * sizes and alignments are those of the real one, so that kernels have the
 * same mangled names here and in nvcc's PTX.
 */

#ifndef SIMT_VECTOR_TYPES_H
#define SIMT_VECTOR_TYPES_H

#define SIMT_VEC1(T, N) struct N##1 { T x; }; typedef struct N##1 N##1
#define SIMT_VEC2(T, N, A) \
    struct __attribute__((aligned(A))) N##2 { T x, y; }; \
    typedef struct N##2 N##2
#define SIMT_VEC3(T, N) struct N##3 { T x, y, z; }; typedef struct N##3 N##3
#define SIMT_VEC4(T, N, A) \
    struct __attribute__((aligned(A))) N##4 { T x, y, z, w; }; \
    typedef struct N##4 N##4

SIMT_VEC2(signed char, char, 2);
SIMT_VEC4(signed char, char, 4);
SIMT_VEC2(unsigned char, uchar, 2);
SIMT_VEC4(unsigned char, uchar, 4);
SIMT_VEC2(short, short, 4);
SIMT_VEC4(short, short, 8);
SIMT_VEC2(unsigned short, ushort, 4);
SIMT_VEC4(unsigned short, ushort, 8);
SIMT_VEC2(int, int, 8);
SIMT_VEC3(int, int);
SIMT_VEC4(int, int, 16);
SIMT_VEC2(unsigned, uint, 8);
SIMT_VEC3(unsigned, uint);
SIMT_VEC4(unsigned, uint, 16);
SIMT_VEC2(float, float, 8);
SIMT_VEC3(float, float);
SIMT_VEC4(float, float, 16);
SIMT_VEC2(double, double, 16);
SIMT_VEC2(long long, longlong, 16);
SIMT_VEC2(unsigned long long, ulonglong, 16);

struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1)
        : x(a), y(b), z(c) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
#endif
};
typedef struct dim3 dim3;

#endif
