"""openai_client.py PORT: what users do with the openai package, as TAP-like
lines. The client is the unmodified one from PyPI."""
import sys

import openai

client = openai.OpenAI(base_url=f"http://127.0.0.1:{sys.argv[1]}/v1",
                       api_key="none", max_retries=0)


def ok(passed, name):
    print(("ok " if passed else "not ok ") + name, flush=True)


models = client.models.list()
ok([m.id for m in models.data] == ["m"], "lists models")
ok(models.data[0].owned_by and models.data[0].created, "with their fields")

ask = [{"role": "user", "content": "What is 2 + 2?"}]
chat = client.chat.completions.create(model="m", messages=ask, temperature=0,
                                      max_tokens=40)
text = chat.choices[0].message.content
ok("4" in text, "chats: " + repr(text))
ok(chat.choices[0].finish_reason in ("stop", "length"), "finish reason")
ok(chat.usage.total_tokens == chat.usage.prompt_tokens
   + chat.usage.completion_tokens, "usage")

parts, usage, finish = [], None, None
for event in client.chat.completions.create(
        model="m", messages=ask, temperature=0, max_tokens=40, stream=True,
        stream_options={"include_usage": True}):
    if event.usage:
        usage = event.usage
    for choice in event.choices:
        parts.append(choice.delta.content or "")
        finish = choice.finish_reason or finish
ok("".join(parts) == text, "streams the same text")
ok(usage and usage.completion_tokens == chat.usage.completion_tokens,
   "with usage")
ok(finish == chat.choices[0].finish_reason, "and finish reason")

# long enough that a busy worker, which sends several tokens at once, is late
# for some of them and not for all
long = client.chat.completions.create(
    model="m", messages=ask, temperature=0, max_tokens=100, stream=True,
    extra_body={"ignore_eos": True})
ok(len([e for e in long if e.choices and e.choices[0].delta.content]) > 3,
   "in pieces")

lp = client.chat.completions.create(model="m", messages=ask, temperature=0,
                                    max_tokens=8, logprobs=True,
                                    top_logprobs=4)
content = lp.choices[0].logprobs.content
# the token that ends an answer counts, and is not shown
ended = lp.choices[0].finish_reason == "stop"
ok(len(content) + ended == lp.usage.completion_tokens,
   "a logprob for every token")
ok(all(len(c.top_logprobs) == 4 and c.top_logprobs[0].token == c.token
       for c in content), "greedy: the best one is the chosen one")
ok(all(c.top_logprobs[0].logprob >= c.top_logprobs[1].logprob
       for c in content), "in descending order")

old = client.completions.create(model="m", prompt="Once upon a time",
                                max_tokens=5, temperature=0, n=1, logprobs=2)
ok(len(old.choices[0].logprobs.tokens) == old.usage.completion_tokens,
   "completions with logprobs")

stopped = client.chat.completions.create(model="m", messages=ask,
                                         temperature=0, stop=["4"])
ok("4" not in stopped.choices[0].message.content
   and stopped.choices[0].finish_reason == "stop", "stop strings")

for name, kwargs, error in (
        ("a bad temperature", {"temperature": 7}, openai.BadRequestError),
        ("tools", {"tools": [{"type": "function", "function": {
            "name": "f", "parameters": {}}}]}, openai.BadRequestError)):
    try:
        client.chat.completions.create(model="m", messages=ask, **kwargs)
        ok(False, name)
    except error as e:
        ok(e.status_code == 400 and e.body["message"] and
           e.body["param"] == list(kwargs)[0], f"{name}: {e.body['message']}")
try:
    client.chat.completions.create(model="gpt-9", messages=ask)
    ok(False, "another model")
except openai.NotFoundError as e:
    ok(e.code == "model_not_found", "another model is not found")
