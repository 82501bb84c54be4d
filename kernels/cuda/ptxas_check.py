#!/usr/bin/env python3
"""Reads what `nvcc -Xptxas -v` printed and fails on spills, on stack frames,
on wgmma that ptxas makes wait for each other, and on kernels that use more
registers than recorded.

    ptxas_check.py [--compiler=VERSION] FILE...    check
    ptxas_check.py [--compiler=VERSION] --record FILE...
                                                   record what the files say

Bounds are in registers.txt beside this script, one a line: architecture,
registers, kernel (mangled); the line before them names the compiler whose
work they are. Another compiler's are not compared, nor are architectures
that nobody recorded; spills and stack frames fail everywhere. In a recorded
architecture a kernel without a bound fails: record it. --record replaces the
architectures that the files mention and never makes a bound of a kernel that
spills.
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
SERIAL = re.compile(r"wgmma.mma_async instructions are serialized due to (.*) "
                    r"(?:for|in) the function '([^']+)'")
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
        m = SERIAL.search(line)
        if m:
            faults.append(("wgmma", m.group(2), "waits for each: "
                           + m.group(1)))
            continue
        m = USED.search(line)
        if m and kernel:
            registers[(arch, kernel)] = int(m.group(1))
            kernel = function = None
    return registers, faults


def read_bounds(path):
    """-> {(arch, kernel): registers}, the compiler's version or None"""
    bounds, compiler = {}, None
    if not os.path.exists(path):
        return bounds, compiler
    with open(path) as f:
        for n, line in enumerate(f, 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            if words[0] == "compiler" and len(words) == 2:
                compiler = words[1]
                continue
            if len(words) != 3 or not words[1].isdigit():
                sys.exit("%s:%d: not \"arch registers kernel\"" % (path, n))
            bounds[(words[0], words[2])] = int(words[1])
    return bounds, compiler


def check(registers, faults, bounds):
    """-> sentences, architectures that nobody recorded"""
    out = ["%s: %s %s" % f for f in faults]
    recorded = {arch for arch, _ in bounds}
    for (arch, kernel), n in sorted(registers.items()):
        if arch not in recorded:
            continue
        bound = bounds.get((arch, kernel))
        if bound is None:
            out.append("%s: %s has no recorded bound (%d registers)"
                       % (arch, kernel, n))
        elif n > bound:
            out.append("%s: %s uses %d registers, %d are recorded"
                       % (arch, kernel, n, bound))
    return out, sorted({arch for arch, _ in registers} - recorded)


def record(path, registers, faults, bounds, compiler):
    bad = {(arch, function) for arch, function, _ in faults}
    new = {arch for arch, _ in registers}
    bounds = {k: n for k, n in bounds.items() if k[0] not in new}
    bounds.update({k: n for k, n in registers.items() if k not in bad})
    with open(path, "w") as f:
        f.write("# registers of each kernel: arch, bound, mangled name; "
                "ptxas_check.py --record\n")
        if compiler:
            f.write("compiler %s\n" % compiler)
        for (arch, kernel), n in sorted(bounds.items()):
            f.write("%-7s %3d %s\n" % (arch, n, kernel))


def main(argv):
    options = [a for a in argv if a.startswith("--")]
    files = [a for a in argv if not a.startswith("--")]
    compiler = None
    for a in list(options):
        if a.startswith("--compiler="):
            compiler = a.split("=", 1)[1]
            options.remove(a)
    if not files or set(options) - {"--record"}:
        sys.exit(__doc__)
    registers, faults = {}, []
    for name in files:
        with open(name, errors="replace") as f:
            r, bad = read_report(f)
        registers.update(r)
        faults += bad
    if not registers:
        sys.exit("ptxas_check: no kernel in %s" % " ".join(files))
    bounds, by = read_bounds(BOUNDS)
    if "--record" in options:
        record(BOUNDS, registers, faults, bounds if by == compiler else {},
               compiler)
        bounds, by = read_bounds(BOUNDS)
    if by != compiler:
        print("ptxas_check: bounds are of compiler %s, not of %s: registers "
              "are not compared" % (by, compiler))
        bounds = {}
    out, other = check(registers, faults, bounds)
    for line in out:
        print("ptxas_check: " + line)
    print("ptxas_check: %d kernels, no bounds for %s, %d faults"
          % (len(registers), " ".join(other) or "nothing", len(out)))
    return 1 if out else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
