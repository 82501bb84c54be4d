#!/usr/bin/perl
# 171-redis-lock.t: infer_cache_lock over two nodes: equal requests at once are
# one generation, whoever holds the lock dies, leaves or is too slow.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Redis;

plan skip_all => 'no redis-server' unless Infer::Redis::binary();

my $redis = Infer::Redis->new->start;
my @node = map { $redis->node(
    model => 'slow', zone => '64m',
    model_extra => 'context 1024; sequences 4;',
    in => 'infer_cache_lock on timeout=30s; infer_cache_scope all;',
    server => 'location /soon/ { infer m; infer_cache answers redis=shared;
                   infer_cache_scope all; infer_cache_lock on timeout=500ms; }') }
    1 .. 2;
my ($one, $two) = @node;
ok(Infer::Redis::warm($_), 'a node writes to Redis') for @node;

sub status { $_[0]{headers}{'x-infer-cache'} || '-' }
sub text { $_[0]{json}{choices}[0]{text} }
sub finished {
    my $n = 0;
    for my $t (@node) {
        my $m = $t->get('/metrics')->{body};
        $n += $1 while $m =~ /^ngx_infer_finished_total\{[^}]*\} (\d+)$/mg;
    }
    return $n;
}
sub send_to {
    my ($t, $q, $path) = @_;
    my $c = $t->client;
    $c->send('POST', $path || '/v1/completions', $q);
    return $c;
}
sub of { return Infer::Redis::of(@_) }
# the lock is held by a request of this node
sub holds {
    my ($t) = @_;
    return $t->wait_for(sub {
        $redis->keys('infer:l:*')
        && $t->metric('ngx_infer_requests_running') }, 10);
}

# ---- at once ----

my $q = Infer::Redis::fresh(max_tokens => 120);
my $n = finished();
my @c = map { send_to($node[$_ % 2], $q) } 1 .. 20;
my @r = map { $_->response } @c;
is(scalar(grep { $_->{status} == 200 } @r), 20, 'twenty answers');
my %text = map { (text($_) => 1) } @r;
is(scalar(keys %text), 1, 'all the same');
is(finished() - $n, 1, 'one generation');
cmp_ok(of($one, 'lock_waits_total') + of($two, 'lock_waits_total'), '>', 0,
       'others waited');
ok($one->wait_for(sub { !$redis->keys('infer:l:*') }, 5), 'no lock is left');

# ---- the holder's client leaves ----

$q = Infer::Redis::fresh(max_tokens => 800);
my $c = send_to($one, $q);
ok(holds($one), 'one node generates');
my $d = send_to($two, { %$q, max_tokens => 800 });
sleep 0.3;
$c->close;
ok($two->wait_for(sub { $two->metric('ngx_infer_requests_running') }, 2.5),
   'its client leaves: the other goes on at once');
$d->close;
ok($two->wait_for(sub { !$redis->keys('infer:l:*') }, 5), 'and unlocks too');

# ---- those that wait leave ----

$q = Infer::Redis::fresh(max_tokens => 800);
$c = send_to($one, $q);
holds($one);
@c = map { send_to($two, $q) } 1 .. 6;
sleep 0.3;
$_->close for @c;
$c->close;
ok($_->wait_for(sub { !$_->metric('ngx_infer_slots_used') }, 10),
   'nothing is left of them') for @node;

# ---- too slow ----

$q = Infer::Redis::fresh(max_tokens => 400);
$c = send_to($one, $q, '/soon/completions');
holds($one);
$n = of($two, 'lock_timeouts_total');
my $s = $two->stream('/soon/completions', $q);
my $start = time;
$s->event;
cmp_ok(time - $start, '>', 0.3, 'waits');
is(of($two, 'lock_timeouts_total') - $n, 1, 'but not for long');
$s->close;
$c->close;

# ---- the holder dies ----

$one->allow(qr/exited on signal 9/, qr/infer cache/);
$q = Infer::Redis::fresh(max_tokens => 300);
$c = send_to($one, $q);
ok(holds($one), 'a holder');
$d = send_to($two, $q);
sleep 0.2;
my ($w) = $one->workers;
kill 'KILL', $w;
my $r = $d->response;
is($r->{status}, 200, 'dies: the other generates');
is($redis->keys('infer:l:*'), 0, 'and its lock is gone');

# ---- Redis freezes under those who wait ----

$_->allow(qr/does not answer/) for @node;
ok($one->wait_ready, 'the killed one is back');
$q = Infer::Redis::fresh(max_tokens => 300);
$c = send_to($one, $q);
holds($one);
$d = send_to($two, $q);
sleep 0.2;
$redis->freeze;
is($d->response->{status}, 200, 'frozen: those who wait generate');
is($c->response->{status}, 200, 'and the holder ends');
$redis->thaw;

$_->finish for @node;
$redis->stop;
done_testing;
