#!/usr/bin/env python3
"""bench.py: `make bench`. Our engine and server beside their peers, in turn.

What is not there is not measured and nothing is installed. Peers, by
environment: LLAMA=directory with llama-bench, llama-batched-bench and
llama-server; DASLLAMA=directory with dasllama-bench and dasllama-server (the
PyPI wheel dasllama has them). MODEL= takes another file than the demo model;
FILES=a,b several. ROUNDS= alternations (3). PARTS=kernels,raw,server,static; static
asks wrk how long nginx takes for a file while the engine is saturated.
SVG= writes a picture of the comparison.

Figures of one run compare; those of two machines or days do not.
"""
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

BUILD = os.environ.get("BUILD", "build")
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PARTS = os.environ.get("PARTS", "kernels,raw,server,static").split(",")
LLAMA = os.environ.get("LLAMA", "")
DAS = os.environ.get("DASLLAMA", "")
DEMO = os.environ.get("MODEL", "models/SmolLM2-135M-Instruct.Q4_1.gguf")
CONCURRENCY = [int(c) for c in
               os.environ.get("CONCURRENCY", "1,8,16,32").split(",")]
results = {}            # (kind, file, what) -> {who: [values]}


def note(kind, name, what, who, value):
    results.setdefault((kind, name, what), {}).setdefault(who, []).append(value)
    print(f"  {kind} {name} {what}: {who} {value:.2f}", flush=True)


def run(cmd, timeout=300):
    env = dict(os.environ)
    if LLAMA and cmd[0].startswith(LLAMA):
        env["LD_LIBRARY_PATH"] = LLAMA
    done = subprocess.run(cmd, stdout=subprocess.PIPE, timeout=timeout,
                          stderr=subprocess.DEVNULL, text=True, env=env,
                          check=False)
    return done.stdout


def tool(folder, name):
    path = os.path.join(folder, name) if folder else ""
    return path if path and os.access(path, os.X_OK) else None


# ---- the raw engines ----

def raw_ours(name, path):
    for batch in (16, 32):
        out = run([f"{BUILD}/infer_cli", "-m", path, "-t", "2", "--bench",
                   f"prefill=512,decode=64,batch={batch}"])
        m = re.search(r"prefill 512: ([\d.]+).*decode 64: ([\d.]+).*"
                      r"batch \d+: ([\d.]+)", out, re.S)
        if not m:
            return
        if batch == 16:
            note("raw", name, "prefill 512", "ngx_infer", float(m[1]))
            note("raw", name, "decode 1", "ngx_infer", float(m[2]))
        note("raw", name, f"decode {batch}", "ngx_infer", float(m[3]))


def raw_llama(name, path):
    bench, batched = (tool(LLAMA, "llama-bench"),
                      tool(LLAMA, "llama-batched-bench"))
    if bench:
        out = run([bench, "-m", path, "-t", "2", "-p", "512", "-n", "64",
                   "-r", "2", "-o", "json"])
        with contextlib.suppress(ValueError):
            for row in json.loads(out):
                what = "prefill 512" if row["n_prompt"] else "decode 1"
                note("raw", name, what, "llama.cpp", row["avg_ts"])
    if batched:
        out = run([batched, "-m", path, "-t", "2", "-c", "8192", "-b", "512",
                   "-npp", "128", "-ntg", "64", "-npl", "16,32",
                   "--output-format", "jsonl"])
        for line in out.splitlines():
            with contextlib.suppress(ValueError, KeyError):
                row = json.loads(line)
                note("raw", name, f"decode {row['pl']}", "llama.cpp",
                     row["speed_tg"])


def raw_das(name, path):
    bench = tool(DAS, "dasllama-bench")
    if not bench:
        return
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        for npl in (16, 32):
            run([bench, "-m", path, "-t", "2", "-p", "512", "-n", "64", "-r",
                 "2", "--npl", str(npl), "--npl-plen", "128", "-o", "json",
                 "--json-path", f.name])
            with contextlib.suppress(ValueError, OSError):
                for row in json.load(open(f.name)):
                    test = str(row.get("test", ""))
                    speed = float(row.get("tok_s") or row.get("avg_ts") or 0)
                    if test == "pp512" and npl == 16:
                        note("raw", name, "prefill 512", "dasLLAMA", speed)
                    elif test == "tg64" and npl == 16:
                        note("raw", name, "decode 1", "dasLLAMA", speed)
                    elif test == f"tg64@{npl}":
                        note("raw", name, f"decode {npl}", "dasLLAMA", speed)


# ---- servers ----

@contextlib.contextmanager
def server(cmd, ready, env=None):
    full = dict(os.environ, **(env or {}))
    with subprocess.Popen(cmd, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env=full) as p:
        try:
            end = time.monotonic() + 120
            while time.monotonic() < end and p.poll() is None:
                with contextlib.suppress(OSError):
                    with urllib.request.urlopen(ready, timeout=2) as r:
                        if r.status == 200:
                            break
                time.sleep(0.1)
            yield
        finally:
            p.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(10)
            p.kill()
            p.wait()


def load(name, who, port):
    base = [sys.executable, "kernels/bench/load.py", str(port)]
    run(base + ["1", "2"])
    for c in CONCURRENCY:
        out = run(base + [str(c), str(max(8, 2 * c)), "64", "64"])
        with contextlib.suppress(ValueError):
            row = json.loads(out)
            if row["errors"]:
                print(f"  {who} c={c}: {row['errors']} errors")
                continue
            note("server", name, f"tok/s c={c}", who, row["tok_s"])
            note("server", name, f"first token ms c={c}", who, row["ttft_ms"])


