/*
 * ptx_rows.cpp: where registers lie in a warp's file.
 */

#include "ptx_int.h"

namespace simt {
namespace ptx {

void assign_rows(Kernel &k)
{
    std::vector<u16> unit(k.sizes.size());
    u32 n = 0;

    for (size_t r = 0; r < k.sizes.size(); r++) {
        unit[r] = (u16) n;
        n += k.sizes[r] / 4;
    }
    if (n >= NONE)
        unknown(k.name.c_str(), nullptr, "too many registers");
    auto move = [&](u16 &r) {
        if (r != NONE && !(r & PRED))
            r = unit[r];
    };
    for (auto &i : k.code) {
        for (u16 &r : i.d)
            move(r);
        for (u16 &r : i.s)
            move(r);
    }
    for (auto &f : k.fixed)
        move(f.row);
    for (auto &s : k.special)
        move(s.row);
    k.units = n;
}

}  // namespace ptx
}  // namespace simt
