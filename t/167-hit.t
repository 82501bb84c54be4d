#!/usr/bin/perl
# 167-hit.t: a hit by body is answered before nginx reads the body, where that
# has come with the headers: connections go on behind it, variables know it,
# and other forms of a body are read as ever.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;

my $t = Infer->new(
    http => 'infer_cache_zone answers 2m;
             log_format c "$infer_cache_status $request_length $request_body";
             access_log logs/access.log c;',
    location => 'infer m; infer_cache answers;',
    server => 'location /file/ { infer m; infer_cache answers;
                   client_body_in_file_only clean; }
               location /small/ { infer m; infer_cache answers;
                   client_max_body_size 16; }
               location /sub/ { infer m; infer_cache answers;
                   sub_filter_types application/json;
                   sub_filter object thing; }
               location /gzip/ { infer m; infer_cache answers; gzip on;
                   gzip_min_length 0; gzip_types application/json; }
               location /system/ { infer m; infer_cache answers;
                   infer_system "You are $http_x_who."; }
               location /pace/ { infer m; infer_cache answers;
                   infer_cache_pace 100; }');
$t->start;

my $json = JSON::PP->new->canonical;
my $body = $json->encode({ prompt => 'abc', max_tokens => 8, temperature => 0,
                           ignore_eos => JSON::PP::true });

sub ask {
    my ($path, $text, @headers) = @_;
    return join("\r\n", "POST $path HTTP/1.1", 'Host: localhost',
                'Content-Length: ' . length $text, @headers, '', $text);
}

# the answer and what X-Infer-Cache said
sub answer {
    my ($c) = @_;
    delete @$c{qw(status headers chunked left eof done)};
    $c->{method} = 'POST';
    my $r = $c->response;
    return ($r, $r->{headers}{'x-infer-cache'} || '-');
}

sub text { return $_[0]{json} && $_[0]{json}{choices}[0]{text} }

my ($first) = map { $t->post('/v1/completions', $body) } 1 .. 3;

# ---- what follows a hit on its connection ----

