#!/usr/bin/env python3
"""load.py: load on one completions server, and what it gave.

    load.py PORT CONCURRENCY REQUESTS [PROMPT_WORDS [OUTPUT_TOKENS [whole]]]

Every request has a prompt of its own, random words that are a token each for
most tokenizers, so that no server can reuse another's; all are greedy, ignore
the end of text and stream (`whole`: come in one piece). Prints one line of
JSON: output tokens per second over the whole run, median time to the first
token, median time between tokens, errors. One thread, no parsing of events:
the client shares the cores with the server.
"""
import asyncio
import json
import random
import re
import statistics
import sys
import time

WORDS = """time year people way day man thing woman life child world school
state family student group country problem hand part place case week company
system program question work government number night point home water room
mother area money story fact month lot right study book eye job word business
issue side kind head house service friend father power hour game line end
member law car city community name president team minute idea body back parent
face level office door health person art war history party result change
morning reason research girl guy moment air teacher force education""".split()


async def one(port, prompt, n_out, stream, stats):
    body = json.dumps({"prompt": prompt, "max_tokens": n_out,
                       "stream": stream, "temperature": 0,
                       "stream_options": {"include_usage": True},
                       "ignore_eos": True} if stream else
                      {"prompt": prompt, "max_tokens": n_out,
                       "temperature": 0, "ignore_eos": True}).encode()
    head = (f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    start = last = time.monotonic()
    events, status, tail = 0, b"", b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head + body)
        while True:
            data = await reader.read(65536)
            if not data:
                break
            if not status:
                status = data[9:12]
            tail = (tail + data)[-2048:]
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
    usage = re.findall(rb'"completion_tokens": ?(\d+)', tail)
    done = int(usage[-1]) if usage else max(0, events - 1)
    if status != b"200" or done < n_out // 2:
        stats["errors"] += 1
    stats["done"] += done


async def main(port, concurrency, requests, n_prompt, n_out, stream):
    rng = random.Random(requests * 1000 + concurrency)
    prompts = [" ".join(rng.choice(WORDS) for _ in range(n_prompt))
               for _ in range(requests)]
    stats = {"ttft": [], "itl": [], "errors": 0, "done": 0}

    async def client():
        while prompts:
            await one(port, prompts.pop(), n_out, stream, stats)

    start = time.monotonic()
    await asyncio.gather(*[client() for _ in range(concurrency)])
    wall = time.monotonic() - start
    print(json.dumps({
        "c": concurrency, "tok_s": round(stats["done"] / wall, 1),
        "ttft_ms": round(statistics.median(stats["ttft"] or [0]) * 1000, 1),
        "itl_ms": round(statistics.median(stats["itl"] or [0]) * 1000, 2),
        "errors": stats["errors"]}), flush=True)


if __name__ == "__main__":
    whole = sys.argv[-1] == "whole"
    args = [int(a) for a in sys.argv[1:] if a != "whole"]
    asyncio.run(main(*(args + [64, 64][len(args) - 3:]), not whole))
