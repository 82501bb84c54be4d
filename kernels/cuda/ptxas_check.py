#!/usr/bin/env python3
"""Reads what `nvcc -Xptxas -v` printed and fails on spills, on stack frames
and on kernels that use more registers than recorded.

    ptxas_check.py [--strict] FILE...    check; --strict: a kernel without a
                                         recorded bound fails, too
    ptxas_check.py --record FILE...      record what the files say

Bounds are in registers.txt beside this script, one a line: architecture,
registers, kernel (mangled). --record keeps bounds of kernels that the files
do not mention and never makes one of a kernel that spills.
"""

import os
import re
import sys

BOUNDS = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                      "registers.txt")
COMPILING = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
PROPERTIES = re.compile(r"Function properties for (\S+)")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, "
                    r"(\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def read_report(lines):
    """-> {(arch, kernel): registers}, [(arch, function, what)]"""
    registers, faults = {}, []
    kernel = arch = function = None
    for line in lines:
        m = COMPILING.search(line)
        if m:
            kernel, arch = m.groups()
            function = kernel
            continue
        m = PROPERTIES.search(line)
        if m:
            function = m.group(1)
            continue
        m = MEMORY.search(line)
        if m and function:
            stack, stores, loads = map(int, m.groups())
            if stores or loads:
                faults.append((arch, function, "spills %d bytes to memory, "
                               "%d back" % (stores, loads)))
            if stack:
                faults.append((arch, function,
                               "has a stack frame of %d bytes" % stack))
            continue
        m = USED.search(line)
        if m and kernel:
            registers[(arch, kernel)] = int(m.group(1))
            kernel = function = None
    return registers, faults


def read_bounds(path):
    bounds = {}
    if not os.path.exists(path):
        return bounds
    with open(path) as f:
        for n, line in enumerate(f, 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            if len(words) != 3 or not words[1].isdigit():
                sys.exit("%s:%d: not \"arch registers kernel\"" % (path, n))
            bounds[(words[0], words[2])] = int(words[1])
    return bounds


def check(registers, faults, bounds, strict):
    """-> sentences, the unrecorded kernels"""
    out = ["%s: %s %s" % f for f in faults]
    unrecorded = []
    for (arch, kernel), n in sorted(registers.items()):
        bound = bounds.get((arch, kernel))
        if bound is None:
            unrecorded.append((arch, kernel))
            if strict:
                out.append("%s: %s has no recorded bound (%d registers)"
                           % (arch, kernel, n))
        elif n > bound:
            out.append("%s: %s uses %d registers, %d are recorded"
                       % (arch, kernel, n, bound))
    return out, unrecorded


def record(path, registers, faults, bounds):
    bad = {(arch, function) for arch, function, _ in faults}
    bounds.update({k: n for k, n in registers.items() if k not in bad})
    with open(path, "w") as f:
        f.write("# registers of each kernel: arch, bound, mangled name; "
                "ptxas_check.py --record\n")
        for (arch, kernel), n in sorted(bounds.items()):
            f.write("%-7s %3d %s\n" % (arch, n, kernel))


def main(argv):
    options = [a for a in argv if a.startswith("--")]
    files = [a for a in argv if not a.startswith("--")]
    if not files or set(options) - {"--strict", "--record"}:
        sys.exit(__doc__)
    registers, faults = {}, []
    for name in files:
        with open(name, errors="replace") as f:
            r, bad = read_report(f)
        registers.update(r)
        faults += bad
    if not registers:
        sys.exit("ptxas_check: no kernel in %s" % " ".join(files))
    bounds = read_bounds(BOUNDS)
    if "--record" in options:
        record(BOUNDS, registers, faults, bounds)
        bounds = read_bounds(BOUNDS)
    out, unrecorded = check(registers, faults, bounds, "--strict" in options)
    for line in out:
        print("ptxas_check: " + line)
    print("ptxas_check: %d kernels, %d without a recorded bound, %d faults"
          % (len(registers), len(unrecorded), len(out)))
    return 1 if out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
