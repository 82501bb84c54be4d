#!/usr/bin/env python3
"""openvino_run.py: the load of load.py on OpenVINO GenAI in this process.

    openvino_run.py MODEL THREADS CONCURRENCY:REQUESTS ...

Continuous batching without HTTP, random prompts of 64 ids, 64 tokens each.
Prints a line of JSON for each CONCURRENCY as load.py does, then one with the
process's PSS. To be run by a Python that has openvino-genai.
"""
import json
import random
import statistics
import sys
import time

import numpy
import openvino
import openvino_genai as genai

N_PROMPT, N_OUT = 64, 64


def settings():
    g = genai.GenerationConfig()
    g.max_new_tokens = N_OUT
    g.ignore_eos = True
    g.do_sample = False
    return g


def load(pipe, concurrency, requests, first_id):
    rng = random.Random(first_id)
    running, ttft, done, next_id = {}, [], 0, first_id
    end_id = first_id + requests
    start = time.monotonic()
    while running or next_id < end_id:
        while len(running) < concurrency and next_id < end_id:
            ids = numpy.array([[rng.randrange(1000, 40000)
                                for _ in range(N_PROMPT)]], dtype=numpy.int64)
            running[next_id] = [pipe.add_request(
                next_id, openvino.Tensor(ids), settings()),
                time.monotonic()]
            next_id += 1
        pipe.step()
        for key, (handle, since) in list(running.items()):
            if handle.can_read():
                for out in handle.read().values():
                    done += len(out.generated_ids)
                if since is not None:
                    ttft.append(time.monotonic() - since)
                    running[key][1] = None
            if handle.get_status() == genai.GenerationStatus.FINISHED:
                del running[key]
    return {"c": concurrency,
            "tok_s": round(done / (time.monotonic() - start), 1),
            "ttft_ms": round(statistics.median(ttft) * 1000, 1), "errors": 0}


def main(model, threads, *loads):
    conf = genai.SchedulerConfig()
    conf.max_num_seqs = 32
    conf.max_num_batched_tokens = 512
    conf.cache_size = 1
    conf.enable_prefix_caching = False
    pipe = genai.ContinuousBatchingPipeline(
        model, conf, "CPU", {}, {"INFERENCE_NUM_THREADS": int(threads)})
    load(pipe, 1, 1, 0)
    for i, text in enumerate(loads):
        c, n = (int(x) for x in text.split(":"))
        print(json.dumps(load(pipe, c, n, 1000 * (i + 1))), flush=True)
    with open("/proc/self/smaps_rollup") as f:
        pss = [int(line.split()[1]) for line in f if line.startswith("Pss:")]
    print(json.dumps({"pss_mb": pss[0] * 1024 / 1e6}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
