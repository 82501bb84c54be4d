#!/bin/sh
# model.sh BUILD: whole models on a GPU: decode of 1, 16 and 64 sequences at
# positions from 512 on and a prompt of 512 and 2,048, random weights of real
# shapes (make_tiny). One line each; then the CPU's greedy tokens beside the
# GPU's.

BUILD=${1:-build}
DEVICE=${DEVICE:-cuda}
WORK=${WORK:-/tmp}

for row in smollm2-135m:q4_1 smollm2-135m:q8_0 llama-1b:q4_0 llama-1b:q8_0 \
           llama-1b:bf16
do
    preset=${row%:*} type=${row#*:}
    f=$WORK/$preset-$type.gguf
    [ -s "$f" ] || "$BUILD/make_tiny" --preset "$preset" --type "$type" \
        -o "$f" > /dev/null || continue
    for batch in 16 64; do
        printf '%-12s %-5s ' "$preset" "$type"
        "$BUILD/infer_cli" --device "$DEVICE" -m "$f" -b 2048 --kv bf16 \
            --bench "prefill=2048,decode=64,batch=$batch,context=512,rounds=3"
    done
done

f=$WORK/smollm2-135m-q4_1.gguf
for d in cpu "$DEVICE"; do
    printf '%-5s ' "$d"
    "$BUILD/infer_cli" --device "$d" -m "$f" --ids 1,2,3,4,5,6,7,8 -n 24 \
        2> /dev/null | tail -1
done
