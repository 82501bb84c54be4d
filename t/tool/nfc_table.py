#!/usr/bin/env python3
"""nfc_table.py: writes engine/text/nfc_table.h from Python's unicodedata.

    python3 t/tool/nfc_table.py > engine/text/nfc_table.h

With --sums it prints what engine/test/test_nfc.c expects: CRC-32 of the normal
forms of all code points in some surroundings. A newer Unicode needs a newer
Python; both change together.
"""

import sys
import unicodedata as u
import zlib

HANGUL = range(0xac00, 0xac00 + 11172)


def canonical():
    """(composite, first, second or 0, composes again), without Hangul."""
    for cp in range(0x110000):
        d = u.decomposition(chr(cp)).split()
        if cp in HANGUL or not d or d[0].startswith('<'):
            continue
        ab = [int(x, 16) for x in d] + [0]
        again = u.normalize('NFC', chr(cp)) == chr(cp)
        yield cp, ab[0], ab[1], again


def ranges(value):
    """(first, last, value(cp)) of runs of code points, where not zero."""
    run = None
    for cp in range(0x110001):
        v = value(cp) if cp < 0x110000 else 0
        if run and (v != run[2]):
            yield tuple(run)
            run = None
        if v and not run:
            run = [cp, cp, v]
        if run:
            run[1] = cp


def rows(items, width=75):
    line = ''
    for s in items:
        if len(line) + 1 + len(s) > width:
            yield '    ' + line.strip()
            line = ''
        line += ' ' + s
    yield '    ' + line.strip().rstrip(',')


def table():
    pairs = list(canonical())
    order = sorted((p[1], p[2], i) for i, p in enumerate(pairs)
                   if p[2] and p[3])
    second = {p[1] for p in order}
    again = {p[0] for p in pairs if not p[3]}

    def unsure(cp):
        return 1 if (u.combining(chr(cp)) or cp in second or cp in again
                     or 0x1161 <= cp <= 0x1175 or 0x11a8 <= cp <= 0x11c2) \
            else 0

    out = ['/*',
           ' * nfc_table.h: for nfc.c alone, written by t/tool/nfc_table.py.'
           ' Unicode ' + u.unidata_version,
           ' */', '',
           '/* Canonical decompositions, one step; second is 0 where there is'
           ' one. */',
           'static const nfc_pair_t nfc_pairs[] = {']
    out += rows('{0x%x,0x%x,0x%x},' % p[:3] for p in pairs)
    out += ['};', '',
            '/* Those of nfc_pairs that compose, by first and second. */',
            'static const uint16_t nfc_order[] = {']
    out += rows('%d,' % i for _, _, i in order)
    out += ['};', '', '/* Combining classes that are not 0. */',
            'static const nfc_range_t nfc_classes[] = {']
    out += rows('{0x%x,0x%x,%d},' % r
                for r in ranges(lambda cp: u.combining(chr(cp))))
    out += ['};', '',
            '/* What may change or compose with what stands before it. */',
            'static const nfc_range_t nfc_unsure[] = {']
    out += rows('{0x%x,0x%x,%d},' % r for r in ranges(unsure))
    out += ['};', '']
    return '\n'.join(l if len(l) < 80 else sys.exit(l) for l in out)


AROUND = ('', ''), ('a', ''), ('', '\u0301'), ('e\u0323', '\u0301'), \
    ('q\u0315', '\u0323'), ('\u1100', '\u11a8'), ('\uac00', '\u1161')


def sums():
    for before, after in AROUND:
        crc = 0
        for cp in range(0x110000):
            if not 0xd800 <= cp < 0xe000:
                s = u.normalize('NFC', before + chr(cp) + after) + '\n'
                crc = zlib.crc32(s.encode(), crc)
        print(ascii((before, after)), '0x%08x' % crc)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--sums']:
        sums()
    else:
        sys.stdout.write(table())
