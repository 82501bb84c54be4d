#!/usr/bin/perl
# 111-kill-worker.t: kill -9 of a worker: its own clients lose their
# connections and nothing else; at random instants, 200 times under load, no
# slot, block or entry leaks.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;

my $t = Infer->new(model => 'slow', workers => 2)->start;
$t->allow(qr/worker process \d+ exited on signal 9/);
my $engine = $t->engine;

my %ask = (prompt => 'abc', max_tokens => Infer::tokens(400),
           temperature => 0, ignore_eos => JSON::PP::true);
my $want = $t->post('/v1/completions', { %ask })->{json}{choices}[0]{text};

# streams spread over both workers; the dead one's break, the others go on
my @s = map { $t->stream('/v1/completions', { %ask }) } 1 .. 8;
$_->{text} = $_->event->{choices}[0]{text} for @s;
my ($victim) = $t->workers;
kill 'KILL', $victim;
my ($whole, $broken) = (0, 0);
for my $s (@s) {
    my $r = $s->collect;
    if ($r->{done}) {
        $whole++ if $s->{text} . $r->{text} eq $want;
    } else {
        $broken++;
    }
}
is($whole + $broken, 8, "others go on ($whole whole, $broken broken)");
ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 10),
   'all slots are freed');
is($t->engine, $engine, 'the engine is the same');

my $rounds = $ENV{INFER_KILLS} || 200;
my $end = time + 100;
my $done = 0;
srand 1;
while ($done < $rounds && time < $end) {
    my @c;
    for (1 .. 4) {
        push @c, eval { $t->stream('/v1/completions', { %ask,
                        max_tokens => 50 }) } || ();
    }
    sleep rand 0.03;
    my @w = $t->workers;
    if (@w) {
        kill 'KILL', $w[rand @w];
        $done++;
    }
    $_->close for @c;
    $t->wait_for(sub { $t->workers == 2 }, 5);
}
is($done, $rounds, "$rounds workers killed");
ok($t->wait_for(sub {
    my $n = eval { $t->metric('ngx_infer_slots_used') };
    defined $n && $n == 0
}, 15), 'no slot leaks');
$t->none_left('ngx_infer_blocks_used', 'no block leaks');
ok($t->wait_for(sub { $t->metric('ngx_infer_workers') == 2 }, 5),
   'no entry leaks');
$t->none_left('ngx_infer_kv_pages_used', 'no KV page leaks');
is($t->engine, $engine, 'the engine is still the same');
is($t->post('/v1/completions', { %ask })->{json}{choices}[0]{text}, $want,
   'and answers as before');

$t->finish;
done_testing;