def p99_ms(port):
    out = run(["wrk", "-t1", "-c1", "-d4", "--latency",
               f"http://127.0.0.1:{port}/file"])
    m = re.search(r"99%\s+([\d.]+)(us|ms|s)", out)
    return float(m[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[m[2]] if m else None


def static(name, port):
    """p99 of a static file, with the engine idle and with 32 streams."""
    if not any(os.access(f"{d}/wrk", os.X_OK)
               for d in os.environ["PATH"].split(":")):
        return
    note("static", name, "p99 ms, idle", "ngx_infer", p99_ms(port))
    with subprocess.Popen([sys.executable, "kernels/bench/load.py", str(port),
                           "32", "600", "64", "64"],
                          stdout=subprocess.DEVNULL) as p:
        time.sleep(2)
        note("static", name, "p99 ms, 32 streams", "ngx_infer", p99_ms(port))
        p.kill()


def serve_ours(name, path):
    port = 18181
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        os.mkdir(f"{d}/logs")
        user = "user root;" if os.geteuid() == 0 else ""
        with open(f"{d}/nginx.conf", "w") as f:
            f.write(f"""
load_module {os.path.abspath(BUILD)}/ngx_http_infer_module.so;
{user} daemon off; pid {d}/pid; error_log {d}/error.log notice;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {d}/b; proxy_temp_path {d}/p;
    fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
    infer_engine default threads=2;
    infer_model m {{ path "{os.path.abspath(path)}"; sequences 32; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ infer m; }}
        location = /file {{ alias {d}/nginx.conf; }}
    }}
}}
""")
        with server(["nginx", "-p", d, "-c", f"{d}/nginx.conf"],
                    f"http://127.0.0.1:{port}/health/ready"):
            if "server" in PARTS:
                load(name, "ngx_infer", port)
            if "static" in PARTS:
                static(name, port)
        time.sleep(1)


def serve_llama(name, path):
    exe = tool(LLAMA, "llama-server")
    if exe:
        with server([exe, "-m", path, "--port", "18182", "-np", "32", "-c",
                     "16384", "-t", "2"], "http://127.0.0.1:18182/health",
                    {"LD_LIBRARY_PATH": LLAMA}):
            load(name, "llama.cpp", 18182)


def serve_das(name, path):
    exe = tool(DAS, "dasllama-server")
    if exe:
        with server([exe, "-m", path, "-p", "18183", "-s", "32", "-t", "2",
                     "--ctx", "2048"], "http://127.0.0.1:18183/v1/models"):
            load(name, "dasLLAMA", 18183)


# ---- report ----

def report():
    print("\nmedians (min..max of the rounds), best peer, ratio")
    rows = []
    for (kind, name, what), by in results.items():
        med = {w: statistics.median(v) for w, v in by.items()}
        low = "ms" in what
        peers = {w: v for w, v in med.items() if w != "ngx_infer"}
        cells = "  ".join(f"{w} {med[w]:.2f} ({min(v):.2f}..{max(v):.2f})"
                          for w, v in by.items())
        line = f"{kind:7}{name:14}{what:24}{cells}"
        if peers and "ngx_infer" in med:
            best = (min if low else max)(peers, key=peers.get)
            ratio = med["ngx_infer"] / peers[best]
            line += f"  x{ratio:.2f} of {best}"
            rows.append((f"{name}, {what}", med["ngx_infer"], best,
                         peers[best], low))
        print(line)
    return rows


def svg(rows, path):
    rows = [r for r in rows if not r[4]]
    h, top = 34, 46
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="760" '
           f'height="{top + h * len(rows) + 10}" '
           'font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="#fff"/>',
           '<text x="10" y="20" font-size="14">Output tokens per second, '
           'ngx_infer and the best peer of the same run</text>']
    for i, (label, ours, who, theirs, _) in enumerate(rows):
        y, scale = top + i * h, 400 / max(ours, theirs)
        out += [f'<text x="10" y="{y + 15}">{label}</text>',
                f'<rect x="220" y="{y}" width="{ours * scale:.0f}" '
                'height="13" fill="#2a7f3f"/>',
                f'<text x="{226 + ours * scale:.0f}" y="{y + 11}">'
                f'{ours:.0f}</text>',
                f'<rect x="220" y="{y + 14}" width="{theirs * scale:.0f}" '
                'height="13" fill="#9aa5ad"/>',
                f'<text x="{226 + theirs * scale:.0f}" y="{y + 25}">'
                f'{theirs:.0f} {who}</text>']
    with open(path, "w") as f:
        f.write("\n".join(out + ["</svg>\n"]))


def main():
    with open("/proc/cpuinfo") as f:
        info = f.read()
    print(re.search(r"model name\s*: (.*)", info)[1],
          "family", re.search(r"cpu family\s*: (.*)", info)[1])
    if "kernels" in PARTS and os.access(f"{BUILD}/kern_bench", os.X_OK):
        sys.stdout.flush()
        subprocess.run([f"{BUILD}/kern_bench"], check=False)
    files = os.environ.get("FILES", DEMO).split(",")
    files = [f for f in files if os.path.exists(f)]
    if not files:
        sys.exit("no model: make model")
    for _ in range(ROUNDS):
        for path in files:
            name = re.sub(r".*[.-](\w+)\.gguf$", r"\1", path)
            if "raw" in PARTS:
                for one in (raw_ours, raw_llama, raw_das):
                    one(name, path)
            if "server" in PARTS or "static" in PARTS:
                serve_ours(name, path)
            if "server" in PARTS:
                serve_llama(name, path)
                serve_das(name, path)
    rows = report()
    if not LLAMA and not DAS:
        print("no peer: LLAMA= and DASLLAMA= are not set")
    if os.environ.get("SVG"):
        svg(rows, os.environ["SVG"])


if __name__ == "__main__":
    main()
