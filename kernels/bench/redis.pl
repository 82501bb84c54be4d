#!/usr/bin/perl
# redis.pl: what the second tier of the response cache costs (make
# bench-redis): one node fills a Redis on loopback, another, new in each round,
# finds each answer there, then, under another body, in its first tier: both
# parse and tokenize the body and render the answer, so the difference of the
# medians is what Redis adds. wrk asks, with one connection, as fast as it is
# answered: with pauses between, all processes are cold, Redis too. Beside it,
# what redis-benchmark -c 1 takes for a GET of such a value, in turns.
#
#   perl -It/lib kernels/bench/redis.pl [rounds] [requests] [builds]
#
# Several builds (directories) are measured in turns.
use strict;
use warnings;
use Infer;
use Infer::Redis;

my $rounds = $ARGV[0] || 5;
my $n = $ARGV[1] || 1000;
my @builds = @ARGV > 2 ? @ARGV[2 .. $#ARGV] : (Infer::build_dir());

for (Infer::Redis::binary() ? () : 'redis-server',
     system('command -v wrk > /dev/null') == 0 ? () : 'wrk')
{
    print "$_ is not installed (Debian has it): nothing is measured\n";
    exit 0;
}

my $redis = Infer::Redis->new->start;
my %node = (size => '32m', events => 'accept_mutex off;',
            http => 'access_log off; keepalive_requests 1000000;');
$ENV{BUILD} = $builds[0];
my $fill = $redis->node(%node);
Infer::Redis::warm($fill) or die 'nothing is written';
my @ask = map { Infer::Redis::fresh(max_tokens => 32) } 1 .. $n;
my $stores = Infer::Redis::of($fill, 'stores_total');
$fill->post('/v1/completions', $_) for @ask;
Infer::Redis::stored($fill, $stores + $n);

sub median {
    my @s = sort { $a <=> $b } @_;
    return $s[@s / 2];
}

my %unit = (us => 1, ms => 1000, s => 1e6);

# us, the median, of each body asked once
sub asked {
    my ($t, @asks) = @_;
    my $json = JSON::PP->new->canonical;
    my $list = join ",\n", map { my $b = $json->encode($_);
        "wrk.format('POST', '/v1/completions', h, [[$b]])" } @asks;
    my $lua = $t->write_file('ask.lua', <<"EOC");
local h = { ['Content-Type'] = 'application/json' }
local r, i, n = {}, 0, 0
function init() r = { $list } end
function request() i = i + 1; return r[i] or r[#r] end
function response() n = n + 1; if n == #r then wrk.thread:stop() end end
EOC
    my $out = `wrk -t1 -c1 -d3s --latency -s $lua \\
               http://127.0.0.1:@{[ $t->port ]}/ 2>&1`;
    my ($p50, $u) = $out =~ /50%\s+([\d.]+)(us|ms|s)/ or die $out;
    $out =~ /Non-2xx/ and die $out;
    my ($done) = $out =~ /(\d+) requests in/ or die $out;
    $done >= @asks or die "only $done answers";
    return $p50 * $unit{$u};
}

sub get_us {
    my ($key) = $redis->keys('infer:v:*');
    my $out = `redis-benchmark -p @{[ $redis->port ]} -c 1 -n 20000 --csv \\
               GET $key`;
    my ($line) = grep { /^"GET/ } split /\n/, $out or die $out;
    my @v = $line =~ /"([^"]*)"/g;
    return 1000 * $v[4];
}

my (%ratio, %add, @get);
for my $round (1 .. $rounds) {
    push @get, get_us();
    for my $build (@builds) {
        $ENV{BUILD} = $build;
        my $t = $redis->node(%node);
        Infer::Redis::warm($t) or die 'nothing is written';
        my $l2 = asked($t, @ask);
        Infer::Redis::of($t, 'hits_total') > 0.9 * $n or die 'not in Redis';
        my $hits = Infer::Redis::of($t, 'hits_total');
        my $l1 = asked($t, map { +{ %$_, user => 'x' } } @ask);
        Infer::Redis::of($t, 'hits_total') - $hits < 0.1 * $n
            or die 'not in the first tier';
        push @{ $add{$build} }, $l2 - $l1;
        push @{ $ratio{$build} }, ($l2 - $l1) / $get[-1];
        printf "round %d, %s: L2 %.0f us, L1 %.0f us, adds %.0f us; GET "
             . "%.0f us\n", $round, $build, $l2, $l1, $l2 - $l1, $get[-1];
        $t->stop;
    }
}
printf "%s: an answer from Redis adds %.0f us (p50), %.2f times a GET of "
     . "%.0f us (target 1.5)\n", $_, median(@{ $add{$_} }),
       median(@{ $ratio{$_} }), median(@get) for @builds;
$fill->stop;
$redis->stop;
