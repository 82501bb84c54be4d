#!/bin/sh
# model.sh BUILD: whole models on a GPU: decode of 1, 16 and 64 sequences at
# positions from 512 on and a prompt of 2,048, random weights of real shapes
# (make_tiny), linears in the precision after the type; the project's targets
# for an H100 beside those that have one. Then the CPU's greedy tokens beside
# the GPU's. ROWS= picks lines, by their first three words with colons.
# WORK= wants 30 GB for all of them.

BUILD=${1:-build}
DEVICE=${DEVICE:-cuda}
WORK=${WORK:-/tmp}

target() {
    case $1 in
    llama-8b:q4_0:q8|llama-8b:q4_0:w4a16) echo 'B=1 588 tok/s' ;;
    llama-8b:bf16:w8a8) echo 'B=1 345 tok/s, B=64 13,061 tok/s' ;;
    llama-8b:bf16:fp8) echo 'prefill 85,300 tok/s' ;;
    llama-1b:bf16:bf16) echo 'B=1 1,053 tok/s' ;;
    *) echo none ;;
    esac
}

for row in smollm2-135m:q4_1:q8 smollm2-135m:q8_0:q8 llama-1b:q4_0:q8 \
           llama-1b:q8_0:q8 llama-1b:bf16:bf16 llama-8b:q4_0:q8 \
           llama-8b:q4_0:w4a16 llama-8b:q8_0:q8 llama-8b:bf16:w8a8 \
           llama-8b:bf16:fp8
do
    case " ${ROWS:-$row} " in *" $row "*) ;; *) continue ;; esac
    preset=${row%%:*} rest=${row#*:}
    type=${rest%:*} prec=${rest#*:}
    f=$WORK/$preset-$type.gguf
    [ -s "$f" ] || "$BUILD/make_tiny" --preset "$preset" --type "$type" \
        --repeat 64 -o "$f" > /dev/null || continue
    for batch in 16 64; do
        printf '%-12s %-5s %-5s ' "$preset" "$type" "$prec"
        "$BUILD/infer_cli" --device "$DEVICE" --precision "$prec" -m "$f" \
            -b 2048 --kv bf16 --bench \
            "prefill=2048,decode=64,batch=$batch,context=512,rounds=3"
    done
    echo "    target: $(target "$row")"
done

f=$WORK/smollm2-135m-q4_1.gguf
[ -s "$f" ] || exit 0
for d in cpu "$DEVICE"; do
    printf '%-5s ' "$d"
    "$BUILD/infer_cli" --device "$d" -m "$f" --ids 1,2,3,4,5,6,7,8 -n 24 \
        2> /dev/null | tail -1
done
