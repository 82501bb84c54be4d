/*
 * blas_door.h: how the fake libcublasLt (blas_fake.cpp), a library of its
 * own, reaches the fake runtime, whose symbols are hidden inside a program
 * or plugin: through the first members of every stream.
 */

#ifndef SIMT_BLAS_DOOR_H
#define SIMT_BLAS_DOOR_H

#include <cstddef>
#include <cstdint>

namespace simt {

struct BlasDoor {
    uint64_t magic;
    /* Queues run(arg) on the stream, or adds it to its capture: run may be
     * called never or often; drop(arg) once when it is not needed any more.
     * 0, or a cudaError_t. */
    int    (*enqueue)(BlasDoor *stream, void (*run)(void *),
                      void (*drop)(void *), void *arg);
    /* n bytes at p lie in one device allocation. */
    bool   (*is_device)(const void *p, size_t n);
    /* n bytes at p were written (the checker's initialised memory). */
    void   (*wrote)(const void *p, size_t n);
};

constexpr uint64_t BLAS_DOOR_MAGIC = 0x53494d54424c4153ull;

}  // namespace simt

#endif
