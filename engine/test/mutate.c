/*
 * mutate.c: drives a fuzz target (LLVMFuzzerTestOneInput) without libFuzzer:
 * seeds from files, mutated for a fixed time, so that CI needs no clang.
 *
 *   fuzz_x [-t SECONDS] [-s SEED] [FILE...]    run; files are starting points
 *   fuzz_x -r FILE                             one input, to reproduce
 *
 * The current input is kept in ./fuzz_x.input while it runs, so that a
 * crash leaves it behind. A target may offer fuzz_seed() for good starting
 * points.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

#define MUTATE_MAX  (1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Writes seed input i into buf; returns its length, 0 when there is none. */
__attribute__((weak)) size_t fuzz_seed(uint32_t i, uint8_t *buf, size_t cap);

static uint64_t
mutate_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;

    return *s;
}

static size_t
mutate_one(uint8_t *b, size_t len, uint64_t *s)
{
    static const uint64_t  edge[] = { 0, 1, 0x7f, 0xff, 0x7fffffff,
                                      0xffffffff, UINT64_MAX, 1ull << 63 };
    size_t                 at, n, from;
    uint64_t               v;

    at = len ? mutate_random(s) % len : 0;

    switch (mutate_random(s) % 7) {
    case 0:
        if (len) {
            b[at] ^= (uint8_t) (1u << (mutate_random(s) % 8));
        }
        return len;
    case 1:
        if (len) {
            b[at] = (uint8_t) mutate_random(s);
        }
        return len;
    case 2:
        return at;
    case 3:
        n = 1 + mutate_random(s) % 8;
        if (len + n > MUTATE_MAX) {
            return len;
        }
        memmove(b + at + n, b + at, len - at);
        for (size_t i = 0; i < n; i++) {
            b[at + i] = (uint8_t) mutate_random(s);
        }
        return len + n;
    case 4:
        n = len ? mutate_random(s) % (len - at) : 0;
        memmove(b + at, b + at + n, len - at - n);
        return len - n;
    case 5:
        v = edge[mutate_random(s) % (sizeof(edge) / sizeof(edge[0]))];
        n = 1u << (mutate_random(s) % 4);
        if (at + n <= len) {
            memcpy(b + at, &v, n);
        }
        return len;
    default:
        from = len ? mutate_random(s) % len : 0;
        n = len ? mutate_random(s) % (len - (at > from ? at : from)) : 0;
        memmove(b + at, b + from, n);
        return len;
    }
}

static size_t
mutate_load(const char *name, uint8_t *buf)
{
    size_t  n = 0;
    FILE   *f = fopen(name, "rb");

    if (f != NULL) {
        n = fread(buf, 1, MUTATE_MAX, f);
        fclose(f);
    }

    return n;
}

static size_t
mutate_start(uint8_t *buf, uint64_t *s, char **files, int n_files)
{
    size_t    n;
    uint32_t  i = (uint32_t) (mutate_random(s) % 64);

    if (n_files > 0) {
        return mutate_load(files[i % (uint32_t) n_files], buf);
    }

    if (fuzz_seed == NULL) {
        return 0;
    }

    n = fuzz_seed(i, buf, MUTATE_MAX);

    return n != 0 ? n : fuzz_seed(0, buf, MUTATE_MAX);
}

int
main(int argc, char **argv)
{
    int       opt, fd;
    char      name[256];
    long      seconds = 5, runs = 0;
    size_t    len;
    time_t    end;
    uint8_t  *buf = malloc(MUTATE_MAX), *copy;
    uint64_t  s = 0x9e3779b97f4a7c15ull;

    if (buf == NULL) {
        return 1;
    }

    while ((opt = getopt(argc, argv, "t:s:r:")) != -1) {
        if (opt == 't') {
            seconds = atol(optarg);
        } else if (opt == 's') {
            s = strtoull(optarg, NULL, 0) | 1;
        } else if (opt == 'r') {
            len = mutate_load(optarg, buf);
            LLVMFuzzerTestOneInput(buf, len);
            free(buf);
            return 0;
        }
    }

    snprintf(name, sizeof(name), "%.200s.input", argv[0]);
    fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    end = time(NULL) + seconds;

    while (time(NULL) < end) {
        len = mutate_start(buf, &s, argv + optind, argc - optind);
        for (uint64_t n = mutate_random(&s) % 6; n > 0; n--) {
            len = mutate_one(buf, len, &s);
        }
        if (fd >= 0 && (ftruncate(fd, 0) != 0
            || pwrite(fd, buf, len, 0) != (ssize_t) len))
        {
            break;
        }
        /* an exact copy, so that a sanitizer sees the end of the input */
        copy = malloc(len ? len : 1);
        if (copy == NULL) {
            break;
        }
        memcpy(copy, buf, len);
        LLVMFuzzerTestOneInput(copy, len);
        free(copy);
        runs++;
    }

    printf("# %s: %ld inputs\n", argv[0], runs);
    if (fd >= 0) {
        close(fd);
        unlink(name);
    }
    free(buf);

    return runs == 0;
}
