#!/usr/bin/env python3
"""TAP tests of kernels/cuda/ptxas_check.py on reports as ptxas prints them."""

import os
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../../cuda"))
sys.dont_write_bytecode = True
import ptxas_check as p

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3a_kPf' for 'sm_90a'
ptxas info    : Function properties for _Z3a_kPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 400 bytes smem
ptxas info    : Compile time = 3.1 ms
ptxas info    : Compiling entry function '_Z3a_kPf' for 'sm_80'
ptxas info    : Function properties for _Z3a_kPf
    %d bytes stack frame, %d bytes spill stores, %d bytes spill loads
ptxas info    : Function properties for helper
    %d bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers
"""
CLEAN = REPORT % (0, 0, 0, 0)
BOTH = {("sm_90a", "_Z3a_kPf"): 40, ("sm_80", "_Z3a_kPf"): 64}
n = 0


def ok(good, what):
    global n
    n += 1
    print("%sok %d - %s" % ("" if good else "not ", n, what))


def verdict(text, bounds):
    return p.check(*p.read_report(text.splitlines()), bounds)


ok(p.read_report(CLEAN.splitlines()) == (BOTH, []), "registers by arch")
ok(verdict(CLEAN, BOTH) == ([], []), "at the bound is fine")
ok(verdict(CLEAN, {**BOTH, ("sm_80", "_Z3a_kPf"): 63})[0]
   == ["sm_80: _Z3a_kPf uses 64 registers, 63 are recorded"],
   "a rise of one register fails")
ok(verdict(CLEAN, {}) == ([], ["sm_80", "sm_90a"]),
   "architectures without a record are told, no more")
ok(verdict(CLEAN, {("sm_80", "other"): 9})
   == (["sm_80: _Z3a_kPf has no recorded bound (64 registers)"], ["sm_90a"]),
   "a kernel without a bound in a recorded one fails")
ok("spills 8 bytes" in verdict(REPORT % (0, 8, 12, 0), {})[0][0],
   "spill stores fail, recorded or not")
ok("12 back" in verdict(REPORT % (0, 0, 12, 0), BOTH)[0][0],
   "spill loads fail")
ok("stack frame of 16" in verdict(REPORT % (16, 0, 0, 0), BOTH)[0][0],
   "a stack frame fails")
ok("helper has a stack frame" in verdict(REPORT % (0, 0, 0, 32), BOTH)[0][0],
   "so does one of a device function")
ok(verdict("ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async "
           "instructions are serialized due to insufficient register "
           "resources for the function '_Z3a_kPf'\n" + CLEAN, BOTH)[0]
   == ["wgmma: _Z3a_kPf waits for each: insufficient register resources"],
   "wgmma made to wait fail")
with tempfile.TemporaryDirectory() as d:
    path = os.path.join(d, "registers.txt")
    r, faults = p.read_report((REPORT % (0, 4, 4, 0)).splitlines())
    p.record(path, r, faults, {("sm_75", "old"): 7, ("sm_80", "gone"): 8},
             "V1.2")
    ok(p.read_bounds(path) == ({("sm_75", "old"): 7,
                                ("sm_90a", "_Z3a_kPf"): 40}, "V1.2"),
       "record keeps other architectures and leaves out what spills")
    log = os.path.join(d, "log")
    with open(log, "w") as f:
        f.write(CLEAN.replace("Used 40", "Used 41"))
    p.BOUNDS = path
    sys.stdout.flush()
    out, sys.stdout = sys.stdout, open(os.devnull, "w")
    same, other = (p.main(["--compiler=V1.2", log]),
                   p.main(["--compiler=V1.3", log]))
    sys.stdout = out
    ok(same == 1 and other == 0, "another compiler's bounds do not count")
print("1..%d" % n)
