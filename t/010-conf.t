# vi:filetype=
# 010-conf.t: what nginx -t accepts and refuses, and how it says so.

use lib 't/lib';
use Test::Nginx::Socket 'no_plan';

my $dir = $ENV{TEST_NGINX_TMP} = File::Temp::tempdir(CLEANUP => 1);
sub put { open my $f, '>', "$dir/$_[0]" or die $!; print $f $_[1]; close $f }
put('empty.gguf', '');
put('noise.gguf', join '', map { chr($_ * 7 % 256) } 1 .. 5000);
open my $in, '<', Infer::model_path('tiny') or die $!;
binmode $in;
read $in, my $bytes, 100_000_000;
put('cut.gguf', substr $bytes, 0, length($bytes) / 2);
(my $arch = $bytes) =~ s/(general\.architecture.{12})llama/$1mamba/s;
put('arch.gguf', $arch);
put('bad.jinja', "{% for x in %}\n");
put('nul.jinja', "{{ messages }}\n" . "\0" x 20);
put('keys', "# a comment\nsecret-1 alice\nsecret-2\n");
put('nokeys', "# nobody\n");
put('cachesecret', 'x' x 40);
put('shortsecret', 'short');
chmod 0600, "$dir/cachesecret", "$dir/shortsecret";
system('mkfifo', "$dir/fifo") == 0 or die 'mkfifo';

run_tests();

__DATA__

=== TEST 1: three lines
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; }
--- request
GET /v1/models
--- response_body_like: "id": ?"tiny"

=== TEST 2: everything
--- http_config
    infer_zone   main 64m;
    infer_engine main threads=1 nice=5 isa=auto hang=90s env=HOME env=A=b cpus=0;
    infer_model tiny {
        zone main; path $TEST_NGINX_TINY_MODEL; alias gpt-x gpt-y;
        device cpu; context 512; sequences 4; batch_tokens 64;
        step_time 100ms; kv_cache 4m f16;
    }
    infer_queue length=100 tokens=100000;
--- config
    location /api/ {
        infer tiny;
        infer_endpoints chat completions models;
        infer_thread_pool default;
        infer_max_tokens 100 max=200;
        infer_timeout queue=10s first=20s total=100s;
        infer_priority high;
        infer_sampling temperature=0.5 top_p=0.9 top_k=40 seed=1;
        infer_system "Be brief.";
        infer_api_keys $TEST_NGINX_TMP/keys;
        infer_cors on;
        infer_ping 5s;
    }
--- more_headers
Authorization: Bearer secret-1
--- request
GET /api/models
--- response_body_like: "id": ?"tiny"

=== TEST 3: no such model
--- config
    location / { infer nothing; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"nothing".* in .*nginx\.conf:\d+/]

=== TEST 4: no path
--- http_config
    infer_model tiny { context 100; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*path.* in .*nginx\.conf:\d+/]

=== TEST 5: a missing file
--- http_config
    infer_model tiny { path /no/such/file.gguf; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"\/no\/such\/file\.gguf".*No such file.* in .*nginx\.conf:\d+/]

=== TEST 6: an empty file
--- http_config
    infer_model tiny { path $TEST_NGINX_TMP/empty.gguf; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*empty\.gguf.* in .*nginx\.conf:\d+/]

=== TEST 7: noise
--- http_config
    infer_model tiny { path $TEST_NGINX_TMP/noise.gguf; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*(?:GGUF|magic).* in .*nginx\.conf:\d+/i]

=== TEST 8: a truncated file
--- http_config
    infer_model tiny { path $TEST_NGINX_TMP/cut.gguf; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].* in .*nginx\.conf:\d+/]

=== TEST 9: an architecture that we do not have
--- http_config
    infer_model tiny { path $TEST_NGINX_TMP/arch.gguf; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*mamba.* in .*nginx\.conf:\d+/]

=== TEST 10: a template that does not compile
--- http_config
    infer_model tiny {
        path $TEST_NGINX_TINY_MODEL;
        chat_template $TEST_NGINX_TMP/bad.jinja;
    }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*line 1.* in .*nginx\.conf:\d+/]

=== TEST 10b: a template of NUL bytes
--- http_config
    infer_model tiny {
        path $TEST_NGINX_TINY_MODEL;
        chat_template $TEST_NGINX_TMP/nul.jinja;
    }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*template line 2: a NUL byte.* in .*nginx\.conf:\d+/]

=== TEST 11: an unknown device
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; device tpu; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*tpu.* in .*nginx\.conf:\d+/]

=== TEST 11b: a device number that is none
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; device cuda:x; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*unknown device "cuda:x".* in .*nginx\.conf:\d+/]

