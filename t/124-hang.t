#!/usr/bin/perl
# 124-hang.t: an engine that is alive and makes no step for `hang` is killed,
# and what ran on it goes on in the next one, as it would have; one without
# work is left alone.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Same;

my $t = Infer->new(model => 'slow',
    engine => 'hang=2s')->start;
$t->allow(qr/infer engine .*(?:died|no progress)/);

my %ask = asked(prompt => 'abc', max_tokens => Infer::tokens(300),
                temperature => 0, ignore_eos => JSON::PP::true);
my $want = wanted($t, \%ask);

# without work
my $old = $t->engine;
kill 'STOP', $old;
sleep 4;
is($t->engine, $old, 'an engine without work is not killed');
kill 'CONT', $old;
same([ whole($t->post('/v1/completions', \%ask)) ], [ $want ],
     'and answers later');
is($t->engine, $old, 'itself');

# in the middle of a stream
my $s = $t->stream('/v1/completions', \%ask);
my $first = $s->event;
kill 'STOP', $old;
my $from = time;
my $r = $s->collect(0, $first);
cmp_ok(time - $from, '>=', 2, 'it has its time');
is($r->{done}, 1, 'the stream ends');
same([ $r ], [ $want ], 'with the same text');
isnt($t->engine, $old, 'in another engine');
is(scalar(my @all = $t->engines), 1, 'the only one');
like($t->log, qr/pid $old has made no progress for 2000 ms, it is killed/,
     'the log says so');

# a slow one is not a hanging one: stopped again and again, for shorter
my $new = $t->engine;
$s = $t->stream('/v1/completions', \%ask);
$s->event;
for (1 .. 5) {
    kill 'STOP', $new;
    sleep 0.8;
    kill 'CONT', $new;
    sleep 0.05;
}
is($s->collect->{done}, 1, 'a slow engine goes on');
is($t->engine, $new, 'and is not killed');

$t->finish;
done_testing;
