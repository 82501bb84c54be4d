#!/usr/bin/env python3
"""bench.py: `make bench`. Our engine and server beside their peers, in turn.

What is not there is not measured and nothing is installed. Environment:
  LLAMA=DIR      llama-bench, llama-batched-bench and llama-server
  DASLLAMA=DIR   dasllama-bench and dasllama-server (PyPI: dasllama)
  OPENVINO=EXE   a Python that has openvino-genai
  MODEL=FILE     another file than the demo model
  ROWS=A,B       only these: q4_1 q4_0 q8_0 q4_k server memory static share
                 context head 0.5b 1b kernels
  ROUNDS=3 MINUTES=13   alternations, as far as there is time
  LOADS=C:N,...  clients and requests of the server rows (1:4,8:8,16:24,32:48)
  STEP_TIME=50ms step_time of ours in the server rows
  SVG=FILE       where the picture goes (BUILD/bench.svg)

The machine's limits are measured first. Every engine runs once in the first
round; groups are repeated in later rounds while there is time. A target is
what issue texts of this project promised for a row; figures of one run
compare, those of two machines or days do not.
"""
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import engines
import gguf_shape
import picture
import servers
from engines import BUILD, THREADS, run

ROWS = [r for r in os.environ.get("ROWS", "").lower().split(",") if r]
ROUNDS = int(os.environ.get("ROUNDS", "3"))
MINUTES = float(os.environ.get("MINUTES", "13"))
DEMO = os.environ.get("MODEL", "models/SmolLM2-135M-Instruct.Q4_1.gguf")
US = "ngx_infer"
CONTEXT = 8192


class Group:
    """Measurements that alternate between contenders: who, function, file."""

    def __init__(self, name, title, contenders):
        self.name, self.title = name, title
        self.contenders, self.seconds = contenders, 0
        self.values = {}                 # what -> who -> [values]

    def measure(self, turn):
        start = time.monotonic()
        order = self.contenders[::-1] if turn % 2 else self.contenders
        for who, function, path in order:
            for what, value in function(path):
                if value:
                    self.values.setdefault(what, {}).setdefault(
                        who, []).append(value)
                    print(f"  {self.title}, {what}: {who} {value:.2f}",
                          flush=True)
        self.seconds = time.monotonic() - start

    def median(self, what, who=US):
        values = self.values.get(what, {}).get(who)
        return statistics.median(values) if values else None


class Row:
    """One line of the report. limit: the machine's bound or None; target:
    function of the best peer (or None), gives a value or None."""

    def __init__(self, group, what, unit, limit=None, target=None, less=False,
                 servers_only=None):
        self.group, self.what, self.unit = group, what, unit
        self.less, self.limit = less, limit
        self.ours = group.median(what)
        self.peers = {w: group.median(what, w)
                      for w in group.values.get(what, {}) if w != US}
        rank = {w: v for w, v in self.peers.items()
                if servers_only is None or w in servers_only}
        self.best = (min if less else max)(rank, key=rank.get,
                                           default=None)
        theirs = rank.get(self.best)
        self.target = target(theirs) if target else None
        self.holds = (None if self.target is None or self.ours is None else
                      self.ours <= self.target if less else
                      self.ours >= self.target)

    def cell(self, who):
        values = self.group.values.get(self.what, {}).get(who)
        if not values:
            return ""
        mid = statistics.median(values)
        spread = (f" ({picture.number(min(values))}.."
                  f"{picture.number(max(values))})" if len(values) > 1 else "")
        return picture.number(mid) + spread

    def ratio(self):
        return self.ours / self.peers[self.best] if self.best else None


# ---- what there is to measure ----

def wanted(name):
    return not ROWS or name in ROWS


def make(name, cmd):
    """A model file, kept in BUILD/bench."""
    path = f"{BUILD}/bench/{name}.gguf"
    if not os.path.exists(path):
        os.makedirs(f"{BUILD}/bench", exist_ok=True)
        print(f"making {path}", flush=True)
        run(cmd + [f"{path}.new"], timeout=600)
        if os.path.exists(f"{path}.new"):
            os.rename(f"{path}.new", path)
    return path


