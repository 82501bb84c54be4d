#!/usr/bin/env python3
"""load.py: streaming load on one completions server, and what it gave.

    load.py PORT CONCURRENCY REQUESTS [PROMPT_TOKENS [OUTPUT_TOKENS]]

Every request has its own random prompt of token ids, so that no server can
reuse another's; all are greedy, stream, and ignore the end of text. Prints
one line of JSON: output tokens per second over the whole run, median time to
first token, median time between tokens, errors. One thread, no parsing of
events: the client shares the cores with the server.
"""
import asyncio
import json
import random
import statistics
import sys
import time


async def one(port, prompt, n_out, stats):
    body = json.dumps({"prompt": prompt, "max_tokens": n_out, "stream": True,
                       "temperature": 0, "ignore_eos": True}).encode()
    head = (f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    start = last = time.monotonic()
    events, status = 0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head + body)
        while True:
            data = await reader.read(65536)
            if not data:
                break
            if not status:
                status = data[9:12]
            n = data.count(b'data: {')
            if n == 0:
                continue
            now = time.monotonic()
            if events == 0:
                stats["ttft"].append(now - start)
            else:
                stats["itl"].extend([(now - last) / n] * n)
            events += n
            last = now
    finally:
        writer.close()
    if status != b"200" or events < n_out // 2:
        stats["errors"] += 1
    stats["done"] += n_out


async def main(port, concurrency, requests, n_prompt, n_out):
    rng = random.Random(requests * 1000 + concurrency)
    prompts = [[rng.randrange(1000, 40000) for _ in range(n_prompt)]
               for _ in range(requests)]
    stats = {"ttft": [], "itl": [], "errors": 0, "done": 0}

    async def client():
        while prompts:
            await one(port, prompts.pop(), n_out, stats)

    start = time.monotonic()
    await asyncio.gather(*[client() for _ in range(concurrency)])
    wall = time.monotonic() - start
    print(json.dumps({
        "c": concurrency, "tok_s": round(stats["done"] / wall, 1),
        "ttft_ms": round(statistics.median(stats["ttft"] or [0]) * 1000, 1),
        "itl_ms": round(statistics.median(stats["itl"] or [0]) * 1000, 2),
        "errors": stats["errors"]}), flush=True)


if __name__ == "__main__":
    args = [int(a) for a in sys.argv[1:]]
    asyncio.run(main(*(args + [64, 64][len(args) - 3:])))
