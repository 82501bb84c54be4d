#!/usr/bin/perl
# 177-join-end.t: an answer is made once, however two equal requests meet: one
# worker has looked in vain and is held up while it fills its slots, the other
# begins, ends and stores the same answer meanwhile. The first one then finds
# that, and does not begin its own.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use IO::Select;
use Time::HiRes qw(time usleep);
use Infer;

my $n = 128;
my $t = Infer->new(
    workers => 2, model_extra => 'context 64; sequences 100;',
    http => 'infer_cache_zone answers 32m;',
    location => 'infer m; infer_cache answers; infer_sampling max_n=128;
                 add_header X-Pid $pid;')->start;

# stop strings make slots slow to fill
my %ask = (max_tokens => 1, n => $n, temperature => 0,
           ignore_eos => JSON::PP::true,
           stop => [ map { $_ x 60 } 1 .. 4 ]);

# two connections to each of two workers
my %at;
my $end = time + 10;
while (time < $end && (keys %at < 2 || grep { @$_ < 2 } values %at)) {
    my $c = $t->client;
    push @{ $at{ $c->request('GET', '/health/live')->{headers}{'x-pid'} } },
         $c;
}
my ($first, $second) = sort keys %at;

sub slots {
    my ($c) = @_;
    my $body = $c->request('GET', '/metrics')->{body};
    return $body =~ /^ngx_infer_slots_used(?:\{[^}]*\})? (\d+)$/m ? $1 : 0;
}

# Lets the first worker go on bit by bit until it has slots; 1: not yet all.
sub stop_filling {
    for (1 .. 40) {
        usleep(rand 60);
        kill 'STOP', $first;
        my $slots = slots($at{$second}[1]);
        return $slots < $n if $slots;
        kill 'CONT', $first;
    }
    kill 'STOP', $first;
    return 0;
}

sub how {
    my ($r) = @_;
    return 'wrong' if $r->{status} != 200
                      || @{ ($r->{json} || {})->{choices} || [] } != $n;
    return $r->{headers}{'x-infer-cache'};
}

my ($round, $bad, $twice, $alone) = (0) x 4;
$end = time + ($ENV{INFER_SHORT} ? 20 : 8);
while (time < $end || (!$alone && time < $end + 60)) {
    my %r = (%ask, prompt => 'round ' . $round++);
    my ($c1, $c2) = ($at{$first}[0], $at{$second}[0]);
    $c1->send('POST', '/v1/completions', \%r);
    my $filling = stop_filling();
    if ($filling) {
        $c2->send('POST', '/v1/completions', \%r);
        $alone++ if IO::Select->new($c2->{sock})->can_read(10);
    }
    kill 'CONT', $first;
    my @how = map { how($_->response) } $c1, $filling ? $c2 : ();
    $bad++ if grep { $_ eq 'wrong' } @how;
    $twice++ if grep({ $_ eq 'MISS' } @how) != 1;
    ($first, $second) = ($second, $first);
}
is($bad, 0, 'all are answered');
is($twice, 0, 'each answer was made once');
cmp_ok($alone, '>', 0, 'also while a worker was held up before it began');
ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }),
   'no slot is left');
$t->finish;
done_testing;
