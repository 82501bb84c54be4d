#!/usr/bin/perl
# 113-cancel.t: a client that goes away ends its generation in every phase
# (queued, prefill, decode); slow readers and full queues.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;

my $t = Infer->new(model => 'slow',
    model_extra => 'context 1024; sequences 2; batch_tokens 32;',
    location => 'infer m; infer_queue length=4;')->start;
my %ask = (prompt => 'abc', max_tokens => 900, temperature => 0,
           ignore_eos => JSON::PP::true);

sub idle {
    return $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0
                              && $t->metric('ngx_infer_requests_running') == 0 },
                        $_[0] || 3);
}

# decode
my $s = $t->stream('/v1/completions', { %ask });
$s->event;
$s->close;
ok(idle(), 'cancelled while it decodes');

# prefill: a long prompt in small steps
my $long = join ' ', map { "word$_" } 1 .. 120;
$s = $t->stream('/v1/completions', { %ask, prompt => $long });
sleep 0.02;
$s->close;
ok(idle(), 'cancelled while the prompt is read');

# not streamed
my $c = $t->client;
$c->send('POST', '/v1/completions', { %ask });
sleep 0.1;
$c->close;
ok(idle(), 'cancelled without a stream');

# queued
my @busy = map { $t->stream('/v1/completions', { %ask }) } 1, 2;
$_->event for @busy;
my @queued = map { $t->stream('/v1/completions', { %ask }) } 1 .. 4;
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_waiting') == 4 }, 5),
   'four requests wait');
my $full = $t->post('/v1/completions', { %ask });
is($full->{status}, 429, 'a full queue is 429');
cmp_ok($full->{headers}{'retry-after'} || 0, '>=', 1, 'with Retry-After');
is($full->{json}{error}{type}, 'rate_limit_error', 'and an error object');
$_->close for @queued;
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_waiting') == 0 }, 3),
   'cancelled in the queue');
$_->close for @busy;
ok(idle(), 'and the running ones');

# a reader that does not read stops nobody else and loses nothing
my $slow = $t->stream('/v1/completions', { %ask, logprobs => 5,
    Infer::emulated() ? (max_tokens => 450, logprobs => 10) : () });
$slow->event;
my $r = $t->post('/v1/completions', { %ask, max_tokens => 50 });
is($r->{status}, 200, 'others are answered meanwhile');
sleep 1;
my $all = $slow->collect;
is($all->{done}, 1, 'the slow reader gets everything');
is($all->{finish}, 'length', 'to the end');
ok(idle(), 'nothing is left');

# many clients that connect and go
my $clients = $ENV{INFER_SHORT} ? 20 : 100;
for (1 .. $clients) {
    my $x = $t->stream('/v1/completions', { %ask });
    sleep rand 0.01;
    $x->close;
}
ok(idle(10), "$clients gone clients leave nothing");
$t->none_left('ngx_infer_kv_pages_used', 'no KV page either');
$t->none_left('ngx_infer_blocks_used', 'no block either');

$t->finish;
done_testing;