=== TEST 11c: an unknown precision
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; precision q9; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*unknown "precision" "q9".* in .*nginx\.conf:\d+/]

=== TEST 11d: a precision that the CPU has not
--- http_config
    infer_model tiny {
        device cpu; path $TEST_NGINX_TINY_MODEL; precision fp8;
    }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"fp8" needs "device cuda".* in .*nginx\.conf:\d+/]

=== TEST 11e: a KV type that the CPU has not
--- http_config
    infer_model tiny {
        device cpu; path $TEST_NGINX_TINY_MODEL; kv_cache 4m fp8;
    }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"fp8" needs "device cuda".* in .*nginx\.conf:\d+/]

=== TEST 11f: memory of a device that is not used
--- http_config
    infer_model tiny {
        device cpu; path $TEST_NGINX_TINY_MODEL; gpu_memory 0.5;
    }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"gpu_memory" of infer_model "tiny" needs "device cuda"/]

=== TEST 11g: more than all of the memory
--- http_config
    infer_model tiny {
        path $TEST_NGINX_TINY_MODEL; device cuda; gpu_memory 1.5;
    }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "gpu_memory" value "1.5".* in .*nginx\.conf:\d+/]

=== TEST 11h: a plugin that is not there
--- http_config
    infer_engine default env=INFER_CUDA_PLUGIN=/nonexistent/plugin.so;
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; device cuda; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"device cuda" needs the plugin "\/nonexistent\/plugin.so".* in .*nginx\.conf:\d+/]

=== TEST 12: KV that cannot hold one sequence
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; context 2048; kv_cache 16k; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].* in .*nginx\.conf:\d+/]

=== TEST 12b: KV types
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; kv_cache 4m q8; }
    infer_model wide { path $TEST_NGINX_TINY_MODEL; kv_cache 4m bf16; }
--- config
    location / { infer tiny; }
    location /wide/ { infer wide; }
--- request
GET /v1/models
--- response_body_like: "id": ?"tiny"

=== TEST 12c: an unknown KV type
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; kv_cache 4m q9; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"q9".*"f16", "bf16", "q8" and "fp8".* in .*nginx\.conf:\d+/]

=== TEST 13: a zone that is too small says how large it must be
--- http_config
    infer_zone main 1m;
    infer_model tiny { zone main; path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*(?:at least|must be).*\d+.* in .*nginx\.conf:\d+/]

=== TEST 13b: more output than the context takes no more than the context
--- http_config
    infer_zone main 8m;
    infer_model tiny { zone main; path $TEST_NGINX_TINY_MODEL; context 512; }
--- config
    location / { infer tiny; infer_max_tokens 2147483647; }
--- request
POST /v1/completions
{"prompt": [70, 71], "ignore_eos": true, "logit_bias": {"72": 100}, "temperature": 0}
--- response_body_like: "completion_tokens": ?510\b

=== TEST 14: negative nice
--- http_config
    infer_engine default nice=-5;
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*nice.* in .*nginx\.conf:\d+/]

=== TEST 15: an unknown endpoint
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_endpoints chat nonsense; }
--- must_die
--- error_log eval
[qr/\[emerg\].*nonsense.* in .*nginx\.conf:\d+/]

=== TEST 16: a sampling value out of range
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_sampling temperature=9; }
--- must_die
--- error_log eval
[qr/\[emerg\].*temperature.* in .*nginx\.conf:\d+/]

=== TEST 17: a missing thread pool
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_thread_pool nowhere; }
--- must_die
--- error_log eval
[qr/\[emerg\].*nowhere/]

=== TEST 18: the same model twice
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*tiny.* in .*nginx\.conf:\d+/]

=== TEST 19: a key file that is missing, and one without keys
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_api_keys /no/such/keys; }
--- must_die
--- error_log eval
[qr/\[emerg\].*\/no\/such\/keys/]

=== TEST 20: a context longer than the model's
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; context 1000000; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*1000000.* in .*nginx\.conf:\d+/]

=== TEST 21: two models in one zone, one by variable
--- http_config
    infer_model one { path $TEST_NGINX_TINY_MODEL; context 256; }
    infer_model two { path $TEST_NGINX_TINY_MODEL; context 256; alias zwei; }
    map $arg_m $which { default one; 2 two; }
--- config
    location / { infer $which; }
--- request
GET /models?m=2
--- response_body_like: "id": ?"two"

=== TEST 22: settings are inherited from the server
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_max_tokens 3;
--- config
    infer_sampling temperature=0;
    location / { infer tiny; }
--- request
POST /v1/completions
{"prompt":"abc","ignore_eos":true}
--- response_body_like: "completion_tokens": ?3

