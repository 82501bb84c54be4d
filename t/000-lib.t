# vi:filetype=
# 000-lib.t: the test library itself, on a stock nginx location.

use lib 't/lib';
use Test::Nginx::Socket 'no_plan';

run_tests();

__DATA__

=== TEST 1: a plain answer
--- config
    location = /t { return 200 "hello\n"; }
--- request
GET /t
--- response_body
hello
--- response_headers
Content-Type: text/plain

=== TEST 2: status, headers and a regular expression
--- config
    location = /t { add_header X-A b always; return 404 "no such thing"; }
--- request
GET /t
--- error_code: 404
--- response_body_like: such\s+thing$
--- response_headers
X-A: b
! X-B

=== TEST 3: two requests on one connection
--- config
    location = /a { return 200 "a"; }
    location = /b { return 200 "b"; }
--- pipelined_requests eval
["GET /a", "GET /b"]
--- response_body eval
["a", "b"]

=== TEST 4: a configuration that cannot be
--- config
    no_such_directive on;
--- must_die
--- error_log
unknown directive "no_such_directive"
