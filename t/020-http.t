# vi:filetype=
# 020-http.t: paths, methods, bodies, errors: what HTTP asks of the handler.

use lib 't/lib';
use Test::Nginx::Socket 'no_plan';

add_block_preprocessor(sub {
    my $b = shift;
    $b->set_value(http_config =>
        'infer_model tiny { path $TEST_NGINX_TINY_MODEL; alias other; }'
        . ' limit_req_zone $uri zone=lr:1m rate=1r/m;')
        unless defined $b->http_config;
    $b->set_value(config => 'location / { infer tiny; }')
        unless defined $b->config;
});

run_tests();

__DATA__

=== TEST 1: models, with and without v1/
--- pipelined_requests eval
["GET /v1/models", "GET /models", "GET /v1/models/tiny", "GET /v1/models/none"]
--- error_code eval
[200, 200, 200, 404]
--- response_body_like eval
['"object": ?"list"', '"owned_by"', '"id": ?"tiny"', 'model_not_found']

=== TEST 2: HEAD
--- request
HEAD /v1/models
--- response_headers
Content-Type: application/json
--- response_body

=== TEST 3: an unknown path
--- request
GET /v1/nothing
--- error_code: 404
--- response_headers
Content-Type: application/json
--- response_body_like: ^\{"error": ?\{.*"type": ?"(?:not_found_error|invalid_request_error)"

=== TEST 4: the wrong method
--- request
GET /v1/chat/completions
--- error_code: 405
--- response_headers_like
Allow: .*POST.*
--- response_body_like: "error"

=== TEST 5: not JSON
--- request
POST /v1/completions
{"prompt": "abc"
--- error_code: 400
--- response_body_like: invalid_request_error

=== TEST 6: an empty body
--- raw_request eval
"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
--- error_code: 400
--- response_body_like: invalid_request_error

=== TEST 7: another content type
--- request
POST /v1/completions
prompt=abc
--- more_headers
Content-Type: application/x-www-form-urlencoded
--- error_code: 415
--- response_body_like: "error"

=== TEST 8: a chunked body
--- raw_request eval
"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
. "10\r\n{\"prompt\": \"abc\"\r\n11\r\n,\"max_tokens\": 2}\r\n0\r\n\r\n"
--- response_body_like: "text_completion"

=== TEST 9: a body in a temporary file
--- config
    client_body_buffer_size 128;
    client_body_in_file_only clean;
    location / { infer tiny; }
--- request eval
"POST /v1/completions\n{\"prompt\": \"" . ("abc " x 100) . "\", \"max_tokens\": 2}"
--- response_body_like: "completion_tokens": ?\d

=== TEST 10: a body that is too large gets our error object
--- config
    location / { infer tiny; client_max_body_size 100; }
--- request eval
"POST /v1/completions\n{\"prompt\": \"" . ("abc " x 100) . "\"}"
--- error_code: 413
--- response_headers
Content-Type: application/json
--- response_body_like: ^\{"error"

=== TEST 11: limit_req's refusal gets it too
--- config
    location / { limit_req zone=lr; infer tiny; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models"]
--- error_code eval
[200, 503]
--- response_body_like eval
['"list"', '^\{"error"']

=== TEST 12: another model
--- request
POST /v1/completions
{"model": "gpt-9", "prompt": "a"}
--- error_code: 404
--- response_body_like: "code": ?"model_not_found"

=== TEST 13: an alias
--- request
POST /v1/completions
{"model": "other", "prompt": "a", "max_tokens": 1}
--- response_body_like: "model": ?"other"

=== TEST 14: a location prefix
--- config
    location /llm/ { infer tiny; }
--- pipelined_requests eval
["GET /llm/v1/models", "GET /llm/models", "GET /v1/models"]
--- error_code eval
[200, 200, 404]

=== TEST 15: endpoints are narrowed
--- config
    location / { infer tiny; infer_endpoints models; }
--- pipelined_requests eval
["GET /v1/models", "POST /v1/completions\n{\"prompt\":\"a\"}"]
--- error_code eval
[200, 404]

=== TEST 16: pipelined generations
--- pipelined_requests eval
["POST /v1/completions\n{\"prompt\":\"a\",\"max_tokens\":2}", "POST /v1/completions\n{\"prompt\":\"b\",\"max_tokens\":3,\"ignore_eos\":true}"]
--- response_body_like eval
['"completion_tokens"', '"completion_tokens": ?3']

=== TEST 17: a request id is taken over
--- request
POST /v1/completions
{"prompt": "a", "max_tokens": 1}
--- more_headers
X-Request-Id: my-id.1
--- response_headers
X-Request-Id: my-id.1
--- response_body_like: "id": ?"cmpl-my-id.1"

=== TEST 18: an evil request id is not
--- request
POST /v1/completions
{"prompt": "a", "max_tokens": 1}
--- more_headers
X-Request-Id: a"b\c
--- response_body_like: "id": ?"cmpl-[A-Za-z0-9_-]+"

=== TEST 19: health
--- pipelined_requests eval
["GET /health/live", "GET /health/ready", "GET /health"]

=== TEST 20: keys
--- user_files
>>> keys
# name behind the key
sk-one alice
sk-two
--- config
    location / { infer tiny; infer_api_keys html/keys; add_header X-Key $infer_key always; }
--- request
GET /v1/models
--- error_code: 401
--- response_headers_like
WWW-Authenticate: Bearer.*
--- response_body_like: "type": ?"authentication_error"

=== TEST 21: the right key
--- user_files
>>> keys
sk-one alice
--- config
    location / { infer tiny; infer_api_keys html/keys; add_header X-Key $infer_key always; }
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-one
--- response_headers
X-Key: alice

=== TEST 22: X-Api-Key, and a wrong key of the same length
--- user_files
>>> keys
sk-one alice
--- config
    location / { infer tiny; infer_api_keys html/keys; }
    location /sub/ { infer tiny; infer_api_keys html/keys; }
--- pipelined_requests eval
["GET /v1/models", "GET /health/live"]
--- more_headers
X-Api-Key: sk-onf
--- error_code eval
[401, 200]

=== TEST 23: CORS preflight
--- config
    location / { infer tiny; infer_cors on; }
--- request
OPTIONS /v1/chat/completions
--- more_headers
Origin: https://example.org
Access-Control-Request-Method: POST
--- error_code: 204
--- response_headers_like
Access-Control-Allow-Origin: .+
Access-Control-Allow-Methods: .*POST.*

=== TEST 24: gzip does not hold a stream back, and leaves JSON alone
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    gzip on; gzip_types *; gzip_min_length 0; gzip_proxied any;
--- request
POST /v1/completions
{"prompt": "a", "max_tokens": 20, "stream": true, "ignore_eos": true}
--- more_headers
Accept-Encoding: gzip
--- response_headers
! Content-Encoding
--- response_body_like: data: \[DONE\]

=== TEST 25: metrics
--- request
GET /metrics
--- response_headers_like
Content-Type: text/plain.*
--- response_body_like: (?s)# TYPE ngx_infer_requests_running gauge.*vllm:num_requests_running.*vllm:time_to_first_token_seconds_bucket\{[^}]*le="\+Inf"

=== TEST 26: tokenize and back
--- pipelined_requests eval
["POST /tokenize\n{\"content\":\"hello\"}", "POST /detokenize\n{\"tokens\":[72,73]}", "POST /apply-template\n{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"]
--- response_body_like eval
['"tokens": ?\[', '"content": ?"', '"prompt": ?".*hi']

=== TEST 27: variables reach the access log
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    log_format i "m=$infer_model p=$infer_prompt_tokens c=$infer_completion_tokens q=$infer_queue_time f=$infer_first_token_time r=$infer_finish_reason";
--- config
    access_log logs/i.log i;
    location / { infer tiny; }
--- request
POST /v1/completions
{"prompt": "abc", "max_tokens": 4, "ignore_eos": true}
--- response_body_like: "finish_reason": ?"length"

=== TEST 28: a subrequest
--- config
    location /page { add_after_body /v1/models; return 200 "x"; }
    location / { infer tiny; }
--- request
GET /v1/models
--- response_body_like: "list"

=== TEST 29: models where a location names no prefix
--- config
    location = /hello/models { infer tiny; }
    location ~ ^/world/ { infer tiny; }
    location / { infer tiny; }
--- pipelined_requests eval
["GET /hello/models", "GET /world/models", "GET /world/v1/models"]
--- error_code eval
[200, 200, 200]
--- response_body_like eval
['"object": ?"list"', '"object": ?"list"', '"object": ?"list"']

=== TEST 30: purges in blocks of their location
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone answers 1m;
--- config
    location /if { infer_cache_purge answers; if ($args) { set $a 1; } }
    location /except { infer_cache_purge answers;
                       limit_except DELETE { allow all; } }
    location / { infer tiny; }
--- pipelined_requests eval
["POST /if?all", "POST /except?all", "DELETE /except?all"]
--- response_body_like eval
['"purged":true', '"purged":true', '"purged":true']

=== TEST 31: a body that is packed
--- raw_request eval
"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
--- error_code: 415
--- response_body_like: "Content-Encoding must be identity

=== TEST 32: a body that says it is not packed
--- request
POST /v1/completions
{"prompt": "abc", "max_tokens": 2}
--- more_headers
Content-Encoding: Identity
--- response_body_like: "text_completion"