=== TEST 23a: a cache that is not defined
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    
--- config
    location / { infer tiny; infer_cache nowhere; }
--- must_die
--- error_log eval
[qr/\[emerg\].*unknown infer_cache_zone "nowhere".* in .*nginx\.conf:\d+/]

=== TEST 23b: a cache zone too small
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 64k;
--- config
    location / { infer tiny;  }
--- must_die
--- error_log eval
[qr/\[emerg\].*"infer_cache_zone" needs at least 512k.* in .*nginx\.conf:\d+/]

=== TEST 23c: two of a name
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m; infer_cache_zone a 1m;
--- config
    location / { infer tiny;  }
--- must_die
--- error_log eval
[qr/\[emerg\].*infer_cache_zone "a" is duplicate.* in .*nginx\.conf:\d+/]

=== TEST 23d: too many shards
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m shards=100;
--- config
    location / { infer tiny;  }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid parameter "shards=100".* in .*nginx\.conf:\d+/]

=== TEST 23e: a life that is no time
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m;
--- config
    location / { infer tiny; infer_cache a; infer_cache_valid stop soon; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid time "soon".* in .*nginx\.conf:\d+/]

=== TEST 23f: an end that does not exist
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m;
--- config
    location / { infer tiny; infer_cache a; infer_cache_valid error 1m; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid value "error".* in .*nginx\.conf:\d+/]

=== TEST 23g: a purge of nothing
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    
--- config
    location / { infer tiny; infer_cache_purge b; }
--- must_die
--- error_log eval
[qr/\[emerg\].*unknown infer_cache_zone "b".* in .*nginx\.conf:\d+/]

=== TEST 23h: a priority that does not exist
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_priority urgent; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "infer_priority" parameter "urgent".* in .*nginx\.conf:\d+/]

=== TEST 23i: one that is too high
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_priority 9; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "infer_priority" parameter "9".* in .*nginx\.conf:\d+/]

=== TEST 23j: stale answers for a cause that does not exist
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_cache_use_stale http_500; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "infer_cache_use_stale" parameter "http_500".* in .*nginx\.conf:\d+/]

=== TEST 23k: for no time
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_cache_use_stale error for=soon; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "infer_cache_use_stale" parameter "for=soon".* in .*nginx\.conf:\d+/]

=== TEST 23l: a time without a cause
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_cache_use_stale for=1h; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"infer_cache_use_stale" directive takes causes, or "off" alone.* in .*nginx\.conf:\d+/]

=== TEST 23m: off and a cause
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_cache_use_stale error off; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"infer_cache_use_stale" directive takes causes, or "off" alone.* in .*nginx\.conf:\d+/]

=== TEST 23n: a pace that is no number
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_cache_pace fast; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid number.* in .*nginx\.conf:\d+/]

=== TEST 24.1: infer_redis without a server
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { timeout 1s; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*infer_redis "r" has no "server".* in .*nginx\.conf:\d+/]

=== TEST 24.2: an unknown one in it
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { servers a; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"servers" is unknown in "infer_redis".* in .*nginx\.conf:\d+/]

=== TEST 24.3: a server that is none
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1:99999; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid port in "server" "127.0.0.1:99999" of infer_redis "r".* in .*nginx\.conf:\d+/]

=== TEST 24.4: a host that is none
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server no.such.host.invalid; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*host not found in "server" "no.such.host.invalid".* in .*nginx\.conf:\d+/]

=== TEST 24.5: a cluster with a database
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; cluster on; database 1; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*infer_redis "r" has a "database".* in .*nginx\.conf:\d+/]

=== TEST 24.6: a cluster of maybe
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; cluster maybe; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"cluster" must be "on" or "off".* in .*nginx\.conf:\d+/]

=== TEST 24.7: a user without a password
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; user u; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*infer_redis "r" has a "user" without a password.* in .*nginx\.conf:\d+/]

=== TEST 24.8: a password twice
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; password p; password_file $TEST_NGINX_TMP/cachesecret; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"password" and "password_file" exclude.* in .*nginx\.conf:\d+/]

=== TEST 24.9: a password file that is not there
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; password_file /no/such/file; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*open\(\) "\/no\/such\/file" failed.* in .*nginx\.conf:\d+/]

=== TEST 24.10: a time of nothing
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; timeout 0; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "timeout" value "0".* in .*nginx\.conf:\d+/]

=== TEST 24.11: connections too many
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; connections 1000; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "connections" value "1000", it must be between 1 and 64.* in .*nginx\.conf:\d+/]

=== TEST 24.12: values too small
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; max_value 10; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"max_value" must be from 1k to 16m.* in .*nginx\.conf:\d+/]

