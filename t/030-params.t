# vi:filetype=
# 030-params.t: every parameter is honoured or refused by name.

use lib 't/lib';
use Test::Nginx::Socket 'no_plan';

add_block_preprocessor(sub {
    my $b = shift;
    $b->set_value(http_config =>
        'infer_model tiny { path $TEST_NGINX_TINY_MODEL; context 256; }');
    $b->set_value(config => 'location / { infer tiny; infer_max_tokens 30; }')
        unless defined $b->config;
    my $path = (scalar $b->body) =~ /"messages"/ ? '/v1/chat/completions'
                                        : '/v1/completions';
    (my $body = scalar $b->body) =~ s/\n//g;
    $b->set_value(request => "POST $path\n$body");
});

run_tests();

__DATA__

=== TEST 1: temperature out of range
--- body
{"prompt": "a", "temperature": 3}
--- error_code: 400
--- response_body_like: "param": ?"temperature"

=== TEST 2: wrong type
--- body
{"prompt": "a", "top_p": "high"}
--- error_code: 400
--- response_body_like: "param": ?"top_p"

=== TEST 3: max_tokens must be positive
--- body
{"prompt": "a", "max_tokens": 0}
--- error_code: 400
--- response_body_like: "param": ?"max_tokens"

=== TEST 4: max_completion_tokens
--- body
{"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 3, "ignore_eos": true}
--- response_body_like: "completion_tokens": ?3\b

=== TEST 5: a prompt that does not fit
--- body eval
'{"prompt": "' . ('a b c ' x 400) . '"}'
--- error_code: 400
--- response_body_like: 256.*"code": ?"context_length_exceeded"

=== TEST 6: tools come later
--- body
{"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {"name": "f"}}]}
--- error_code: 400
--- response_body_like: "param": ?"tools"

=== TEST 7: response_format comes later
--- body
{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}
--- error_code: 400
--- response_body_like: response_format

=== TEST 8: response_format text is fine
--- body
{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "text"}, "max_tokens": 1, "user": "u", "store": false, "metadata": {}}
--- response_body_like: "chat.completion"

=== TEST 9: images come later
--- body
{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
--- error_code: 400
--- response_body_like: image

=== TEST 10: text parts and developer
--- body
{"messages": [{"role": "developer", "content": "b"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "max_tokens": 1}
--- response_body_like: "chat.completion"

=== TEST 11: suffix comes later
--- body
{"prompt": "a", "suffix": "b"}
--- error_code: 400
--- response_body_like: suffix

=== TEST 12: best_of
--- body
{"prompt": "a", "best_of": 4}
--- error_code: 400
--- response_body_like: best_of

=== TEST 13: several prompts, n of each
--- body
{"prompt": ["a", "b"], "n": 2, "max_tokens": 2}
--- response_body_like: "index": ?3

=== TEST 14: token arrays
--- body
{"prompt": [[5, 6], [7]], "max_tokens": 2, "ignore_eos": true}
--- response_body_like: "completion_tokens": ?4\b

=== TEST 15: a token id outside the vocabulary
--- body
{"prompt": [5, 99999999]}
--- error_code: 400
--- response_body_like: "param": ?"prompt"

=== TEST 16: echo
--- body
{"prompt": "abc", "echo": true, "max_tokens": 2}
--- response_body_like: "text": ?"abc

=== TEST 17: logprobs of completions
--- body
{"prompt": "abc", "logprobs": 2, "max_tokens": 2, "ignore_eos": true}
--- response_body_like: "token_logprobs": ?\[-?\d.*"top_logprobs": ?\[\{

=== TEST 18: logprobs of chat
--- body
{"messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 3, "max_tokens": 2}
--- response_body_like: "logprobs": ?\{"content": ?\[\{"token".*"bytes".*"top_logprobs": ?\[\{

=== TEST 19: too many top_logprobs
--- body
{"messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 21}
--- error_code: 400
--- response_body_like: top_logprobs

=== TEST 20: logit_bias forces a token
--- body
{"prompt": "abc", "logit_bias": {"65": 100}, "max_tokens": 3, "temperature": 0}
--- response_body_like: "finish_reason": ?"length"

=== TEST 21: seed as any integer
--- body
{"prompt": "a", "seed": -7, "max_tokens": 1}
--- response_body_like: "text_completion"

=== TEST 22: a seed that is no integer
--- body
{"prompt": "a", "seed": "x"}
--- error_code: 400
--- response_body_like: "param": ?"seed"

=== TEST 23: too many stops
--- body eval
'{"prompt": "a", "stop": [' . CORE::join(',', map { "\"s$_\"" } 1 .. 17) . ']}'
--- error_code: 400
--- response_body_like: "param": ?"stop"

=== TEST 24: messages must be a list
--- body
{"messages": "hi"}
--- error_code: 400
--- response_body_like: "param": ?"messages"

=== TEST 25: an unknown role
--- body
{"messages": [{"role": "king", "content": "a"}]}
--- error_code: 400
--- response_body_like: role

=== TEST 26: the cap
--- config
    location / { infer tiny; infer_max_tokens 5 max=8; }
--- body
{"prompt": "abc", "max_tokens": 100, "ignore_eos": true}
--- response_body_like: "completion_tokens": ?8\b

=== TEST 27: null is absent
--- body
{"prompt": "abc", "max_tokens": null, "temperature": null, "stop": null, "seed": null, "n": null, "logprobs": null, "stream": null}
--- response_body_like: "text_completion"
