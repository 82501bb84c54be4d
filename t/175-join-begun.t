#!/usr/bin/perl
# 175-join-begun.t: a request that finds an equal one about to be submitted
# waits for it, however long its worker is held up there; where that worker
# dies instead, it begins its own.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time usleep);
use Infer;

# a line of the log for each choice makes that worker slow where it matters
$ENV{INFER_DEBUG_LOG} = 1;
my $t = Infer->new(
    workers => 2, model_extra => 'context 64; sequences 100;',
    http => 'infer_cache_zone answers 4m;',
    location => 'infer m; infer_cache answers; infer_sampling max_n=128;
                 add_header X-Pid $pid;')->start;
$t->allow(qr/exited on signal 9/, qr/infer cache/);

my %ask = (max_tokens => 1, n => 128, temperature => 0,
           ignore_eos => JSON::PP::true);
my %at;

# a connection to each of two workers; and one more to the second
sub connections {
    %at = ();
    my $end = time + 10;
    while (time < $end && (keys %at < 2 || grep { @$_ < 2 } values %at)) {
        my $c = $t->client;
        my $pid = $c->request('GET', '/health/live')->{headers}{'x-pid'};
        push @{ $at{$pid} }, $c if $pid && kill 0, $pid;
    }
    return sort keys %at;
}

# slots that are taken and neither wait nor run: filled, not submitted
sub filled {
    my ($c) = @_;
    my $body = $c->request('GET', '/metrics')->{body};
    my %n = map { $_ => $body =~ /^ngx_infer_$_(?:\{[^}]*\})? (\d+)$/m
                        ? $1 : 0 }
            qw(slots_used requests_waiting requests_running);
    return $n{slots_used} - $n{requests_waiting} - $n{requests_running} > 0;
}

sub good {
    my ($r) = @_;
    return $r->{status} == 200
           && @{ ($r->{json} || {})->{choices} || [] } == $ask{n};
}

# how often since the last time
my $at = 0;
sub given_up {
    open my $f, '<', $t->dir . '/logs/error.log' or die;
    seek $f, $at, 0;
    my $n = grep { /joined generation failed/ } <$f>;
    $at = tell $f;
    return $n;
}

# Lets a worker go on bit by bit until its slots are filled; 1: they still are
# a few bits later.
sub stop_filled {
    my ($pid, $c) = @_;
    my ($more, $filled, $was) = (int rand 5, 0, 0);
    for (1 .. 30) {
        usleep(rand 100);
        kill 'STOP', $pid;
        $filled = filled($c);
        last if $filled ? $more-- == 0 : $was;
        $was = $filled;
        kill 'CONT', $pid;
    }
    kill 'STOP', $pid;
    return $filled;
}

my ($first, $second) = connections();
my ($round, $stops, $kills, $bad, $up) = (0, 0, 0, 0, 0);
my $end = time + ($ENV{INFER_SHORT} ? 15 : 6);
while (time < $end || (!$kills && time < $end + 90)) {
    my %r = (%ask, prompt => 'round ' . $round++);
    my ($c1, $c2) = ($at{$first}[0], $at{$second}[0]);
    $c1->send('POST', '/v1/completions', \%r);
    my $filled = stop_filled($first, $at{$second}[1]);
    given_up();
    $c2->send('POST', '/v1/completions', \%r);
    usleep(5000);
    if ($filled && ++$stops % 8 == 1) {
        $kills++;
        kill 'KILL', $first;
        $bad++ if !good($c2->response);
        ($first, $second) = connections();
        next;
    }
    $up += given_up();
    kill 'CONT', $first;
    $bad++ if grep { !good($_->response) } $c1, $c2;
    ($first, $second) = ($second, $first);
}
is($bad, 0, 'all are answered');
cmp_ok($kills, '>', 0, 'also where the other worker was killed')
    or diag("$round rounds, $stops stops");
is($up, 0, 'nobody gave up what was about to begin');
ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }),
   'no slot is left');
$t->finish;
done_testing;
