#!/usr/bin/env python3
"""Merges the coverage files of the PTX interpreter (SIMT_PTX_COVER=DIR) and
lists the instructions that no test executed.

    ptx_cover.py [--explained FILE] [--verbose] DIR

Explained are those that a line of FILE covers: kernel pattern, source
pattern, text pattern (shell wildcards, no blanks: the instruction's blanks
are left out for the comparison), then the reason. A line that explains
nothing is an error, too, so that the list stays true. Exit status 1 when an
instruction is unexplained.

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
    """-> {Ins: times executed}"""
    runs = {}
    for path in paths:
        with open(path) as f:
            for line in f:
                file, at, kernel, source, n, text = \
                    line.rstrip("\n").split("\t", 5)
                i = Ins(file, int(at), kernel, source, text)
                runs[i] = runs.get(i, 0) + int(n)
    return runs


def read_explained(path):
    rules = []
    with open(path) as f:
        for n, line in enumerate(f, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            words = line.split(None, 3)
            if len(words) < 4:
                sys.exit("%s:%d: not \"kernel source text reason\""
                         % (path, n))
            rules.append([n] + words + [0])
    return rules


def explains(rule, i):
    text = "".join(i.text.split())
    return (fnmatch.fnmatchcase(i.kernel, rule[1])
            and fnmatch.fnmatchcase(i.source, rule[2])
            and fnmatch.fnmatchcase(text, rule[3]))


def main(argv):
    rules, verbose, dirs, path = [], False, [], None
    args = iter(argv)
    for a in args:
        if a == "--explained":
            path = next(args)
            rules = read_explained(path)
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
    never = [i for i, n in runs.items() if n == 0]
    unexplained = []
    for i in never:
        hits = [r for r in rules if explains(r, i)]
        for r in hits:
            r[5] += 1
        if not hits:
            unexplained.append(i)
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
    idle = [r for r in rules if not r[5]]
    for r in idle:
        print("%s:%d: explains nothing" % (path, r[0]))
    print("ptx_cover: %d instructions, %d executed, %d explained, "
          "%d unexplained" % (len(runs), len(runs) - len(never),
                              len(never) - len(unexplained),
                              len(unexplained)))
    return 1 if unexplained or idle else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
