#!/bin/sh
# check_gpu.sh [STAGE...]: everything about the CUDA backend that needs a
# real GPU; `make check-gpu` calls it. Stages, each under ten minutes:
#   1  device facts, ceilings, build for this device, every kernel test on
#      SEEDS seeds, and their results beside the emulator's; a failure ends
#      the run
#   2  the kernel tests under compute-sanitizer's four tools
#   3  every kernel against its floor, whole-model decode and prefill
#   4  ncu on the kernels' benches: sectors a request, bank conflicts
#   5  nginx with the plugin: the t/ files of `make test-cuda`, a load
# Results also go to OUT (build/gpu/out). Exit 77 without a device.

BUILD=${BUILD:-build}
OUT=${OUT:-$BUILD/gpu/out}
NVCC=${NVCC:-nvcc}
SEEDS=${SEEDS:-5}
LIMIT=${LIMIT:-540}
failed=0

if ! nvidia-smi -L > /dev/null 2>&1; then
    echo "check-gpu: there is no NVIDIA GPU (nvidia-smi finds none)"
    exit 77
fi
if ! command -v "$NVCC" > /dev/null 2>&1; then
    echo "check-gpu: no nvcc (NVCC=)"
    exit 77
fi

cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 |
      tr -d '. ')
case $cap in 90) arch=90a ;; *) arch=$cap ;; esac
mkdir -p "$OUT"
make="make --no-print-directory BUILD=$BUILD NVCC=$NVCC GPU_ARCH=$arch"
dir=$BUILD/gpu

# What runs is printed when it fails, and kept.
run() {
    name=$1; shift
    if timeout "$LIMIT" "$@" > "$OUT/$name.txt" 2>&1; then
        echo "ok   $name"
    else
        echo "FAIL $name ($?): $*"
        grep -v '^ok ' "$OUT/$name.txt" | head -20
        failed=1
    fi
}

tests() {
    for t in "$dir"/test_cuda_*; do
        [ -x "$t" ] && echo "$t"
    done
}

stage1() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap \
        --format=csv,noheader
    $make -j"$(nproc)" -k gpu-tests gpu-benches > "$OUT/build.txt" 2>&1 || {
        grep -B2 -A8 -iE 'error|warning' "$OUT/build.txt" | head -60
        failed=1
    }
    find "$dir" -name '*.cu.o.log' -exec cat {} + > "$OUT/ptxas.txt"
    python3 kernels/cuda/ptxas_check.py "$OUT/ptxas.txt" || failed=1
    "$dir/ceilings" | tee "$OUT/ceilings.txt"
    for t in $(tests); do
        seed=1
        while [ $seed -le "$SEEDS" ]; do
            run "$(basename "$t")-$seed" "$t" $seed
            seed=$((seed + 1))
        done
    done
    fidelity
}

# The same seed on the GPU and in emulation: how far apart are the results?
fidelity() {
    sms=$(sed -n 's/^device .*, \([0-9]*\) SMs.*/\1/p' "$OUT/ceilings.txt")
    mkdir -p "$OUT/gpu" "$OUT/emu"
    $make -j"$(nproc)" emu-tests > "$OUT/emu.txt" 2>&1 || {
        echo "check-gpu: the emulated tests do not build, nothing to compare"
        return
    }
    for t in $(tests); do
        n=$(basename "$t")
        INFER_RECORD=$OUT/gpu/$n "$t" 1 > /dev/null 2>&1
        INFER_RECORD=$OUT/emu/$n SIMT_ORDER=0 SIMT_DEVICE=cc=$cap,sms=$sms \
            timeout "$LIMIT" "$BUILD/emu/$n" 1 > /dev/null 2>&1
    done
    python3 kernels/cuda/fidelity.py "$OUT/gpu" "$OUT/emu" |
        tee "$OUT/fidelity.txt"
}

stage2() {
    for tool in memcheck racecheck initcheck synccheck; do
        for t in $(tests); do
            INFER_QUICK=1 run "$(basename "$t")-$tool" compute-sanitizer \
                --tool $tool --error-exitcode 1 "$t" 1
        done
    done
}

stage3() {
    for b in "$dir"/bench_*; do
        [ -x "$b" ] || continue
        echo "== $(basename "$b")"
        timeout "$LIMIT" "$b" 2>&1 | tee "$OUT/$(basename "$b").txt"
    done
    if [ -x "$BUILD/infer_cli" ]; then
        sh kernels/cuda/bench/model.sh "$BUILD" 2>&1 | tee "$OUT/model.txt"
    fi
}

stage4() {
    metrics=l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld
    metrics=$metrics.ratio,l1tex__data_bank_conflicts_pipe_lsu.sum
    metrics=$metrics,dram__throughput.avg.pct_of_peak_sustained_elapsed
    for b in "$dir"/bench_*; do
        [ -x "$b" ] || continue
        run "ncu-$(basename "$b")" ncu --clock-control none --csv \
            --launch-count 40 --metrics $metrics "$b" quick
    done
}

stage5() {
    if command -v nginx > /dev/null 2>&1; then
        run test-cuda $make test-cuda INFER_DEVICE_REAL=1
    else
        echo "check-gpu: no nginx here, stage 5 is left out"
    fi
}

for s in ${*:-1 2 3 4 5}; do
    echo "==== stage $s"
    "stage$s"
    if [ "$s" = 1 ] && [ $failed != 0 ]; then
        break
    fi
done
exit $failed
