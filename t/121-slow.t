#!/usr/bin/perl
# 121-slow.t: awkward clients: slow readers behind small buffers, readers that
# never read, half-closed connections, requests behind a running stream,
# bodies byte by byte or never whole, garbage, huge headers, HEAD, and
# keep-alive after errors.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;

my $port = Infer::free_port();
my $t = Infer->new(model => 'slow', workers => 1,
    model_extra => 'context 1024; sequences 8;',
    http => "server { listen 127.0.0.1:$port sndbuf=4k;
                 location / { infer m; send_timeout 10m; }
                 location /short/ { infer m; send_timeout 1s; }
                 location /body/ { infer m; client_body_timeout 1s;
                                   reset_timedout_connection on; } }",
    location => 'infer m; infer_queue length=100;')->start;

$t->allow(qr/client sent invalid chunked body/);

my %ask = (prompt => 'abc', max_tokens => 700, temperature => 0,
           ignore_eos => JSON::PP::true);
my %short = (%ask, max_tokens => 3);
my %big = (%ask, logprobs => \1, top_logprobs => 20, max_tokens => 300,
           messages => [ { role => 'user', content => 'abc' } ]);
delete $big{prompt};
my $rcvbuf = 8192;

sub slow_stream {
    my ($prefix) = @_;
    my $c = Infer::Client->new(port => $port, rcvbuf => $rcvbuf);
    $c->send('POST', "$prefix/v1/chat/completions", { %big, stream => \1 });
    return $c;
}

sub idle {
    my ($what) = @_;
    return ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 20),
              $what);
}

my $want = $t->post('/v1/chat/completions', { %big });
my $text = $want->{json}{choices}[0]{message}{content};
cmp_ok(length $want->{body}, '>', 200_000, 'hundreds of kilobytes');

# one that reads late, one that reads in small pieces, one that is stopped
# for a while in the middle; nobody else waits for them
my @s = map { slow_stream('') } 1 .. 3;
my $r = $t->post('/v1/completions', { %short });
is($r->{status}, 200, 'others are answered meanwhile');
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_running') == 0 },
                Infer::in_time(60_000) / 1000),
   'the generations end, whoever reads');
my $late = $s[0]->collect;
is($late->{text}, $text, 'read late: everything');
is($late->{done}, 1, 'read late: to the end');
my $raw = '';
while (1) {
    my $n = sysread $s[1]{sock}, $raw, 700, length $raw;
    last if !$n || substr($raw, -24) =~ /\[DONE\]\n\n\r\n0\r\n\r\n\z/;
}
$s[1]{in} = $raw;
is($s[1]->collect->{text}, $text, 'read in small pieces: everything');
my $got = $s[2]->event->{choices}[0]{delta}{content};
sleep 0.5;
is($got . $s[2]->collect->{text}, $text, 'stopped for a while: everything');

# a big answer that is not streamed
my $c = Infer::Client->new(port => $port, rcvbuf => $rcvbuf);
$c->send('POST', '/v1/chat/completions', { %big });
sleep 0.5;
is($c->response->{json}{choices}[0]{message}{content}, $text, 'not streamed: everything');
idle('nothing is left');

# one that never reads, and one that goes with all of it unread
my $never = slow_stream('/short');
my $gone = slow_stream('');
ok($t->wait_for(sub { $t->log =~ /infer client timed out/ }, 60),
   'never read: send_timeout');
$gone->close;
idle('both are gone');

# half-closed: nginx takes it for a client that is gone
$c = $t->stream('/v1/completions', { %ask });
$c->event;
shutdown $c->{sock}, 1;
$c->collect;
idle('half-closed: the generation ends');

# pipelined behind a stream, in one write and later
$c = $t->client;
my $body = JSON::PP->new->encode({ %ask, max_tokens => 60, stream => \1 });
my $req = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: "
          . length($body) . "\r\n\r\n$body";