def files():
    """name -> path, of the files that wanted rows need."""
    have = {}
    if os.path.exists(DEMO):
        have["q4_1"] = DEMO
        for t in ("q4_0", "q8_0", "q4_k"):
            if wanted(t) or t == "q8_0" and wanted("server"):
                have[t] = make(f"demo.{t.upper()}",
                               [f"{BUILD}/requant", "-t", t, DEMO])
    for name, preset, t in (("0.5b", "qwen2-0.5b", "q4_0"),
                            ("1b", "llama-1b", "q4_0"),
                            ("head", "gemma-head", "q8_0")):
        if wanted(name):
            have[name] = make(f"{preset}.{t.upper()}",
                              [f"{BUILD}/make_tiny", "--preset", preset,
                               "--type", t, "--pre", "smollm", "-o"])
    return {n: p for n, p in have.items() if os.path.exists(p)}


def raw(prompt, batches):
    """Contenders on one file."""
    def bind(f):
        return lambda path: f(path, prompt, batches)
    return [(US, bind(engines.raw_ours)),
            ("llama.cpp", bind(engines.raw_llama)),
            ("dasLLAMA", bind(engines.raw_das))]


def long_context(path):
    yield "decode 1", engines.ours(path, decode=16, context=CONTEXT)[1]


def head_only(path):
    yield "decode 1", engines.ours(path, decode=64)[1]


def groups(have):
    out = []

    def add(name, title, contenders, path):
        if wanted(name) and path:
            out.append(Group(name, title, [c if len(c) == 3 else c + (path,)
                                           for c in contenders]))

    demo, q8 = have.get("q4_1"), have.get("q8_0")
    # dasLLAMA reads no Q4_1
    add("q4_1", "135M Q4_1", raw(512, (16, 32))[:2], demo)
    add("server", "server", [
        (US, servers.serve_ours), ("llama.cpp", servers.serve_llama)]
        + ([("dasLLAMA", servers.serve_das, q8),
            ("OpenVINO", servers.in_openvino, q8)] if q8 else []), demo)
    add("q4_0", "135M Q4_0", raw(512, (16, 32)), have.get("q4_0"))
    add("q8_0", "135M Q8_0", raw(512, (16, 32)), q8)
    add("static", "static file", [(US, servers.static_file)], demo)
    add("share", "busy machine", [(US, engines.beside_a_busy_process)], demo)
    add("context", f"{CONTEXT} tokens", [(US, long_context)], demo)
    add("head", "wide head Q8_0", [(US, head_only)], have.get("head"))
    add("0.5b", "0.5B Q4_0", raw(256, ())[:2], have.get("0.5b"))
    add("1b", "1B Q4_0", raw(128, ())[:2], have.get("1b"))
    # rows of 576 have no K-quant: those matrices are Q5_0
    add("q4_k", "135M Q4_K", raw(512, (16, 32)), have.get("q4_k"))
    add("memory", "server", [(US, servers.memory)], demo)
    return out


# ---- limits ----

def context_bytes(shape):
    return shape.token_bytes + CONTEXT * shape.kv_bytes


def measure_limits(shapes):
    sizes = {max(1, s.token_bytes >> 20) for s in shapes.values()}
    if "q4_1" in shapes:
        sizes.add(context_bytes(shapes["q4_1"]) >> 20)
    out = run([f"{BUILD}/kern_limits", THREADS]
              + [str(s) for s in sorted(sizes)])
    limits = json.loads(out)
    print(f"{limits['isa']}, {limits['threads']} threads: int8 "
          f"{limits['int8']:.0f} GOP/s, f32 {limits['f32']:.0f} GOP/s, read "
          + ", ".join(f"{gbs:.1f} GB/s of {mb} MB"
                      for mb, gbs in limits["read"].items()), flush=True)
    return limits


def read_ms(limits, n_bytes):
    gbs = limits["read"].get(str(max(1, n_bytes >> 20)))
    return n_bytes / gbs / 1e6


# ---- targets, as promised for each row ----

def decode_rows(group, shape, limits, add_ms=None, share=None, peer=None):
    ms = read_ms(limits, shape.token_bytes)
    least = 1e3 / (ms + add_ms) if add_ms else share * 1e3 / ms
    yield Row(group, "decode 1", "tok/s", 1e3 / ms,
              lambda p: max(least, peer * p) if p and peer else least)


def ops_row(group, what, params, limits, share, peer=None):
    limit = limits["int8"] * 1e9 / 2 / params
    return Row(group, what, "tok/s", limit,
               lambda p: min(share * limit, peer * p) if p and peer
               else share * limit)


