#!/usr/bin/perl
# 117-timeouts.t: infer_timeout: queue 503 with Retry-After, first and total
# 504, an error event when the stream has begun; by the engine, and by the
# worker when the engine hangs. An engine that cannot start: 503, back-off,
# no flood of log lines, and it comes up when it can.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;

my %ask = (prompt => 'abc', max_tokens => 1900, temperature => 0,
           ignore_eos => JSON::PP::true);

my ($first, $total) = map { Infer::in_time($_) } 200, 500;
my $t = Infer->new(model => 'slow', workers => 1,
    model_extra => 'context 2048; sequences 1;',
    server => "location /queue/ { infer m; infer_timeout queue=300ms; }
               location /first/ { infer m; infer_timeout first=1ms; }
               location /total/ { infer m; infer_timeout total=${total}ms; }
               location /late/ { infer m; infer_timeout first=${first}ms; }
               location /all/ { infer m; infer_timeout queue=1s total=2s; }",
)->start;
$t->allow(qr/infer answers 50[34]:/, qr/infer stream ends with an error/);

sub free {
    return $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 20);
}

# queue: the model runs one sequence at a time
my $busy = $t->stream('/v1/completions', { %ask });
$busy->event;
my $r = $t->post('/queue/v1/completions', { %ask });
is($r->{status}, 503, 'queue: 503');
cmp_ok($r->{headers}{'retry-after'} || 0, '>=', 1, 'with Retry-After');
is($r->{json}{error}{code}, 'queue_timeout', 'and an error object');
my $s = $t->stream('/queue/v1/completions', { %ask });
$s->head;
is($s->{status}, 503, 'the same for a stream that has not begun');
$busy->close;
ok(free(), 'the slot is free again');

# first
$r = $t->post('/first/v1/completions', { %ask, prompt => 'word ' x 300 });
is($r->{status}, 504, 'first: 504');
is($r->{json}{error}{type}, 'timeout_error', 'and an error object');
ok(free(), 'the slot is free again');

# it is over with the first token, whether that is read at once or not
my $began = time;
$r = $t->post('/late/v1/completions',
              { %ask, max_tokens => Infer::emulated() ? 300 : 1900 });
is($r->{status}, 200, 'the first token was in time');
cmp_ok(time - $began, '>', $first / 1000 + 1.05, 'the rest took longer');

# total
$r = $t->post('/total/v1/completions', { %ask });
is($r->{status}, 504, 'total: 504');
$s = $t->stream('/total/v1/completions', { %ask });
$r = $s->collect;
is($r->{status}, 200, 'total, in a stream: it had begun');
ok($r->{error}, 'an error event');
is($r->{done}, 0, 'and no [DONE]');
ok(!$r->{broken}, 'the body ends properly');
is($t->post('/all/v1/completions', { %ask, max_tokens => 1 })->{status},
   200, 'a short one is in time');
ok(free(), 'the slot is free again');

# an engine that hangs: the worker's own clock
$t->allow(qr/infer deadline passed without the engine/);
$s = $t->stream('/all/v1/completions', { %ask });
$s->event;
my $engine = $t->engine;
kill 'STOP', $engine;
my $q = $t->client;
$q->send('POST', '/all/v1/completions', { %ask });
$r = $q->response;
is($r->{status}, 503, 'the engine hangs, queued: 503');
$r = $s->collect;
ok($r->{error} && !$r->{done}, 'running: an error event');
kill 'CONT', $engine;
ok(free(), 'it goes on, and nothing is left');
is($t->engine, $engine, 'the same engine');
is($t->post('/v1/completions', { %ask, max_tokens => 2 })->{status}, 200,
   'which answers');
$t->finish;

# an engine that cannot start, as long as a file is there; nginx's check of
# the model gets the same environment, and passes
$t = Infer->new(model => 'tiny', workers => 2);
my $dir = $t->dir;
my $c = $t->write_file('broken.c', <<"EOC");
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void
broken(int argc, char **argv)
{
    if (access("$dir/broken", F_OK) == 0
        && !(argc > 1 && strcmp(argv[1], "--check") == 0))
    {
        _exit(7);
    }
}
EOC
system("cc -shared -fPIC -o $dir/broken.so $c") == 0 or die 'cc';
$t->write_file('broken', '');
$t->{engine} = "threads=1 env=LD_PRELOAD=$dir/broken.so";
$t->{location} = 'infer m; infer_timeout queue=2s;';
$t->allow(qr/infer engine .*did not come up/, qr/infer answers 503:/,
          qr/infer deadline passed without the engine/);
$t->start(no_wait => 1);
$r = $t->post('/v1/completions', { %ask, max_tokens => 2 });
is($r->{status}, 503, 'no engine: 503 when the queue time is over');
cmp_ok($r->{headers}{'retry-after'} || 0, '>=', 1, 'with Retry-After');
$r = $t->get('/health/ready');
is($r->{status}, 503, 'not ready');
is($t->get('/health/live')->{status}, 200, 'but alive');
ok($t->wait_for(sub { (() = $t->log =~ /did not come up/g) >= 2 }, 20),
   'it is tried again');
my $start = time;
$r = $t->post('/v1/completions', { %ask, max_tokens => 2 });
is($r->{status}, 503, 'after three failures the engine counts as down');
cmp_ok(time - $start, '<', 1.9, 'and nobody waits for it');
my $lines = () = $t->log =~ /infer engine/g;
cmp_ok($lines, '<', 12, "few log lines ($lines)");
unlink "$dir/broken";
ok($t->wait_ready(40), 'it comes up when it can');
is($t->post('/v1/completions', { %ask, max_tokens => 2 })->{status}, 200,
   'and answers');
$t->finish;
done_testing;
