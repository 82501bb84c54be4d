#!/usr/bin/perl
# 173-redis-lane.t: lookups in Redis that the event loop makes itself: many at
# once over one connection, each with its own answer, whatever becomes of the
# connection, of their clients and of the worker while they wait.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Memory;
use Infer::Proxy;
use Infer::Redis;

plan skip_all => 'no redis-server' unless Infer::Redis::binary();

my $redis = Infer::Redis->new->start;
my $proxy = Infer::Proxy->new($redis->port);
my %o = (in => 'infer_cache_scope all;',
         block => 'timeout 3s; max_fails 100; fail_timeout 1s;');
my $one = $redis->node(%o, server => '
    location /lock/ { $IN infer_cache_lock on; }
    location /tag/ { $IN infer_cache_tag $arg_tag; }');
my $two = $redis->node(%o, server => '
    location /lock/ { $IN infer_cache_lock on; }
    location /tag/ { $IN infer_cache_tag $arg_tag; }',
    servers => 'server ' . $proxy->addr . ';');

sub of { return Infer::Redis::of(@_) }
sub status { $_[0]{headers}{'x-infer-cache'} || '-' }
sub text { $_[0]{json}{choices}[0]{text} }
sub lane { return of($_[0] || $two, 'lane_total') }
# how many do not say what was said when they were made
sub wrong {
    my ($want, $got) = @_;
    return scalar grep { $got->[$_]{status} != 200
                         || text($got->[$_]) ne $want->[$_] } 0 .. $#$got;
}
# so many requests that are answered in Redis, and their texts
sub stored {
    my ($n, $path, @more) = @_;
    my $before = of($one, 'stores_total');
    my @q = map { Infer::Redis::fresh(@more) } 1 .. $n;
    my @text = map { text($one->post($path || '/v1/completions', $_)) } @q;
    Infer::Redis::stored($one, $before + $n) or diag('not stored');
    return (\@q, \@text);
}
sub send_all {
    my ($t, $q, $path) = @_;
    return map { my $c = $t->client;
                 $c->send('POST', $path || '/v1/completions', $_); $c } @$q;
}
# the lane is open: a lookup by it
sub open_lane {
    my ($t) = @_;
    my $n = lane($t);
    return $t->wait_for(sub {
        $t->post('/v1/completions', Infer::Redis::fresh(max_tokens => 1));
        return lane($t) > $n;
    }, 20);
}
# so many lookups are in the lane, and wait
sub hold {
    my ($q, $path) = @_;
    open_lane($two) or diag('no lane');
    $proxy->hold;
    my @c = send_all($two, $q, $path);
    $two->wait_for(sub { $proxy->held >= @$q }, 2.5) or diag('not held');
    return @c;
}

ok(Infer::Redis::warm($_), 'a node writes to Redis') for $one, $two;

# ---- answers ----

ok(open_lane($two), 'a lane is opened by itself');
my ($worker) = $two->workers;
my $fds = Infer::Memory::fds($worker);
my ($q, $text) = stored(20);
my ($n, $connects) = (lane(), of($two, 'connects_total'));
my @r = map { $two->post('/v1/completions', $_) } @$q;
is(scalar(grep { status($_) eq 'L2' } @r), 20, 'twenty in a row');
is(wrong($text, \@r), 0, 'are right');
is(lane() - $n, 20, 'all by the lane');
cmp_ok(of($two, 'connects_total') - $connects, '<=', 1,
       'over one connection');

($q, $text) = stored(40);
my @c = hold($q);
$n = lane();
$proxy->pass;
@r = map { $_->response } @c;
is(scalar(grep { status($_) eq 'L2' } @r), 40, 'forty at once');
is(wrong($text, \@r), 0, 'are right');
is(lane() - $n, 40, 'all by the lane');

for my $path ('/lock/completions', '/tag/completions?tag=a') {
    ($q, $text) = stored(5, $path);
    $n = lane();
    @r = map { $two->post($path, $_) } @$q;
    is(join(' ', map { status($_) } @r), 'L2 L2 L2 L2 L2', $path);
    is(wrong($text, \@r), 0, 'are right');
    is(lane() - $n, 5, 'by the lane');
}
is(status($two->post('/lock/completions', Infer::Redis::fresh())), 'MISS',
   'a miss takes the lock');
ok($two->wait_for(sub { !$redis->keys('infer:l:*') }, 5), 'and gives it back');

$redis->cli('FLUSHALL');
($q, $text) = stored(1);
is(status($two->post('/v1/completions', $q->[0])), 'L2',
   'counters that begin anew');

# ---- large values ----

my %chat = (messages => [ { role => 'user', content => 'long' } ],
            max_tokens => 480, temperature => 0, logprobs => JSON::PP::true,
            top_logprobs => 20, ignore_eos => JSON::PP::true);
$n = of($one, 'stores_total');
my $r = $one->post('/v1/chat/completions', \%chat);
Infer::Redis::stored($one, $n + 1);
my @size = sort { $b <=> $a }
           map { $redis->cli('STRLEN', $_) } $redis->keys('infer:v:*');
cmp_ok($size[0], '>', 65536, 'a value of more than 64 KiB');
open_lane($two);
$n = lane();
my $r2 = $two->post('/v1/chat/completions', \%chat);
is(status($r2), 'L2', 'is found');
is_deeply($r2->{json}{choices}, $r->{json}{choices}, 'and right');
is(lane() - $n, 1, 'by the lane');

# ---- clients that leave ----

($q, $text) = stored(9);
@c = hold($q);
$c[$_]->close for 0, 3, 4, 8;
sleep 0.1;
$proxy->pass;
my @stay = (1, 2, 5, 6, 7);
@r = map { $c[$_]->response } @stay;
is(join(' ', map { status($_) } @r), 'L2 L2 L2 L2 L2',
   'some leave while they wait: the others');
is(wrong([ @$text[@stay] ], \@r), 0, 'have their own answers');

# ---- a server that means no good ----

$two->allow(qr/does not answer/);
for ([ 'garbage', "HTTP/1.1 400 Bad Request\r\n\r\n", 'failed_total' ],
     [ 'a huge length', "\$2147483647\r\n", 'oversized_total' ],
     [ 'a length beyond all', "\$9223372036854775807\r\n",
       'oversized_total' ],
     [ 'a huge array', "*2147483647\r\n", 'oversized_total' ],
     [ 'nested arrays', "*1\r\n" x 1000, 'oversized_total' ],
     [ 'an integer', ":1\r\n:2\r\n", 'failed_total' ],
     [ 'too many replies', "\$-1\r\n" x 1000, undef ],
     [ 'a counter of letters', "\$-1\r\n\$1\r\nx\r\n", 'failed_total' ])
{
    my ($what, $bytes, $counter) = @$_;
    ($q, $text) = stored(4);
    @c = hold($q);
    $n = $counter ? of($two, $counter) : 0;
    $proxy->say($bytes);
    @r = map { $_->response } @c;
    is(wrong($text, \@r), 0, "$what: all are answered");
    cmp_ok(of($two, $counter), '>', $n, 'it is counted') if $counter;
    ok(open_lane($two), 'the lane is back');
}

# ---- a connection that is lost ----

($q, $text) = stored(5);
@c = hold($q);
$n = of($two, 'failed_total');
$proxy->cut('');
@r = map { $_->response } @c;
is(join(' ', map { status($_) } @r), 'L2 L2 L2 L2 L2',
   'reset before a reply: threads ask for all');
is(wrong($text, \@r), 0, 'all are right');
is(of($two, 'failed_total') - $n, 0, 'nothing has failed');

($q, $text) = stored(5);
@c = hold($q);
$n = of($two, 'failed_total');
$proxy->cut("\$500\r\nab");
@r = map { $_->response } @c;
is(wrong($text, \@r), 0, 'reset in a reply: all are right');
is(scalar(grep { status($_) eq 'L2' } @r), 4, 'all but one from Redis');
is(of($two, 'failed_total') - $n, 1, 'one has failed');

# ---- a worker that is late itself ----

($q, $text) = stored(5);
@c = hold($q);
$n = of($two, 'failed_total');
($worker) = $two->workers;
kill 'STOP', $worker;
$proxy->pass;
sleep 3.3;
kill 'CONT', $worker;
@r = map { $_->response } @c;
is(join(' ', map { status($_) } @r), 'L2 L2 L2 L2 L2',
   'stopped for longer than the time that they have: all are there');
is(of($two, 'failed_total') - $n, 0, 'Redis is not to blame');

# ---- a reload ----

($q, $text) = stored(5);
@c = hold($q);
my @old = $two->workers;
$two->reload;
sleep 0.3;
$proxy->pass;
@r = map { $_->response } @c;
is(join(' ', map { status($_) } @r), 'L2 L2 L2 L2 L2',
   'a reload while they wait');
is(wrong($text, \@r), 0, 'all are right');
ok($two->wait_for(sub { !grep { kill 0, $_ } @old }, 10),
   'the old worker leaves');
ok(open_lane($two), 'the new one has a lane');
($worker) = $two->workers;
ok($two->wait_for(sub { Infer::Memory::fds($worker) <= $fds + 1 }, 5),
   'and no more descriptors')
    or diag(Infer::Memory::fds($worker) . " after $fds");

# with nobody in it, it is closed at once
@old = $two->workers;
$two->reload;
ok($two->wait_for(sub { !grep { kill 0, $_ } @old }, 10), 'nor waits for it');

# ---- frozen, and killed ----

my $three = $redis->node(%o, workers => 2,
                         block => 'timeout 800ms; fail_timeout 3s;');
ok(Infer::Redis::warm($three), 'two workers');
$three->wait_for(sub { open_lane($three); of($three, 'connects_total') > 3 },
                 5);
($q, $text) = stored(60);
$n = lane($three);
@r = map { $_->response } send_all($three, $q);
is(scalar(grep { status($_) eq 'L2' } @r), 60, 'sixty at once');
is(wrong($text, \@r), 0, 'are right');
cmp_ok(lane($three) - $n, '>=', 30, 'most by lanes');

$_->allow(qr/does not answer/) for $one, $three;
($q, $text) = stored(30);
$redis->freeze;
my $start = time;
@r = map { $_->response } send_all($three, $q);
is(wrong($text, \@r), 0, 'frozen while many wait: all are right');
is(scalar(grep { status($_) eq 'L2' } @r), 0, 'none from Redis');
my $slow = grep { my $t = time; $three->post('/v1/completions', $_);
                  time - $t > 0.78 }
           map { Infer::Redis::fresh() } 1 .. 10;
cmp_ok($slow, '<=', 1 + (time - $start) / 3, 'then few wait for it');
$redis->thaw;
ok(open_lane($three), 'thawed: a lane again');

$redis->stop('KILL');
is(scalar(grep { $_->{status} == 200 }
          map { $three->post('/v1/completions', Infer::Redis::fresh()) }
          1 .. 10), 10, 'killed: all are answered');
$redis->start;
ok(open_lane($three), 'started: a lane again');
$three->finish;

# ---- the next server ----

my $four = $redis->node(%o, block => 'fail_timeout 20s;', servers =>
    'server 127.0.0.1:' . Infer->free_port . '; server ' . $redis->addr . ';');
$four->allow(qr/does not answer/);
ok(open_lane($four), 'a lane to the next server, while one is passed by');
$four->finish;

$_->finish for $one, $two;
$proxy->stop;
$redis->stop;
done_testing;