def raw_rows(group, shape, limits):
    name = group.name
    if name in ("0.5b", "1b"):
        prompt = {"0.5b": 256, "1b": 128}[name]
        yield from decode_rows(group, shape, limits,
                               share={"0.5b": 0.75, "1b": 0.8}[name])
        yield ops_row(group, f"prefill {prompt}", shape.layer_params, limits,
                      0.47)
        return
    yield from decode_rows(group, shape, limits, add_ms=0.8,
                           peer=2 if name == "q4_1" else None)
    yield ops_row(group, "prefill 512", shape.layer_params, limits, 0.47, 1.9)
    both = shape.layer_params + shape.head_params
    yield ops_row(group, "decode 16", both, limits, 0.44, 2)
    yield ops_row(group, "decode 32", both, limits, 0.48, 2.5)


def server_rows(group, shape):
    with_http = ("llama.cpp", "dasLLAMA")
    for c, times in ((1, 1.8), (8, None), (16, 2.2), (32, 2.5)):
        yield Row(group, f"tok/s c={c}", "tok/s", None,
                  lambda p, t=times: t * p if p and t else None,
                  servers_only=with_http)
    for c, times in ((1, 0.5), (8, 0.3), (32, None)):
        yield Row(group, f"first token ms c={c}", "ms", None,
                  lambda p, t=times: t * p if p and t else None, True,
                  servers_only=with_http)
    pages = group.median("KV pages")
    if pages is not None:
        most = (shape.tensor_bytes + pages * shape.page_bytes) / 1e6 + 60
        yield Row(group, "PSS MB", "MB", None, lambda p: most, True)
    # in process, without HTTP
    openvino = group.median("tok/s c=32", "OpenVINO")
    if openvino:
        yield Row(group, "tok/s c=32", "tok/s", None,
                  lambda p: 1.6 * openvino, servers_only=("OpenVINO",))


def memory_rows(group, shape):
    """At most the tensors, KV pages ever in use and 60 MB. Flat: 1,800
    requests more leave at most 2 MB beside their KV pages."""
    first, last = servers.MEMORY_AFTER
    for n in (first, last):
        kv = group.median(f"KV MB, {n} requests")
        if kv is not None:
            most = shape.tensor_bytes / 1e6 + kv + 60
            yield Row(group, f"PSS MB after {n} requests", "MB", None,
                      lambda p, m=most: m, True)
    yield Row(group, f"MB beside KV, {first} requests", "MB", less=True)
    before = group.median(f"MB beside KV, {first} requests")
    yield Row(group, f"MB beside KV, {last} requests", "MB", None,
              lambda p: before + 2 if before else None, True)


def rows(all_groups, shapes, limits):
    for group in all_groups:
        shape = shapes.get(group.name) or shapes.get("q4_1")
        if group.name == "server":
            yield from server_rows(group, shape)
        elif group.name == "memory":
            yield from memory_rows(group, shape)
        elif group.name == "static":
            idle = group.median("p99 ms, idle") or 0
            most = max(2 * idle, idle + 0.3)
            yield Row(group, "p99 ms, idle", "ms", less=True)
            for what in ("saturated", "32 streams"):
                yield Row(group, f"p99 ms, {what}", "ms", None,
                          lambda p: most, True)
        elif group.name == "share":
            # two threads and a third that is busy on two cores: 2/3 is fair
            alone = group.median("decode alone") or 0
            yield Row(group, "decode alone", "tok/s")
            yield Row(group, "decode beside one", "tok/s", None,
                      lambda p: alone / 3)
        elif group.name == "context":
            ms = read_ms(limits, context_bytes(shape))
            yield Row(group, "decode 1", "tok/s", 1e3 / ms,
                      lambda p: 0.65 * 1e3 / ms)
        elif group.name == "head":
            yield from decode_rows(group, shape, limits, share=0.75)
        else:
            yield from raw_rows(group, shape, limits)


# ---- report ----

