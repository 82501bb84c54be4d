#!/usr/bin/env python3
"""TAP tests of kernels/cuda/fidelity.py on records as test/record.h writes
them."""

import math
import os
import sys
from array import array

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../cuda"))
sys.dont_write_bytecode = True
import fidelity as f

n = 0


def ok(good, name):
    global n
    n += 1
    print("%sok %d - %s" % ("" if good else "not ", n, name))


def floats(*v):
    b = array("f", v).tobytes()
    return ("f", 4, len(v), hash(b), b)


def ints(*v):
    return ("i", 1, len(v), hash(bytes(v)), bytes(v))


nan = math.nan
a = [floats(1, 2, nan), ints(1, 2), floats(4, 8)]
ok(f.compare(a, a) == (3, 3, 0, 0.0), "a record is like itself")
ok(f.compare(a, a[:2]) is None, "other buffers are told")
ok(f.compare(a, [floats(1, 2, nan), ints(1, 3), floats(4, 9)])
   == (3, 1, 1, 1 / 9), "the difference is a part of the largest value")
ok(f.compare([floats(1, 2)], [floats(1, nan)])[3] == math.inf,
   "a NaN on one side is infinitely far")
ok(f.compare([floats(nan, 2)], [floats(nan, 2.5)])[3] == 0.2,
   "on both sides it is not")
print("1..%d" % n)
