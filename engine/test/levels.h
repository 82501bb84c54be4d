/*
 * levels.h: every kernel level, for tests that hold each to a promise; those
 * that this machine cannot run are skipped with kern_init()'s sentence.
 */

#ifndef INFER_TEST_LEVELS_H
#define INFER_TEST_LEVELS_H

static const char *const  test_levels[] = {
    "ref", "ref-q8", "avx2", "avxvnni", "vnni256", "avx512", "neon"
};

#define TEST_N_LEVELS  (sizeof(test_levels) / sizeof(test_levels[0]))

#endif
