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


def run(runs, rules=None):
    """-> exit status, last line, all lines"""
    with tempfile.TemporaryDirectory() as d:
        for i, counts in enumerate(runs):
            with open(os.path.join(d, "%d.cover" % i), "w") as f:
                for line, count in enumerate(counts, 1):
                    f.write(LINE % (line, 10 + line, count, "op%d %%r1, 2;"
                                    % line))
        args = []
        if rules is not None:
            path = os.path.join(d, "explained")
            with open(path, "w") as f:
                f.write(rules)
            args = ["--explained", path]
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
rc, last, _ = run([[1, 0]], "# why\nk k.cu:12 op2* only on a device fault\n")
ok(rc == 0 and "1 explained" in last, "an explanation covers it")
rc, last, lines = run([[1, 1]], "k k.cu:12 op2* only on a device fault\n")
ok(rc == 1 and "explains nothing" in lines[0],
   "an explanation of nothing fails")
rc, last, _ = run([[1, 0]], "other k.cu:12 op2* another kernel\n")
ok(rc == 1 and "1 unexplained" in last, "one of another kernel does not")
print("1..%d" % n)
