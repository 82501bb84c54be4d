#!/usr/bin/perl
# 127-late.t: what comes when a request has its answer already. A job of the
# thread pool that is done after the queue's time was over, while nginx still
# has the request (a client that sent more than its body): nothing is sent
# twice, nothing runs on. And a mirror's copy, which has no client: it runs to
# its end and leaves nothing behind.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(time);
use Infer;

my $t = Infer->new(model => 'tiny', workers => 1,
    main => 'thread_pool one threads=1 max_queue=64;',
    http => 'client_max_body_size 64m; client_body_buffer_size 64m;
             lingering_timeout 30s; lingering_time 60s;',
    server => 'location /slow/ { infer m; infer_thread_pool one; }
        location /late/ { infer m; infer_thread_pool one;
                          infer_timeout queue=50ms; }
        location /total/ { infer m; infer_thread_pool one;
                           infer_timeout total=50ms; }
        location /both/ { mirror /copy/completions; infer m; }
        location /copy/ { internal; infer m; }',
)->start;
$t->allow(qr/infer answers 50[34]:/);

sub done {
    return $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 10);
}

my %ask = (prompt => 'abc', max_tokens => 4, temperature => 0,
           ignore_eos => JSON::PP::true);

# Bytes behind the body keep a request until they have been read.
sub late {
    my ($path) = @_;                 # LOCATION/v1/ENDPOINT
    my $c = $t->client;
    my $body = JSON::PP->new->encode({ %ask });
    $c->{method} = 'POST';
    $c->send_raw("POST /$path HTTP/1.1\r\nHost: a\r\n"
        . "Content-Type: application/json\r\nConnection: close\r\n"
        . 'Content-Length: ' . length($body) . "\r\n\r\n$body\r\n");
    return $c;
}

# Ticks of CPU time of the worker's threads but the first.
sub ticks {
    my ($worker) = $t->workers;
    my $sum = 0;
    for my $file (glob "/proc/$worker/task/[0-9]*/stat") {
        next if $file =~ m{/task/$worker/};
        open my $f, '<', $file or next;
        my @stat = split ' ', <$f> =~ s/.*\)//r;
        $sum += $stat[11] + $stat[12];
    }
    return $sum;
}

# the only thread is busy for longer than the worker waits, sooner or later
my ($n, $took, @late, @status) = (1);
for (1 .. 6) {
    my $before = ticks();
    my @big = map { $t->client } 1 .. $n;
    $_->send('POST', '/slow/v1/tokenize', { prompt => 'abcdefghi ' x 640_000 })
        for @big;
    $t->wait_for(sub { ticks() > $before }, 10);
    $took = -time;
    @late = map { late($_) } 'late/v1/completions', 'late/v1/tokenize',
                             'total/v1/completions';
    @status = map { $_->response->{status} } @late;
    $took += time;
    for (@big) {
        $_->head;
        $_->close;
    }
    last if "@status" eq '503 503 504';
    $n *= 2;
}
is("@status", '503 503 504', 'the time of the queue is over, or all of it');
cmp_ok($took, '<', 1, 'when it is');
is($t->post('/slow/v1/tokenize', { prompt => 'abc' })->{status}, 200,
   'the thread is free again');
is($_->{in}, '', 'and that was the answer') for @late;
ok(done(), 'nothing runs');
$_->close for @late;

# copies
is($t->post('/both/v1/completions', { %ask })->{status}, 200,
   'a request with a copy');
ok(done(), 'both are done');
my $s = $t->stream('/both/v1/completions', { %ask });
is($s->collect->{done}, 1, 'a stream with a copy is whole');
ok(done(), 'both are done');
$t->finish;
done_testing;
