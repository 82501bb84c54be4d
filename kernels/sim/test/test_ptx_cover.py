#!/usr/bin/env python3
"""TAP tests of kernels/sim/ptx_cover.py: merging runs, and explanations."""

import os
import subprocess
import sys
import tempfile

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "../ptx_cover.py")
LINE = "a.ptx\t%d\tk\tk.cu:%d\t%d\t%s\n"
n = 0


def ok(good, what):
    global n
    n += 1
    print("%sok %d - %s" % ("" if good else "not ", n, what))


def run(runs, rules=None, text=None, more=()):
    """-> exit status, last line, all lines"""
    with tempfile.TemporaryDirectory() as d:
        for i, counts in enumerate(runs):
            with open(os.path.join(d, "%d.cover" % i), "w") as f:
                for line, count in enumerate(counts, 1):
                    f.write(LINE % (line, 10 + line, count, text[line - 1]
                                    if text else "op%d %%r1, 2;" % line))
        args = list(more)
        if rules is not None:
            path = os.path.join(d, "explained")
            with open(path, "w") as f:
                f.write(rules)
            args += ["--explained", path]
        p = subprocess.run([sys.executable, TOOL] + args + [d],
                           stdout=subprocess.PIPE, universal_newlines=True)
        lines = p.stdout.splitlines()
        return p.returncode, lines[-1], lines


rc, last, _ = run([[1, 0], [0, 5]])
ok(rc == 0 and "2 executed" in last and "0 unexplained" in last,
   "runs are merged")
rc, last, lines = run([[1, 0], [2, 0]])
ok(rc == 1 and "1 unexplained" in last and "k.cu:12" in lines[1],
   "what never ran is listed and fails")
rc, last, _ = run([[1, 0]], "# why\nk k.cu:12 op2* 1 only on a device fault\n")
ok(rc == 0 and "1 explained" in last, "an explanation covers it")
rc, last, lines = run([[1, 1]], "k k.cu:12 op2* 1 only on a device fault\n")
ok(rc == 1 and "explains 0 of" in lines[0],
   "an explanation of nothing fails")
rc, last, lines = run([[1, 0, 0]], "k k.cu:* op* 1 only on a device fault\n")
ok(rc == 1 and "explains 2 of at most 1" in lines[0],
   "so does one that explains more than it says")
rc, last, _ = run([[1, 0]], "other k.cu:12 op2* 1 another kernel\n")
ok(rc == 1 and "1 unexplained" in last, "one of another kernel does not")
TEXT = ["setp.eq.s32 %p1, 1, 2", "@%p1 bra $L1", "@%p2 bra $L2", "ret",
        "@%p1 bra $L1", "add.s32 %r1, 1, 2"]
rc, last, _ = run([[1, 0, 0, 1, 0, 1]], text=TEXT)
ok(rc == 1 and "2 of them branches never taken" in last
   and "1 unexplained" in last,
   "a branch that is come to is executed, one behind a return is not")
rc, last, _ = run([[1, 0]], "compiler V1\nk k.cu:12 op2* 2 why\n",
                  more=["--compiler", "V2"])
ok(rc == 0 and "not judged" in last, "another compiler's work is not judged")
rc, last, _ = run([[1, 0, 0]], "compiler V1\nk k.cu:12 op2* 2 why\n",
                  more=["--compiler", "V1"])
ok(rc == 1 and "1 unexplained" in last, "the same compiler's is")
print("1..%d" % n)
