#!/usr/bin/perl
# hit.pl: what a hit of the response cache costs (make bench-hit): a body that
# came before beside `return 200` with as many bytes, asked by the same POST
# of the same nginx, wrk with 64 connections, rounds in turn; the CPU time of
# the worker for each, which says more than rates do where other processes are
# busy; and the share of tries that find a shard's lock taken, with two workers.
#
#   perl -It/lib kernels/bench/hit.pl [rounds] [seconds]
use strict;
use warnings;
use POSIX ();
use Infer;

my $rounds = $ARGV[0] || 3;
my $seconds = $ARGV[1] || 3;

if (system('command -v wrk > /dev/null') != 0) {
    print "wrk is not installed (Debian has it): nothing is measured\n";
    exit 0;
}

my %conf = (
    workers => 1, events => 'accept_mutex off;',
    http => 'infer_cache_zone answers 8m; access_log off;
             keepalive_requests 1000000;',
    location => 'infer m; infer_cache answers;',
);
my $t = Infer->new(%conf)->start;
my @ask = map { +{ prompt => "ask $_", max_tokens => 160, temperature => 0,
                   ignore_eos => JSON::PP::true } } 1 .. 64;
for my $ask (@ask) {
    $t->post('/v1/completions', $ask) for 1 .. 3;
}
my $size = length $t->post('/v1/completions', $ask[0])->{body};
my $plain = 'x' x $size;
$conf{server} = "location = /plain { default_type application/json;
                                     return 200 '$plain'; }";
reload();

sub reload {
    $t->reload(%conf) && $t->wait_for(sub { $t->workers(1) == $conf{workers} })
        or die 'no reload';
    return;
}

# one body, or all of them in turn
sub script {
    my ($path, @asks) = @_;
    my $json = JSON::PP->new->canonical;
    my $list = join ",\n", map { my $b = $json->encode($_);
        "wrk.format('POST', '$path', h, [[$b]])" } @asks;
    return $t->write_file('ask.lua', <<"EOC");
local h = { ['Content-Type'] = 'application/json' }
local r, i = {}, 0
function init() r = { $list } end
function request() i = i % #r + 1; return r[i] end
EOC
}

# CPU seconds of the one worker
sub cpu {
    my ($w) = $t->workers;
    open my $f, '<', "/proc/$w/stat" or die "no worker";
    my @v = split ' ', (<$f> =~ /\) (.*)/s)[0];
    return ($v[11] + $v[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

my %unit = (us => 0.001, ms => 1, s => 1000);

# thousand requests a second, p99 in ms, CPU us of a request
sub run {
    my ($path, @asks) = @_;
    my $lua = script($path, @asks);
    my $cpu = cpu();
    my $out = `wrk -t1 -c64 -d${seconds}s --latency -s $lua \\
               http://127.0.0.1:@{[ $t->port ]}/ 2>&1`;
    my ($rate) = $out =~ m{Requests/sec:\s+([\d.]+)} or die $out;
    my ($p99, $u) = $out =~ /99%\s+([\d.]+)(us|ms|s)/ or die $out;
    $out =~ /Non-2xx/ and die $out;
    my ($n) = $out =~ /(\d+) requests in/ or die $out;
    return ($rate / 1000, $p99 * $unit{$u}, (cpu() - $cpu) / $n * 1e6);
}

sub median {
    my @s = sort { $a <=> $b } @_;
    return $s[@s / 2];
}

my (@hit, @plain);
for (1 .. $rounds) {
    push @plain, [ run('/plain', $ask[0]) ];
    push @hit, [ run('/v1/completions', $ask[0]) ];
    printf "round %d: return %5.1f k/s, p99 %.2f ms, %.1f us; hit %5.1f k/s, "
         . "p99 %.2f ms, %.1f us\n", $_, @{ $plain[-1] }, @{ $hit[-1] };
}
my ($h, $p) = map { median(map { $_->[0] } @$_) } \@hit, \@plain;
my ($hp, $pp) = map { median(map { $_->[1] } @$_) } \@hit, \@plain;
my ($hc, $pc) = map { median(map { $_->[2] } @$_) } \@hit, \@plain;
printf "a hit of %d bytes, 64 connections, 1 worker: %.1f k/s, %.2f of "
     . "return 200 (target 0.8); p99 %.2f ms, %.2f times (target 1.5)\n",
       $size, $h, $h / $p, $hp, $hp / $pp;
printf "CPU time of a hit %.1f us, of return 200 %.1f: %.2f\n",
       $hc, $pc, $pc / $hc;

$conf{workers} = $t->{workers} = 2;
reload();
for my $n (1, scalar @ask) {
    my ($tries, $busy) = map { $t->metric("ngx_infer_cache_${_}_total") }
                             qw(tries busy);
    my ($rate) = run('/v1/completions', @ask[0 .. $n - 1]);
    $tries = $t->metric('ngx_infer_cache_tries_total') - $tries;
    $busy = $t->metric('ngx_infer_cache_busy_total') - $busy;
    printf "2 workers, %d bodies: %.1f k/s, %.3f %% of %d tries busy "
         . "(target 2)\n", $n, $rate, 100 * $busy / ($tries || 1), $tries;
}
$t->stop;