$c->{method} = 'POST';
$c->send_raw($req . $req);
my $first = $c->collect;
delete @$c{qw(status headers chunked left eof done data)};
my $second = $c->collect;
is($first->{done} + $second->{done}, 2, 'two streams in one write');
is($first->{text}, $second->{text}, 'both whole');
$c = $t->stream('/v1/completions', { %ask, max_tokens => 200 });
$got = $c->event->{choices}[0]{text};
$c->send_raw("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
$got .= $c->collect->{text};
is($got, $t->post('/v1/completions', { %ask, max_tokens => 200 })
           ->{json}{choices}[0]{text}, 'a request behind a running stream');
delete @$c{qw(status headers chunked left eof done data)};
is($c->response->{status}, 200, 'is answered after it');

# garbage behind a running stream does not harm the stream
$c = $t->stream('/v1/completions', { %ask, max_tokens => 100 });
$c->event;
$c->send_raw("\x16\x03\x01\0garbage\r\n\r\n");
is($c->collect->{done}, 1, 'garbage behind a stream');

# bodies
$c = $t->client;
my $json = JSON::PP->new->encode({ %short });
$c->{method} = 'POST';
$c->send_raw("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: "
             . length($json) . "\r\n\r\n");
for (split //, $json) {
    $c->send_raw($_);
    sleep 0.005;
}
is($c->response->{status}, 200, 'a body byte by byte');
$c->{method} = 'POST';
delete @$c{qw(status headers chunked left eof done data)};
$c->send_raw("POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
             . "Transfer-Encoding: chunked\r\n\r\n");
for (split //, $json) {
    $c->send_raw("1\r\n$_\r\n");
    sleep 0.002;
}
$c->send_raw("0\r\n\r\n");
is($c->response->{status}, 200, 'and chunked');
for my $part ('', substr($json, 0, 10)) {
    $c = $t->client;
    $c->send_raw("POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
                 . "Content-Length: 100\r\n\r\n$part");
    sleep 0.02;
    $c->close;
}
$c = Infer::Client->new(port => $port);
$c->{method} = 'POST';
$c->send_raw("POST /body/v1/completions HTTP/1.1\r\nHost: a\r\n"
             . "Content-Length: 100\r\n\r\n{");
$r = $c->response;
ok(!$r->{status} || $r->{status} == 408, 'a body that never comes');
$c = $t->client;
$c->{method} = 'POST';
$c->send_raw("POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
             . "Transfer-Encoding: chunked\r\n\r\nzzz\r\n");
$r = $c->response;
is($r->{status}, 400, 'bad chunks');
ok($r->{json} && $r->{json}{error}, 'get our error object');
idle('nothing is left');

# what nginx itself refuses
for my $bad ("\0\1\2\3\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
             "GET /v1/models HTTP/1.1\r\n\r\n")
{
    $c = $t->client;
    $c->{method} = 'GET';
    $c->send_raw($bad);
    like($c->response->{status}, qr/^(?:400|505)$/, 'garbage');
}
$c = $t->client;
$r = $c->request('GET', '/v1/models', undef, 'X-Big' => 'a' x 40000);
is($r->{status}, 400, 'a huge header');
$c = $t->client;
is($c->request('GET', '/v1/models?' . 'a' x 40000)->{status}, 414,
   'a huge URI');
is($t->get('/v1/models', map { ("X-H$_" => 'v' x 50) } 1 .. 100)->{status},
   200, 'many headers');

# one connection through all errors
$c = $t->client;
my @steps = (
    [ 404, 'GET', '/nothing' ],
    [ 404, 'POST', '/nothing', { %short } ],
    [ 405, 'GET', '/v1/completions' ],
    [ 405, 'POST', '/v1/models', { %short } ],
    [ 405, 'HEAD', '/v1/completions' ],
    [ 200, 'HEAD', '/v1/models' ],
    [ 405, 'PUT', '/v1/completions', { %short } ],
    [ 400, 'POST', '/v1/completions', '{"prompt":' ],
    [ 400, 'POST', '/v1/completions', { %short, temperature => -1 } ],
    [ 404, 'POST', '/v1/completions', { %short, model => 'x' } ],
    [ 200, 'POST', '/v1/completions', { %short } ],
);
is_deeply([ map { my ($status, @req) = @$_; $c->request(@req)->{status} }
            @steps ], [ map { $_->[0] } @steps ],
          'one connection through all errors');
$c->send('POST', '/v1/completions', { %short, stream => \1 });
is($c->collect->{done}, 1, 'and then a stream');
idle('nothing is left');
$t->none_left('ngx_infer_kv_pages_used', 'no page either');

$t->finish;
done_testing;
