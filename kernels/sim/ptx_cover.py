#!/usr/bin/env python3
"""Merges the coverage files of the PTX interpreter (SIMT_PTX_COVER=DIR) and
lists the instructions that no test executed.

    ptx_cover.py [--explained FILE] [--compiler VERSION] [--verbose] DIR

Explained are those that a line of FILE covers: kernel pattern, source
pattern, text pattern (shell wildcards, no blanks: the instruction's blanks
are left out for the comparison), how many at most, then the reason; the
first line that fits is taken. A line that explains nothing, or more than it
says, is an error, too, so that the list stays true. Exit status 1 when an
instruction is unexplained. The counts are those of the compiler that a line
"compiler VERSION" of FILE names: what another one made is only reported.

A conditional branch to which a warp came counts as executed though nobody
took it: what it leads to counts for itself. Such branches are counted apart.
Instructions behind a `trap` or of functions that no kernel calls count as
all others do.
"""

import collections
import fnmatch
import glob
import os
import sys

Ins = collections.namedtuple("Ins", "file line kernel source text")


def merge(paths):
    """-> {Ins: times executed}, in order of the files"""
    runs = {}
    for path in paths:
        with open(path) as f:
            for line in f:
                file, at, kernel, source, n, text = \
                    line.rstrip("\n").split("\t", 5)
                i = Ins(file, int(at), kernel, source, text)
                runs[i] = runs.get(i, 0) + int(n)
    return runs


def untaken(runs):
    """Conditional branches never taken that a warp came to: the instruction
    before them ran and goes on to them."""
    found, last, reached = set(), None, False
    for i, n in runs.items():
        words = i.text.split()
        branch = words[0][0] == "@" and words[1].startswith("bra")
        if (i.file, i.kernel) != last:
            last, reached = (i.file, i.kernel), n > 0
        if n == 0 and branch and reached:
            found.add(i)
            continue              # and so to the next
        reached = n > 0 and not branch \
            and not words[0].startswith(("bra", "ret", "exit"))
    return found


def read_explained(path):
    """-> [[line, kernel, source, text, most, reason, used]], compiler"""
    rules, compiler = [], None
    with open(path) as f:
        for n, line in enumerate(f, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            words = line.split(None, 4)
            if words[0] == "compiler" and len(words) == 2:
                compiler = words[1]
                continue
            if len(words) < 5 or not words[3].isdigit():
                sys.exit("%s:%d: not \"kernel source text count reason\""
                         % (path, n))
            rules.append([n] + words[:3] + [int(words[3]), words[4], 0])
    return rules, compiler


def explains(rule, i):
    text = "".join(i.text.split())
    return (fnmatch.fnmatchcase(i.kernel, rule[1])
            and fnmatch.fnmatchcase(i.source, rule[2])
            and fnmatch.fnmatchcase(text, rule[3]))


def main(argv):
    rules, verbose, dirs, path = [], False, [], None
    compiler = made_by = None
    args = iter(argv)
    for a in args:
        if a == "--explained":
            path = next(args)
            rules, made_by = read_explained(path)
        elif a == "--compiler":
            compiler = next(args)
        elif a == "--verbose":
            verbose = True
        else:
            dirs.append(a)
    if len(dirs) != 1:
        sys.exit(__doc__)
    files = sorted(glob.glob(os.path.join(dirs[0], "*.cover")))
    if not files:
        sys.exit("ptx_cover: no *.cover in %s" % dirs[0])
    runs = merge(files)
    one_way = untaken(runs)
    never = [i for i, n in runs.items() if n == 0 and i not in one_way]
    unexplained = []
    for i in never:
        hit = next((r for r in rules if explains(r, i)), None)
        if hit is None:
            unexplained.append(i)
        else:
            hit[6] += 1
    by_kernel = collections.defaultdict(list)
    for i in unexplained:
        by_kernel[(i.file, i.kernel)].append(i)
    for (file, kernel), what in sorted(by_kernel.items()):
        total = sum(1 for i in runs if i.kernel == kernel and i.file == file)
        print("%s: %s: %d of %d never executed"
              % (file, kernel, len(what), total))
        if len(what) == total:
            continue              # no test launches it
        if verbose:
            for i in sorted(what, key=lambda i: i.line):
                print("  %-24s %s" % (i.source, i.text))
        else:
            places = collections.Counter(i.source for i in what)
            for source, n in sorted(places.items()):
                print("  %-24s %d" % (source, n))
    wrong = [r for r in rules if r[6] == 0 or r[6] > r[4]]
    for r in wrong:
        print("%s:%d: explains %d of at most %d" % (path, r[0], r[6], r[4]))
    print("ptx_cover: %d instructions, %d executed (%d of them branches never "
          "taken), %d explained, %d unexplained"
          % (len(runs), len(runs) - len(never), len(one_way),
             len(never) - len(unexplained), len(unexplained)))
    if compiler is not None and compiler != made_by:
        print("ptx_cover: made by %s, explained for %s: not judged"
              % (compiler, made_by))
        return 0
    return 1 if unexplained or wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
