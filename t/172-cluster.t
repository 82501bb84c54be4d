#!/usr/bin/perl
# 172-cluster.t: the second tier in a Redis Cluster of three nodes: found where
# its keys lie, over nodes that die, are frozen and come back.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;
use Infer::Redis;

plan skip_all => 'no redis-server' unless Infer::Redis::binary();

my @redis = map { Infer::Redis->new(args => [
    '--cluster-enabled', 'yes', '--cluster-config-file', 'nodes.conf',
    '--cluster-port', Infer::free_port(),
    '--cluster-node-timeout', '1000',
    '--cluster-require-full-coverage', 'no' ])->start } 1 .. 3;
my $out = $redis[0]->cli('--cluster', 'create', (map { $_->addr } @redis),
                         '--cluster-yes');
like($out, qr/All 16384 slots covered/, 'a cluster of three') or diag($out);

my %o = (block => 'cluster on; timeout 200ms; fail_timeout 500ms;',
         servers => join ' ', map { 'server ' . $_->addr . ';' } @redis);
my ($one, $two) = map { $redis[0]->node(%o, workers => 2) } 1 .. 2;
ok(Infer::Redis::warm($_), 'a node of ours writes to it') for $one, $two;

sub status { $_[0]{headers}{'x-infer-cache'} || '-' }
sub of { return Infer::Redis::of(@_) }

# So many new requests, asked of one node, then of the other: how many were
# answered, and how many of the second ones by Redis.
sub round {
    my ($n) = @_;
    my @q = map { Infer::Redis::fresh(max_tokens => 4) } 1 .. $n;
    my ($good, $hits, $same) = (0, 0, 0);
    my @first = map { $one->post('/v1/completions', $_) } @q;
    sleep 0.4;
    for my $i (0 .. $#q) {
        my $r = $two->post('/v1/completions', $q[$i]);
        $good++ if $r->{status} == 200 && $first[$i]{status} == 200;
        $hits++ if status($r) eq 'L2';
        $same++ if $r->{json}{choices}[0]{text}
                   eq $first[$i]{json}{choices}[0]{text};
    }
    return ($good, $hits, $same);
}

is(join(' ', round(30)), '30 30 30', 'whatever node has the key');
for my $i (0 .. 2) {
    cmp_ok(scalar($redis[$i]->keys('infer:v:*')), '>', 0, "one is node $i");
}
is($one->post('/purge?all', {})->{status}, 200, 'a purge in a cluster');

# ---- slots move ----

my $from = $redis[0]->cli('CLUSTER', 'MYID');
my $to = $redis[1]->cli('CLUSTER', 'MYID');
$redis[0]->cli('--cluster', 'reshard', $redis[0]->addr, '--cluster-from',
               $from, '--cluster-to', $to, '--cluster-slots', '200',
               '--cluster-yes');
is((round(30))[0], 30, 'slots have moved: all are answered');
my @r = round(30);
is($r[1], 30, 'and found');

# ---- one is killed, comes back, is frozen ----

$_->allow(qr/does not answer/) for $one, $two;
$redis[2]->stop('KILL');
@r = round(30);
is($r[0], 30, 'a node is killed: all are answered');
is($r[2], 30, 'and right');
sleep 1.5;
@r = round(30);
is($r[0], 30, 'the cluster knows of it: all are answered');
$redis[2]->start;
ok($one->wait_for(sub { (round(6))[1] == 6 }, 20), 'back: all are found');

$redis[1]->freeze;
@r = round(20);
is($r[0], 20, 'a node is frozen: all are answered');
is($r[2], 20, 'and right');
$redis[1]->thaw;
ok($one->wait_for(sub { (round(6))[1] == 6 }, 20), 'thawed: all are found');

# ---- no node at all ----

$_->stop('KILL') for @redis;
is((round(10))[0], 10, 'no cluster: all are answered');

$_->finish for $one, $two;
done_testing;
