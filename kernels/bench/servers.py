"""servers.py: ours and the peers as servers under the same load. Each
function starts one, measures and ends it, and yields (what, value)."""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import gguf_shape
from engines import BUILD, DAS, LLAMA, THREADS, run, tool

OPENVINO = os.environ.get("OPENVINO", "")
STEP = os.environ.get("STEP_TIME", "50ms")          # of ours
LOADS = {int(c): int(n) for c, n in                # clients: requests
         (pair.split(":") for pair in
          os.environ.get("LOADS", "1:4,8:8,16:24,32:48").split(","))}
MEMORY_AFTER = (200, 2000)                          # requests
HERE = os.path.dirname(os.path.abspath(__file__))


@contextlib.contextmanager
def started(cmd, ready, env=None):
    """The process, or None when it never got ready."""
    with subprocess.Popen(cmd, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, start_new_session=True,
                          env=dict(os.environ, **(env or {}))) as p:
        try:
            end, up = time.monotonic() + 180, False
            while not up and time.monotonic() < end and p.poll() is None:
                with contextlib.suppress(OSError):
                    with urllib.request.urlopen(ready, timeout=2) as r:
                        up = r.status == 200
                if not up:
                    time.sleep(0.1)
            time.sleep(0.2)
            up = up and p.poll() is None    # not another on this port
            if not up:
                print(f"  {os.path.basename(cmd[0])}: not ready", flush=True)
            yield p if up else None
        finally:
            p.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(10)
            p.kill()
            p.wait()


def pss_mb(pids):
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += sum(int(line.split()[1]) for line in f
                             if line.startswith("Pss:"))
    return total * 1024 / 1e6


def family(pid):
    """A process and its children."""
    pids = [pid]
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            pids += [int(c) for c in f.read().split()]
    return pids


def load_rows(row):
    if row["errors"]:
        print(f"  c={row['c']}: {row['errors']} errors")
        return
    yield f"tok/s c={row['c']}", row["tok_s"]
    yield f"first token ms c={row['c']}", row["ttft_ms"]


def load(port):
    base = [sys.executable, f"{HERE}/load.py", str(port)]
    run(base + ["1", "1", "8", "8"])
    for c, n in LOADS.items():
        out = run(base + [str(c), str(n), "64", "64"])
        with contextlib.suppress(ValueError):
            yield from load_rows(json.loads(out))


CONF = """
load_module {module};
{user} daemon off; worker_processes auto;
pid {d}/pid; error_log {d}/error.log notice;
events {{ worker_connections 512; }}
http {{
    access_log off; keepalive_requests 10000000;
    client_body_temp_path {d}/b; proxy_temp_path {d}/p;
    fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
    infer_engine default threads={threads};
    infer_model m {{ path "{model}"; sequences 32; step_time {step}; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ infer m; }}
        location = /file {{ alias {d}/nginx.conf; }}
    }}
}}
"""


@contextlib.contextmanager
def ours(path, port):
    """(nginx's process or None, a function that gives the engine's pid)."""
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        os.mkdir(f"{d}/logs")
        with open(f"{d}/nginx.conf", "w") as f:
            f.write(CONF.format(
                d=d, port=port, threads=THREADS, step=STEP,
                model=os.path.abspath(path),
                module=os.path.abspath(f"{BUILD}/ngx_http_infer_module.so"),
                user="user root;" if os.geteuid() == 0 else ""))
        with started(["nginx", "-p", d, "-c", f"{d}/nginx.conf"],
                     f"http://127.0.0.1:{port}/health/ready") as p:
            def engine():
                with open(f"{d}/error.log") as f:
                    pid = re.findall(r"infer engine (\d+) is ready",
                                     f.read())
                return int(pid[-1]) if pid else 0

            yield p, engine
        time.sleep(0.5)


def gauge(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as r:
        found = re.search(rf"^{name}\S* ([\d.e+]+)$", r.read().decode(), re.M)
    return float(found[1]) if found else 0


def kv_pages(port):
    """Pages ever in use: what they held may be kept for other requests."""
    return max(gauge(port, "ngx_infer_kv_pages_peak"),
               gauge(port, "ngx_infer_kv_pages_used")
               + gauge(port, "ngx_infer_kv_pages_cached"))


def serve_ours(path):
    port = 18181
    with ours(path, port) as (p, engine):
        if p is None:
            return
        yield from load(port)
        yield "PSS MB", pss_mb(family(p.pid) + [engine()])
        yield "KV pages", kv_pages(port)


def memory(path):
    """What all processes hold beside KV pages after so many requests, short
    ones, streamed or not in turn."""
    port, done = 18185, 0
    page = gguf_shape.read(path).page_bytes
    with ours(path, port) as (p, engine):
        for upto in MEMORY_AFTER if p else ():
            while done < upto:
                run([sys.executable, f"{HERE}/load.py", str(port), "16",
                     "100", "4", "2"] + ["whole"] * (done // 100 % 2))
                done += 100
            pss, kv = pss_mb(family(p.pid) + [engine()]), kv_pages(port)
            yield f"PSS MB after {done} requests", pss
            yield f"KV MB, {done} requests", kv * page / 1e6
            yield f"MB beside KV, {done} requests", pss - kv * page / 1e6


def serve_llama(path):
    exe = tool(LLAMA, "llama-server")
    if exe:
        with started([exe, "-m", path, "--port", "18182", "-np", "32", "-c",
                      "16384", "-t", THREADS],
                     "http://127.0.0.1:18182/health",
                     {"LD_LIBRARY_PATH": LLAMA}) as p:
            if p is not None:
                yield from load(18182)
                yield "PSS MB", pss_mb(family(p.pid))


def serve_das(path):
    exe = tool(DAS, "dasllama-server")
    if exe:
        with started([exe, "-m", path, "-p", "18183", "-s", "32", "-t",
                      THREADS, "--ctx", "2048"],
                     "http://127.0.0.1:18183/v1/models") as p:
            if p is not None:
                yield from load(18183)
                yield "PSS MB", pss_mb(family(p.pid))


def in_openvino(path):
    if OPENVINO:
        out = run([OPENVINO, f"{HERE}/openvino_run.py", path, THREADS]
                  + [f"{c}:{n}" for c, n in LOADS.items()])
        for line in out.splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if "c" in row:
                    yield from load_rows(row)
                else:
                    yield "PSS MB", row["pss_mb"]


def p99_ms(port):
    out = run([f"{BUILD}/file_latency", str(port), "/file", "4"])
    with contextlib.suppress(ValueError):
        return json.loads(out)["p99"]
    return None


def static_file(path):
    """p99 of a static file: the engine idle, saturated by answers in one
    piece, and by streams, whose client and chunks take their share too."""
    port = 18184
    with ours(path, port) as (p, _):
        if p is None or not os.access(f"{BUILD}/file_latency", os.X_OK):
            return
        value = p99_ms(port)
        if value is not None:
            yield "p99 ms, idle", value
        for what, more in (("saturated", ["whole"]), ("32 streams", [])):
            with subprocess.Popen(
                    [sys.executable, f"{HERE}/load.py", str(port), "32",
                     "100000", "64", "64"] + more, start_new_session=True,
                    stdout=subprocess.DEVNULL) as client:
                time.sleep(2)
                value = p99_ms(port)
                client.kill()
            if value is not None:
                yield f"p99 ms, {what}", value
            time.sleep(1)
