/*
 * record.h: with INFER_RECORD=FILE what a test reads back from the device
 * goes there too, in the order of the reads: of each buffer its kind ('f':
 * f32, 'i': other), bytes a value, values, a hash of all of it and its first
 * 64 KiB. The same seed makes the same sequence on a GPU and in emulation;
 * kernels/cuda/fidelity.py compares the two.
 */

#ifndef KERN_CUDA_RECORD_H
#define KERN_CUDA_RECORD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <type_traits>

#define RECORD_BYTES  65536

static FILE  *record_file;

__attribute__((unused)) static void
record_begin(void)
{
    const char  *path = getenv("INFER_RECORD");

    if (path != NULL) {
        record_file = fopen(path, "wb");
        if (record_file == NULL) {
            perror(path);
            exit(1);
        }
    }
}

/* After the first pass: the others repeat it. */
__attribute__((unused)) static void
record_end(void)
{
    if (record_file != NULL && fclose(record_file) != 0) {
        perror("INFER_RECORD");
        exit(1);
    }
    record_file = NULL;
}

template <typename T>
static void
record(const T *v, size_t n)
{
    const uint8_t  *b = (const uint8_t *) (const void *) v;
    const size_t    bytes = n * sizeof(T);
    uint64_t        head[4] = { std::is_same<T, float>::value ? 'f' : 'i', sizeof(T), n,
                                0xcbf29ce484222325u };

    if (record_file == NULL) {
        return;
    }
    for (size_t i = 0; i < bytes; i++) {       /* FNV-1a */
        head[3] = (head[3] ^ b[i]) * 0x100000001b3u;
    }
    fwrite(head, sizeof(head), 1, record_file);
    fwrite(v, 1, bytes < RECORD_BYTES ? bytes / sizeof(T) * sizeof(T)
                                      : RECORD_BYTES / sizeof(T) * sizeof(T), record_file);
}

#endif