my $c = $t->client;
$c->send_raw(ask('/v1/completions', $body) x 3
             . "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
for (1 .. 3) {
    my ($r, $how) = answer($c);
    is($how, 'HIT', "pipelined request $_");
    is(text($r), text($first), 'its answer');
}
my ($r) = answer($c);
is($r->{json}{object}, 'list', 'and what comes behind them');

$c->send_raw(ask('/v1/completions', $body, 'Expect: 100-continue'));
ok($c->fill(5) && $c->{in} =~ m{^HTTP/1.1 100 Continue\r\n\r\n},
   'who expects 100 Continue gets it');
($r, my $how) = answer($c);
is("$how " . text($r), 'HIT ' . text($first), 'and the answer');

my @half = (substr($body, 0, 20), substr($body, 20));
my $whole = ask('/v1/completions', $body);
$c->send_raw(substr $whole, 0, length($whole) - length $half[1]);
sleep 0.1;
$c->send_raw($half[1]);
($r, $how) = answer($c);
is("$how " . text($r), 'HIT ' . text($first), 'a body in two pieces');

$c->send_raw("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
             . "Transfer-Encoding: chunked\r\n\r\n"
             . join('', map { sprintf "%x\r\n%s\r\n", length, $_ } @half)
             . "0\r\n\r\n");
($r, $how) = answer($c);
is("$how " . text($r), 'HIT ' . text($first), 'a chunked body');

$c->send_raw(ask('/v1/completions', $body . ' ' x 3000));
($r, $how) = answer($c);
is("$how " . text($r), 'HIT ' . text($first), 'a longer body: by its tokens');
$c->send_raw(ask('/v1/completions', $body . ' ' x 3000));
($r, $how) = answer($c);
is("$how " . text($r), 'HIT ' . text($first), 'and by its bytes');

my $old = $t->client;
$old->send_raw(ask('/v1/completions', $body, 'Connection: close'));
($r, $how) = answer($old);
is("$how " . text($r), 'HIT ' . text($first), 'the last of a connection');
is($old->fill(5), 0, 'which is closed');

# ---- id and time are filled in where an answer lies ----

for my $len (1, 2, 27, 28, 29, 31, 32, 33, 100, 128) {
    my $id = substr 'abcdefgh' x 16, 0, $len;
    for my $path ('/v1/completions', '/sub/v1/completions') {
        $t->post($path, $body, 'X-Request-Id' => $id);
        my $r = $t->post($path, $body, 'X-Request-Id' => $id);
        my $j = $r->{json} || {};
        (my $rest = $r->{body}) =~ s/^.*?"created":\d+//;
        (my $same = $first->{body}) =~ s/^.*?"created":\d+//;
        ok($r->{headers}{'x-infer-cache'} eq 'HIT' && $rest eq $same
           && $j->{id} eq "cmpl-$id" && abs($j->{created} - time) < 5
           && ($j->{$path =~ /sub/ ? 'thing' : 'object'} || '')
              eq 'text_completion',
           "an id of $len bytes, $path");
    }
}
my ($zipped) = map { $t->post('/gzip/v1/completions', $body,
                              'Accept-Encoding' => 'gzip') } 1 .. 2;
require Compress::Zlib;
like(Compress::Zlib::memGunzip($zipped->{body}) || '',
     qr/^\{"id":"cmpl-.*\}\s*$/s, 'a hit that is compressed');

# ---- whose answer it is, wherever that stands, and in turns ----

my @many = map { "X-Other-$_: 1" } 1 .. 30;
my $d = $t->client;
my $say = sub {
    $d->send_raw(ask('/v1/completions', $body, @many, @_));
    return answer($d);
};
($r, $how) = $say->('X-REQUEST-id: first', 'X-Request-Id: second');
is("$how $r->{headers}{'x-request-id'} $r->{json}{id}",
   'HIT first cmpl-first', 'an id behind many headers, the first of two');
for my $id ('bad id', 'a' x 129, '') {
    ($r, $how) = $say->("X-Request-Id: $id");
    like("$how $r->{headers}{'x-request-id'} $r->{json}{id}",
         qr/^HIT ([0-9a-f]{32}) cmpl-\1$/, 'one of ours');
}
my %ids = map { ($say->())[0]{json}{id}, 1 } 1 .. 300;
is(scalar keys %ids, 300, 'each its own');
my %digits = map { $_ => 1 } split //, join '', map { substr $_, 5 } keys %ids;
is(join('', sort keys %digits), '0123456789abcdef', 'of all digits');

is(($say->('CACHE-control: no-cache'))[1], 'BYPASS', 'no-cache behind them');
for my $n (0 .. 3) {
    for my $key (qw(one two)) {
        ($r, $how) = $say->("X-API-Key: $key");
        is($n ? $how eq 'HIT' : $how ne 'HIT', 1,
           "key $key has answers of its own, $n");
    }
}
for my $n (0 .. 3) {
    for my $who (qw(Al Bo Eve)) {
        $r = $t->post('/system/v1/chat/completions', { messages =>
                 [ { role => 'user', content => 'x' } ], max_tokens => 4,
                 temperature => 0, ignore_eos => JSON::PP::true },
                      'X-Who' => $who);
        is($r->{headers}{'x-infer-cache'}, $n ? 'HIT' : 'MISS',
           "a system prompt, $who, $n");
    }
}

# ---- what else looks at bodies ----

for my $n (1, 2) {
    $r = $t->post('/file/v1/completions', $body);
    is(text($r), text($first), "a body that must lie in a file, $n");
}
is($t->post('/small/v1/completions', $body)->{status}, 413,
   'a body that is too large');
my $s = $t->stream('/pace/v1/completions', { %{ $json->decode($body) } });
is($s->collect->{text}, text($first), 'a paced answer');

# three that were pipelined, and the one in two pieces
my $line = quotemeta 'HIT ' . length ask('/v1/completions', $body);
my $logged = sub {
    my @l = $t->log_text('access.log') =~ /^$line \S*max_tokens/mg;
    return @l == 4;
};
ok($t->wait_for($logged, 5), '$request_body and $request_length of hits');

$t->allow(qr/client intended to send too large body/);
$t->finish;
done_testing();