def report(lines):
    who = [w for w in picture.COLORS if any(w in r.peers for r in lines)]
    out = ["| | " + " | ".join([US] + who)
           + " | ratio | of the limit | target | |",
           "|---" * (len(who) + 6) + "|"]
    for r in lines:
        if r.ours is None:
            continue
        ratio = r.ratio()
        out.append("| " + " | ".join(
            [f"{r.group.title}, {r.what}", r.cell(US)]
            + [r.cell(w) for w in who]
            + [f"x{ratio:.2f} of {r.best}" if ratio else "",
               f"{100 * r.ours / r.limit:.0f} %" if r.limit else "",
               ("<= " if r.less else ">= ") + picture.number(r.target)
               if r.target is not None else "",
               {True: "holds", False: "MISSED", None: ""}[r.holds]]) + " |")
    return "\n".join(out)


def label(row):
    """Of a bar, below a heading that says the rest."""
    n = re.sub(r"\D", "", row.what) if row.what != "decode 1" else ""
    if row.group.name == "server":
        return ("nginx, workers, engine" if row.unit == "MB" else
                f"{n} client{'s' if n != '1' else ''}")
    return row.group.title + (
        f", {n} tokens" if row.what.startswith("prefill") else
        f" \u00d7 {n}" if n else "")


def sections(lines):
    parts = [("One sequence: output", "tok/s", "decode 1$"),
             ("Prompt", "tok/s", "prefill"),
             ("16 and 32 sequences together: output", "tok/s",
              "decode (16|32)"),
             ("Server, prompts of 64 and answers of 64 tokens: output"
              " (OpenVINO in process, without HTTP)", "tok/s", "tok/s c="),
             ("Server, time to the first token: less is better", "ms",
              "first token"),
             ("Server, memory (PSS) of all processes", "MB", "PSS")]
    for heading, unit, pattern in parts:
        found, seen = [], set()
        for r in lines:
            key = (r.group.title, r.what)
            if (r.ours is None or not r.peers or key in seen
                    or not re.match(pattern, r.what)):
                continue
            seen.add(key)
            peers = sorted(r.peers.items(), key=lambda p: p[1],
                           reverse=not r.less)
            times = (peers[0][1] / r.ours if r.less
                     else r.ours / peers[0][1])
            found.append((label(r), [(US, r.ours)] + peers,
                          f"{times:.1f}\u00d7"))
        if found:
            yield heading, unit, found


def machine():
    with open("/proc/cpuinfo") as f:
        info = f.read()
    name = re.search(r"model name\s*: (.*)", info)
    family = re.search(r"cpu family\s*: (.*)", info)
    model = re.search(r"^model\s*: (.*)", info, re.M)
    return (f"{name[1] if name else os.uname().machine}"
            + (f", family {family[1]} model {model[1]}" if family else ""))


def main():
    start = time.monotonic()
    # servers that were started end with us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{machine()}, {time.strftime('%Y-%m-%d')}, load "
          f"{os.getloadavg()[0]:.1f}", flush=True)
    have = files()
    if not have:
        sys.exit("no model: make model")
    shapes = {n: gguf_shape.read(p) for n, p in have.items()}
    start += max(0, time.monotonic() - start - 30)   # files are made once
    limits = measure_limits(shapes)
    if wanted("kernels"):
        subprocess.run([f"{BUILD}/kern_entries"], check=False,
                       env=dict(os.environ, INFER_BENCH_MS="30"))
        sys.stdout.flush()
    all_groups = groups(have)
    for turn in range(ROUNDS):
        for group in all_groups:
            left = MINUTES * 60 - (time.monotonic() - start)
            if group.seconds < left:
                group.measure(turn)
            elif turn == 0:
                print(f"  {group.title}: no time left", flush=True)

    lines = list(rows(all_groups, shapes, limits))
    text = report(lines)
    print(f"\nmedians (least..most), best peer of the same run; limits: int8 "
          f"{limits['int8']:.0f} GOP/s, reading\n\n{text}")
    print(f"\n{time.monotonic() - start:.0f} s")
    if not (engines.LLAMA or engines.DAS or servers.OPENVINO):
        print("no peer: LLAMA=, DASLLAMA= and OPENVINO= are not set")
    parts = list(sections(lines))
    if parts:
        path = os.environ.get("SVG") or f"{BUILD}/bench.svg"
        picture.draw(path, "ngx_infer beside its peers",
                     f"{machine()}, {THREADS} threads, one run of make bench, "
                     f"{time.strftime('%Y-%m-%d')}; ratio to the best of the "
                     "row", parts)
        print(f"picture: {path}")


if __name__ == "__main__":
    main()
