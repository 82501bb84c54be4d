#!/usr/bin/env python3
"""How far a GPU's results are from the emulator's.

    fidelity.py GPU EMULATOR

Both are folders of the files that the kernel tests write with INFER_RECORD=
(test/record.h) for one seed. A line for each file that both have: buffers
read back, how many are equal bit for bit, and of the f32 buffers that are not
the largest difference, as a part of the buffer's largest value. Exit code 1
where the files do not tell of the same buffers.
"""

import math
import os
import struct
import sys
from array import array

HEAD = struct.Struct("=QQQQ")
BYTES = 65536


def read(path):
    """-> [(kind, size, n, hash, data)]"""
    out = []
    with open(path, "rb") as f:
        while head := f.read(HEAD.size):
            kind, size, n, digest = HEAD.unpack(head)
            kept = min(n * size, BYTES // size * size)
            out.append((chr(kind), size, n, digest, f.read(kept)))
    return out


def distance(a, b):
    """The largest difference of two f32 buffers over the largest value; a NaN
    is like a NaN alone."""
    x, y = array("f", a), array("f", b)
    top = max((abs(v) for v in y if math.isfinite(v)), default=0.0)
    worst = 0.0
    for u, v in zip(x, y):
        if u == v or (math.isnan(u) and math.isnan(v)):
            continue
        d = abs(u - v)
        if not math.isfinite(d):
            return math.inf
        worst = max(worst, d / top if top else math.inf)
    return worst


def compare(gpu, emu):
    """-> buffers, equal ones, f32 ones that differ, worst; None: not alike"""
    if [r[:3] for r in gpu] != [r[:3] for r in emu]:
        return None
    equal = floats = 0
    worst = 0.0
    for g, e in zip(gpu, emu):
        if g[3] == e[3]:
            equal += 1
        elif g[0] == "f":
            floats += 1
            worst = max(worst, distance(g[4], e[4]))
    return len(gpu), equal, floats, worst


def main(gpu, emu):
    failed = 0
    print("%-20s %8s %8s %10s %12s %s" % ("test", "buffers", "equal",
                                          "f32 differ", "at most", "others"))
    for name in sorted(set(os.listdir(gpu)) & set(os.listdir(emu))):
        r = compare(read(os.path.join(gpu, name)),
                    read(os.path.join(emu, name)))
        if r is None:
            print("%-20s other buffers" % name)
            failed = 1
            continue
        n, equal, floats, worst = r
        print("%-20s %8d %8d %10d %12.2e %d"
              % (name, n, equal, floats, worst, n - equal - floats))
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