=== TEST 24.13: one said twice
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; max_fails 1; max_fails 2; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"max_fails" is duplicate.* in .*nginx\.conf:\d+/]

=== TEST 24.14: two values
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1 127.0.0.2; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"server" has an invalid number of arguments.* in .*nginx\.conf:\d+/]

=== TEST 24.15: two of a name
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_redis r { server 127.0.0.1; } infer_redis r { server 127.0.0.1; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*infer_redis "r" is duplicate.* in .*nginx\.conf:\d+/]

=== TEST 24.16: redis= of nothing
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m; infer_cache_secret $TEST_NGINX_TMP/cachesecret;
--- config
    location / { infer tiny; infer_cache a redis=b; }
--- must_die
--- error_log eval
[qr/\[emerg\].*unknown infer_redis "b".* in .*nginx\.conf:\d+/]

=== TEST 24.17: infer_cache with something else
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m; infer_cache_secret $TEST_NGINX_TMP/cachesecret;
--- config
    location / { infer tiny; infer_cache a memcached=b; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid parameter "memcached=b".* in .*nginx\.conf:\d+/]

=== TEST 24.18: two for one zone
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m; infer_cache_secret $TEST_NGINX_TMP/cachesecret; infer_redis r { server 127.0.0.1; } infer_redis s { server 127.0.0.1; } infer_cache a redis=r;
--- config
    location / { infer tiny; infer_cache a redis=s; }
--- must_die
--- error_log eval
[qr/\[emerg\].*infer_cache_zone "a" is used with infer_redis "r" already.* in .*nginx\.conf:\d+/]

=== TEST 24.19: redis= without a secret
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m; infer_redis r { server 127.0.0.1; }
--- config
    location / { infer tiny; infer_cache a redis=r; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"redis=r" needs "infer_cache_secret".* in .*nginx\.conf:\d+/]

=== TEST 24.20: a secret that is not there
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_secret /no/such/file;
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*open\(\) "\/no\/such\/file" failed.* in .*nginx\.conf:\d+/]

=== TEST 24.21: a secret that is too short
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_secret $TEST_NGINX_TMP/shortsecret;
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*"infer_cache_secret" ".*\/shortsecret" has only 5 bytes.* in .*nginx\.conf:\d+/]

=== TEST 24.22: a directory for one
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_secret $TEST_NGINX_TMP;
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*is not a file.* in .*nginx\.conf:\d+/]

=== TEST 24.23: a lock of maybe
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    
--- config
    location / { infer tiny; infer_cache_lock maybe; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid value "maybe" in "infer_cache_lock".* in .*nginx\.conf:\d+/]

=== TEST 24.24: a lock without an end
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    
--- config
    location / { infer tiny; infer_cache_lock on timeout=never; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid parameter "timeout=never".* in .*nginx\.conf:\d+/]

=== TEST 24.50: all there is of Redis
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
    infer_cache_zone a 1m;
    infer_cache_secret $TEST_NGINX_TMP/cachesecret;
    infer_redis r { server 127.0.0.1:1; server [::1]; server unix:/no/such;
                    database 3; user u; password "p w"; compress 3;
                    connect_timeout 1s; timeout 50ms; connections 2;
                    max_fails 0; fail_timeout 1m; max_value 2m; }
--- config
    location / { infer tiny; infer_cache a redis=r;
                 infer_cache_lock on timeout=1s; }
--- request
GET /v1/models
--- response_body_like: "id": ?"tiny"

=== TEST 25: a time that is none
--- http_config
    infer_engine default hang=soon;
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "infer_engine" parameter "hang=soon" in .*nginx\.conf:\d+/]

=== TEST 26: no time for a step
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; step_time 0; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "step_time" value "0", it must be between 1ms and 10s.* in .*nginx\.conf:\d+/]

=== TEST 27: too much time for a step
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; step_time 11s; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*invalid "step_time" value "11s".* in .*nginx\.conf:\d+/]

=== TEST 28: a fifo for a key file does not stop the master
--- http_config
    infer_model tiny { path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; infer_api_keys $TEST_NGINX_TMP/fifo; }
--- must_die
--- error_log eval
[qr/\[emerg\].*fifo" is not a file of at most/]

=== TEST 29: nor one for an engine
--- http_config
    infer_zone z 64m;
    infer_engine z path=$TEST_NGINX_TMP/fifo;
    infer_model tiny { zone z; path $TEST_NGINX_TINY_MODEL; }
--- config
    location / { infer tiny; }
--- must_die
--- error_log eval
[qr/\[emerg\].*the engine's check ended with code/]
