#!/usr/bin/perl
# 124-hang.t: an engine that is alive and makes no step for `hang` is killed,
# and what ran on it goes on in the next one, byte for byte; one without work
# is left alone.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;

my $t = Infer->new(model => 'slow',
    engine => 'hang=2s')->start;
$t->allow(qr/infer engine .*(?:died|no progress)/);

my %ask = (prompt => 'abc', max_tokens => 300, temperature => 0,
           ignore_eos => JSON::PP::true);
my $want = $t->post('/v1/completions', \%ask)->{json}{choices}[0]{text};

# without work
my $old = $t->engine;
kill 'STOP', $old;
sleep 4;
is($t->engine, $old, 'an engine without work is not killed');
kill 'CONT', $old;
is($t->post('/v1/completions', \%ask)->{json}{choices}[0]{text}, $want,
   'and answers later');
is($t->engine, $old, 'itself');

# in the middle of a stream
my $s = $t->stream('/v1/completions', \%ask);
my $text = $s->event->{choices}[0]{text};
kill 'STOP', $old;
my $from = time;
my $r = $s->collect;
cmp_ok(time - $from, '>=', 2, 'it has its time');
$text .= $r->{text};
is($r->{done}, 1, 'the stream ends');
is($text, $want, 'with the same text');
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
