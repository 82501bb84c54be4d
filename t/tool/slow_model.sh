#!/bin/sh
# slow_model.sh OUT MAKE_TINY CLI SHAPE: the model of tests that act in the
# middle of a stream. On a machine that does more than 500 tokens a second of
# it, its feed-forward part is widened until there are about 500 on that one
# too; nothing else of it changes. CLI -: as it is.
set -e
out=$1 make_tiny=$2 cli=$3 shape=$4

"$make_tiny" -s 7 --type q4_0 --shape "$shape" -o "$out"
[ "$cli" != - ] || exit 0

rate=$("$cli" -m "$out" --bench prefill=32,decode=300,batch=0,rounds=3 2>&1 |
       sed -n 's/.* decode 300: \([0-9]*\).*/\1/p')
# its attention costs what 512 more of that width would
width=$(awk -v r="${rate:-0}" -v f="${shape##*,}" 'BEGIN {
    w = (f + 512) * r / 500 - 512; w = int(w / 256) * 256
    print (w < f * 1.2 ? f : (w > 16384 ? 16384 : w)) }')
[ "$width" = "${shape##*,}" ] ||
    "$make_tiny" -s 7 --type q4_0 --shape "${shape%,*},$width" -o "$out"
echo "  slow.gguf: width $width, $rate tokens/s at ${shape##*,}"
