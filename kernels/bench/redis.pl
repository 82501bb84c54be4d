#!/usr/bin/perl
# redis.pl: what the second tier of the response cache costs (make
# bench-redis): one node fills a Redis on loopback, another finds each answer
# there, then, under another body, in its first tier: both parse and tokenize
# the body and render the answer, so the difference of the medians is what
# Redis adds. Beside it, what redis-benchmark -c 1 takes for a GET of such a
# value, rounds in turn.
#
#   perl -It/lib kernels/bench/redis.pl [rounds] [requests]
use strict;
use warnings;
use Time::HiRes qw(time);
use Infer;
use Infer::Redis;

my $rounds = $ARGV[0] || 5;
my $n = $ARGV[1] || 200;

if (!Infer::Redis::binary()) {
    print "redis-server is not installed (Debian has it): nothing is "
          . "measured\n";
    exit 0;
}

my $redis = Infer::Redis->new->start;
my ($fill, $find) = map { $redis->node } 1 .. 2;
Infer::Redis::warm($_) or die 'nothing is written' for $fill, $find;

sub median {
    my @s = sort { $a <=> $b } @_;
    return $s[@s / 2];
}

# us, of a request that must be answered so
sub timed {
    my ($c, $ask, $how) = @_;
    my $start = time;
    my $r = $c->request('POST', '/v1/completions', $ask);
    my $us = 1e6 * (time - $start);
    return $r->{headers}{'x-infer-cache'} eq $how ? $us : undef;
}

sub get_us {
    my ($key) = $redis->keys('infer:v:*');
    my $out = `redis-benchmark -p @{[ $redis->port ]} -c 1 -n 20000 --csv \\
               GET $key`;
    my ($line) = grep { /^"GET/ } split /\n/, $out or die $out;
    my @v = $line =~ /"([^"]*)"/g;
    return 1000 * $v[4];
}

my (@ratio, @add, @get);
for my $round (1 .. $rounds) {
    my @ask = map { Infer::Redis::fresh(max_tokens => 32) } 1 .. $n;
    my $stores = Infer::Redis::of($fill, 'stores_total');
    $fill->post('/v1/completions', $_) for @ask;
    Infer::Redis::stored($fill, $stores + $n);

    my ($c, @l2, @l1) = ($find->client);
    for my $ask (@ask) {
        push @l2, grep { defined } timed($c, $ask, 'L2');
        push @l1, grep { defined } timed($c, { %$ask, user => 'x' }, 'HIT');
    }
    @l2 > $n / 2 && @l1 > $n / 2 or die 'no hits';
    push @get, get_us();
    push @add, median(@l2) - median(@l1);
    push @ratio, $add[-1] / $get[-1];
    printf "round %d: L2 %.0f us, L1 %.0f us, adds %.0f us; GET %.0f us\n",
           $round, median(@l2), median(@l1), $add[-1], $get[-1];
}
printf "an answer from Redis adds %.0f us (p50), %.2f times a GET of %.0f us "
     . "(target 1.5)\n", median(@add), median(@ratio), median(@get);
$_->stop for $fill, $find;
$redis->stop;
