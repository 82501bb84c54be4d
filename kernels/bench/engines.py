"""engines.py: ours and the peers without a server. Each function runs one
engine on one file once and yields (what, tokens a second)."""
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile

BUILD = os.environ.get("BUILD", "build")
LLAMA = os.environ.get("LLAMA", "")
DAS = os.environ.get("DASLLAMA", "")
THREADS = os.environ.get("THREADS", "2")
LONGEST_S = 240         # a peer that takes longer is given up


def run(cmd, timeout=LONGEST_S):
    env = dict(os.environ)
    if LLAMA and cmd[0].startswith(LLAMA):
        env["LD_LIBRARY_PATH"] = LLAMA
    try:
        return subprocess.run(cmd, stdout=subprocess.PIPE, timeout=timeout,
                              stderr=subprocess.DEVNULL, text=True, env=env,
                              check=False, start_new_session=True).stdout
    except subprocess.TimeoutExpired:
        print(f"  {os.path.basename(cmd[0])}: took over {timeout} s")
        return ""


def tool(folder, name):
    path = os.path.join(folder, name) if folder else ""
    return path if path and os.access(path, os.X_OK) else None


def ours(path, prefill=8, decode=8, batch=0, context=0, rounds=1):
    """(prefill, decode, batch) speeds."""
    text = (f"prefill={prefill},decode={decode},batch={batch},"
            f"rounds={rounds}")
    if context:
        text += f",context={context}"
    out = run([f"{BUILD}/infer_cli", "-m", path, "-t", THREADS, "--bench",
               text])
    return [float(v) for v in re.findall(r": ([\d.]+) tok/s", out)] or [0] * 3


def raw_ours(path, prompt, batches):
    speeds = ours(path, prefill=prompt, decode=48)
    yield f"prefill {prompt}", speeds[0]
    yield "decode 1", speeds[1]
    for n in batches:
        yield f"decode {n}", ours(path, decode=24, batch=n, context=128)[2]


def raw_llama(path, prompt, batches):
    bench, batched = (tool(LLAMA, "llama-bench"),
                      tool(LLAMA, "llama-batched-bench"))
    if bench:
        out = run([bench, "-m", path, "-t", THREADS, "-p", str(prompt), "-n",
                   "48", "-r", "1", "-o", "json"])
        with contextlib.suppress(ValueError):
            for row in json.loads(out):
                yield (f"prefill {prompt}" if row["n_prompt"] else
                       "decode 1"), row["avg_ts"]
    if batched and batches:
        out = run([batched, "-m", path, "-t", THREADS, "-c", "8192", "-b",
                   "512", "-npp", "128", "-pps", "-ntg", "24", "-npl",
                   ",".join(str(n) for n in batches), "--output-format",
                   "jsonl"])
        for line in out.splitlines():
            with contextlib.suppress(ValueError, KeyError):
                row = json.loads(line)
                yield f"decode {row['pl']}", row["speed_tg"]


def das_tests(path):
    """test -> tokens a second, of dasllama-bench's JSON."""
    with open(path) as f:
        return {name: float(test["tok_s"]) for entry in json.load(f)
                for ran in entry["runs"]
                for name, test in ran["tests"].items() if "tok_s" in test}


def raw_das(path, prompt, batches):
    bench = tool(DAS, "dasllama-bench")
    if not bench:
        return
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        for i, npl in enumerate(batches or [1]):
            run([bench, "-m", path, "-t", THREADS,
                 "-p", str(prompt if i == 0 else 0),
                 "-n", "48" if i == 0 else "0", "-r", "1"]
                + (["--npl", str(npl), "--npl-plen", "128"] if batches
                   else [])
                + ["-o", "json", "--json-path", f.name])
            with contextlib.suppress(ValueError, OSError):
                tests = das_tests(f.name)
                if i == 0:
                    yield f"prefill {prompt}", tests.get(f"pp{prompt}")
                    yield "decode 1", tests.get("tg48")
                if batches:
                    yield f"decode {npl}", next(
                        (v for k, v in tests.items()
                         if k.endswith(f"@{npl}")), None)


def beside_a_busy_process(path):
    """Decode alone, then beside a process that spins."""
    yield "decode alone", ours(path, decode=48, rounds=2)[1]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"],
                          start_new_session=True) as p:
        try:
            yield "decode beside one", ours(path, decode=48, rounds=2)[1]
        finally:
            p.kill()
