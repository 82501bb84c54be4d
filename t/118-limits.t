#!/usr/bin/perl
# 118-limits.t: nginx's own limits around a stream: limit_conn, limit_req,
# auth_basic, deny, client_max_body_size, limit_rate, worker_shutdown_timeout;
# and infer_queue tokens=. Each refusal is our error object.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use MIME::Base64 qw(encode_base64);
use Infer;

my $t = Infer->new(model => 'slow', workers => 1,
    model_extra => 'context 1024; sequences 1;',
    main => 'worker_shutdown_timeout 2s;',
    http => 'limit_conn_zone $server_name zone=c:1m;
             limit_req_zone $server_name zone=r:1m rate=1r/m;',
    server => 'location /conn/ { limit_conn c 1; infer m; }
               location /req/ { limit_req zone=r burst=1 nodelay; infer m; }
               location /basic/ { auth_basic "who"; auth_basic_user_file users;
                                  infer m; }
               location /deny/ { deny all; infer m; }
               location /size/ { client_max_body_size 200; infer m; }
               location /rate/ { limit_rate 20k; infer m; }
               location /tokens/ { infer m; infer_queue tokens=60; }
               location /page/ { error_page 403 /own.html; deny all; infer m; }
               location = /own.html { return 403 "own page"; }');
$t->write_file('users', "u:{PLAIN}p\n");
$t->start;
$t->allow(qr/limiting (?:connections|requests)/,
          qr/access forbidden by rule/, qr/intended to send too large body/,
          qr/infer answers 429/, qr/user "u": password mismatch/);

my %ask = (prompt => 'abc', max_tokens => 900, temperature => 0,
           ignore_eos => JSON::PP::true);
my %short = (%ask, max_tokens => 2);

sub refused {
    my ($r, $status, $what) = @_;
    is($r->{status}, $status, "$what: $status");
    ok($r->{json} && $r->{json}{error}{message} && $r->{json}{error}{type},
       "$what: an error object") or diag($r->{body});
    ok($r->{headers}{'x-request-id'}, "$what: X-Request-Id");
    return;
}

# limit_conn holds as long as a stream does
my $s = $t->stream('/conn/v1/completions',
                   { %ask, max_tokens => Infer::tokens(900) });
$s->event;
refused($t->post('/conn/v1/completions', { %short }), 503, 'limit_conn');
is($s->collect->{done}, 1, 'the stream goes on');
is($t->post('/conn/v1/completions', { %short })->{status}, 200,
   'limit_conn: free after the stream');
$s = $t->stream('/conn/v1/completions', { %ask });
$s->event;
$s->close;
ok($t->wait_for(sub {
    $t->post('/conn/v1/completions', { %short })->{status} == 200
}, 10), 'limit_conn: free after the client is gone');

is($t->post('/req/v1/completions', { %short })->{status}, 200, 'limit_req: ok')
    for 1, 2;
refused($t->post('/req/v1/completions', { %short, stream => \1 }), 503,
        'limit_req');

my $r = $t->post('/basic/v1/completions', { %short });
refused($r, 401, 'auth_basic');
like($r->{headers}{'www-authenticate'} || '', qr/^Basic realm="who"/,
     'auth_basic: asks');
refused($t->post('/basic/v1/completions', { %short },
        Authorization => 'Basic ' . encode_base64('u:q', '')), 401,
        'auth_basic, wrong');
is($t->post('/basic/v1/completions', { %short },
   Authorization => 'Basic ' . encode_base64('u:p', ''))->{status}, 200,
   'auth_basic: the right one');

refused($t->post('/deny/v1/completions', { %short }), 403, 'deny');
is($t->post('/page/v1/completions', { %short })->{body}, 'own page',
   'error_page keeps its page');

refused($t->post('/size/v1/completions', { %ask, prompt => 'abc ' x 100 }), 413,
        'client_max_body_size');
my $c = $t->client;
$c->send('POST', '/size/v1/completions', { %ask, prompt => 'abc ' x 100 },
         Expect => '100-continue');
refused($c->response, 413, 'the same with Expect');
is($t->post('/size/v1/completions', { %short })->{status}, 200,
   'a small body passes');

# what limit_rate holds back comes later, not never
my $want = $t->post('/v1/completions', { %ask, max_tokens => 200 });
my $got = $t->stream('/rate/v1/completions', { %ask, max_tokens => 200 })
            ->collect;
is($got->{text}, $want->{json}{choices}[0]{text}, 'limit_rate: everything');
is($got->{done}, 1, 'limit_rate: to the end');

# tokens of the queue: the running one is none of them
$s = $t->stream('/tokens/v1/completions', { %ask });
$s->event;
my @w = map { $t->stream('/tokens/v1/completions',
                         { %short, prompt => [ (5) x 40 ] }) } 1;
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_waiting') == 1 }, 5),
   'one waits');
$r = $t->post('/tokens/v1/completions', { %short, prompt => [ (5) x 40 ] });
refused($r, 429, 'infer_queue tokens=');
cmp_ok($r->{headers}{'retry-after'} || 0, '>=', 1, 'with Retry-After');
is($t->metric('ngx_infer_waiting_tokens'), 40, 'it is not queued all the same');
push @w, $t->stream('/tokens/v1/completions', { %short, prompt => [ 5 ] });
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_waiting') == 2 }, 5),
   'a small one has room');
$s->close;
my @a = map { $_->collect } @w;
is(scalar(grep { $_->{done} } @a), 2, 'both are answered') or diag(explain(\@a));

# worker_shutdown_timeout ends what a reload leaves
$s = $t->stream('/rate/v1/completions', { %ask, logprobs => 5 });
$s->event;
my @old = $t->workers;
ok($t->reload, 'reload');
$r = $s->collect;
is($r->{done}, 0, 'worker_shutdown_timeout cuts a stream');
ok($t->wait_for(sub { !grep { Infer::alive($_) } @old }, 10),
   'and the old worker is gone');
ok($t->wait_for(sub { my $n = eval { $t->metric('ngx_infer_slots_used') };
                      defined $n && $n == 0 }, 10), 'nothing is left');
is($t->post('/v1/completions', { %short })->{status}, 200, 'others go on');

$t->finish;

# ---- an end while a thread works, its queue full ----

$t = Infer->new(workers => 1,
    main => 'thread_pool narrow threads=1 max_queue=1;',
    http => 'client_max_body_size 64m; client_body_buffer_size 64m;',
    location => 'infer m; infer_thread_pool narrow;')->start;
$t->allow(qr/thread pool "narrow" queue overflow/, qr/infer answers 503/);
my @big = map { my $c = $t->client;
                $c->send('POST', '/v1/tokenize',
                         { content => 'lorem ipsum ' x 500_000 });
                $c } 1 .. 3;
ok($t->wait_for(sub { $t->log =~ /thread pool .* queue overflow/ }, 20),
   'a thread is busy, and its queue full');
$_->close for @big;
$t->finish;
done_testing;
