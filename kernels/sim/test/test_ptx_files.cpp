/*
 * test_ptx_files.cpp: every kernel of the PTX files that SIMT_PTX names is
 * understood, whether a test launches it or not. TAP; without files it
 * skips.
 */

#include <cstdio>

#include "../ptx_int.h"

int main()
{
    int n = 0;

    if (simt::ptx::modules().empty()) {
        printf("1..0 # SKIP no files in SIMT_PTX\n");
        return 0;
    }
    for (auto &m : simt::ptx::modules()) {
        for (auto &f : m.funcs) {
            if (!f.second.entry)
                continue;
            const simt::ptx::Kernel *k = simt::ptx::find_kernel(f.first);
            printf("ok %d - %s: %s, %zu instructions, %u bytes a warp\n",
                ++n, m.path.c_str(), f.first.c_str(), k->code.size(),
                k->units * 128);
        }
    }
    printf("1..%d\n", n);
    return 0;
}
