#!/usr/bin/perl
# 163-refresh.t: old answers served at once while a refresh without a client
# makes the new one; hot answers refreshed before their end; joins, low
# priority, bounds, failures, a killed worker and engine, reloads; nothing is
# left behind.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Memory;
use Infer::Same;

my %ask = asked(max_tokens => Infer::emulated() ? 40 : 100, temperature => 0,
                ignore_eos => JSON::PP::true);

sub status { $_[0]{headers}{'x-infer-cache'} || '-' }

my $t = Infer->new(model => 'slow',
    model_extra => 'context 1024; sequences 1;',
    http => 'infer_cache_zone answers 4m; infer_cache answers;
             infer_cache_scope all; infer_cache_valid 1s;
             infer_cache_use_stale updating;',
    server => 'location /plain/ { infer m; infer_cache off; }
               location /short/ { infer m; infer_timeout total=60ms; }
               location /full/ { infer m; infer_queue length=1; }
               location /no/ { infer m; infer_no_cache 1; }
               location /wait/ { infer m; infer_cache_use_stale off; }')->start;

sub count {
    my ($what) = @_;
    my $r = $t->get('/metrics');
    return $r->{body} =~ /^ngx_infer_cache_refreshes_total\{cache="answers",
                          result="$what"\}\ (\d+)$/mx ? $1 : undef;
}

sub counts { join ' ', map { count($_) } qw(started done failed) }

sub free {
    return $t->wait_for(sub { my $n = eval { $t->metric('ngx_infer_slots_used') };
                              defined $n && $n == 0 }, 20);
}

sub ask {
    my ($prompt, $where, %more) = @_;
    return $t->post(($where || '/v1') . '/completions',
                    { %ask, prompt => $prompt, %more });
}

# ---- served at once, and new the next time ----

my $was = ask('a');
is(status($was), 'MISS', 'an answer');
my $text = $was->{json}{choices}[0]{text};
sleep 1.1;
my $start = time;
my @r = map { ask('a') } 1 .. 3;
cmp_ok(time - $start, '<', 0.4, 'old ones come at once');
is(join(' ', map { status($_) } @r), 'STALE STALE STALE', 'and say so');
is($r[0]{headers}{warning}, '110 - "Response is Stale"', 'with a Warning');
is($r[2]{json}{choices}[0]{text}, $text, 'the answer');
is(counts(), '1 0 0', 'one refresh runs for all');
is($t->metric('ngx_infer_cache_stale_served_total') // '', '0', 'no error');
ok($t->wait_for(sub { count('done') == 1 }), 'it ends');
my $new = ask('a');
is(status($new), 'HIT', 'the next one gets the new answer');
is($new->{headers}{age}, 0, 'which is new');
is($new->{json}{choices}[0]{text}, $text, 'and the same');
ok(free(), 'no slot is left');

# streamed, choices and logprobs, by body: from the same machinery
my %n = (%ask, prompt => 'n', n => 2, logprobs => 2, max_tokens => 20);
my $n = $t->post('/v1/completions', \%n);
sleep 1.1;
is(status($t->post('/v1/completions', \%n)), 'STALE', 'two choices');
is(status($t->post('/v1/completions', \%n)), 'STALE', 'again');
ok($t->wait_for(sub { count('done') == 2 }), 'both are refreshed');
is(counts(), '2 2 0', 'once');
my $again = $t->post('/v1/completions', \%n);
is(status($again), 'HIT', 'they are new');
is_deeply($again->{json}{choices}, $n->{json}{choices}, 'and the same');
my $s = $t->stream('/v1/completions', { %ask, prompt => 'a' });
my $r = $s->collect;
is($s->{headers}{'x-infer-cache'}, 'STALE', 'a stream, old');
is($r->{text}, $text, 'with all of its text');
ok($t->wait_for(sub { count('done') == 3 }), 'refreshed');

# one that is not to be kept starts none
sleep 1.1;
is(status(ask('a', '/no')), 'EXPIRED', 'infer_no_cache: a new answer');
is(counts(), '3 3 0', 'and no refresh');

# ---- joined ----

is(status(ask('a')), 'STALE', 'a refresh begins');
my $j = ask('a', '/wait');
is(status($j), 'JOIN', 'who waits for a new answer reads along');
is($j->{json}{choices}[0]{text}, $text, 'from its start');
ok($t->wait_for(sub { count('done') == 4 }), 'both get it');

# ---- others go first ----

my $busy = $t->stream('/plain/completions',
                      { %ask, prompt => 'busy',
                        max_tokens => Infer::emulated() ? 250 : 900 });
$busy->event;
sleep 1.1;
is(status(ask('a')), 'STALE', 'a refresh waits');
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_waiting') == 1 }, 5),
   'behind what runs');
my $c = $t->client;
$c->send('POST', '/plain/completions', { %ask, prompt => 'later',
                                         max_tokens => 5 });
my $first = $c->response;
is($first->{status}, 200, 'a client that came later');
is(count('done'), 4, 'goes before it');
$busy->close;
ok($t->wait_for(sub { count('done') == 5 }), 'then it runs');

# ---- bounds: 4 of 64 slots a worker; and none where the queue is full ----

my @p = map { "p$_" } 1 .. 14;
$t->post('/v1/completions', { %ask, prompt => $_, max_tokens => 2 }) for @p;
$busy = $t->stream('/plain/completions', { %ask, prompt => 'busy',
                                           max_tokens => 900 });
$busy->event;
sleep 1.1;
my @old = map { $t->post('/v1/completions',
                         { %ask, prompt => $_, max_tokens => 2 }) } @p;
is(scalar(grep { status($_) eq 'STALE' } @old), 14, 'all get the old answer');
my $begun = count('started') - 5;
cmp_ok($begun, '>=', 1, "refreshes run ($begun)");
cmp_ok($begun, '<=', 8, 'no more than 4 on each worker');
is(status(ask('a', '/full')), 'STALE', 'a full queue');
is(count('started') - 5, $begun, 'takes none');
$busy->close;
ok($t->wait_for(sub { count('done') == 5 + $begun }), 'they end');
ok(free(), 'no slot is left');

# ---- one that fails ----

sleep 1.1;
ask('slow');
sleep 1.1;
$t->post('/short/completions', { %ask, prompt => 'slow' });
ok($t->wait_for(sub { count('failed') == 1 }), 'a refresh out of time');
is(status($t->post('/short/completions', { %ask, prompt => 'slow' })),
   'STALE', 'costs nobody anything');
ok(free(), 'no slot is left');

# ---- the engine dies under one, and goes on with it ----

$t->allow(qr/infer engine/);
sleep 1.1;
ask('a');
my $done = count('done');
$t->wait_for(sub { $t->metric('ngx_infer_requests_running') == 1 }, 5);
kill 'KILL', $t->engine;
ok($t->wait_for(sub { my $d = eval { count('done') };
                      defined $d && $d > $done }, 20),
   'the engine dies: the next one ends it');
same([ whole(ask('a')) ], [ whole($was) ], 'with the same answer');

# ---- a worker dies with one; a reload leaves none ----

$t->allow(qr/exited on signal 9/);
for my $how ('killed', 'reload') {
    my @k = map { [ $_, '/v1', max_tokens => Infer::emulated() ? 100 : 400 ] }
            'k1', 'k2';
    ask(@$_) for @k;
    sleep 1.2;
    ask(@$_) for @k;
    ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') >= 1 }, 5),
       "$how: refreshes run");
    my @w = $t->workers;
    if ($how eq 'killed') {
        kill 'KILL', @w;
        $t->wait_for(sub { my @n = $t->workers;
                           @n == 2 && !grep { my $p = $_;
                                              grep { $p == $_ } @w } @n });
    } else {
        $start = time;
        $t->reload;
        ok($t->wait_for(sub { !grep { Infer::alive($_) } @w }, 5),
           'workers do not stay for them');
    }
    ok(free(), "$how: no slot is left");
    my $r = ask(@{ $k[0] });
    like(status($r), qr/^(?:STALE|EXPIRED|HIT)$/, "$how: it is answered");
    is($r->{status}, 200, "$how: well");
}
free();

# ---- 200 of them leave nothing ----

my $rounds = $ENV{INFER_SHORT} ? 5 : 40;
$t->stop;
$t->{location} = 'infer m; infer_cache_valid 200ms;';
$t->{workers} = 1;
$t->start;
my %tiny = (%ask, max_tokens => 1);
my $refresh = sub {
    $t->post('/v1/completions', { %tiny, prompt => "x$_" }) for 1 .. 4;
    sleep 0.25;
    $t->post('/v1/completions', { %tiny, prompt => "x$_" }) for 1 .. 4;
    $t->wait_for(sub { count('started') == count('done') + count('failed') },
                 10);
};
$refresh->() for 1 .. 5;
my ($worker) = $t->workers;
my ($m, $f) = (Infer::Memory::own($worker), Infer::Memory::fds($worker));
$refresh->() for 1 .. $rounds;
my $grown = Infer::Memory::own($worker) - $m;
cmp_ok(count('done'), '>=', $rounds * 3, count('done') . ' refreshes');
is(count('failed'), 0, 'none failed');
SKIP: {
    skip 'ASan keeps what is freed', 1 if $ENV{INFER_PRELOAD};
    cmp_ok($grown, '<', 300, "the worker's memory: $grown KiB more");
}
cmp_ok(Infer::Memory::fds($worker), '<=', $f + 1, 'its descriptors: no more');
ok(free(), 'no slot is left');
$t->none_left('ngx_infer_blocks_used', 'no block');

# ---- ahead of the end ----

$t->stop;
$t->{location} = 'infer m; infer_cache_valid 10s; infer_cache_use_stale off;
                  infer_cache_refresh on;';
$t->start;
%ask = (%ask, max_tokens => 2);
ask($_) for 'cold', 'hot';
my $made = time;
sub until_age { my $s = $made + $_[0] - time; sleep $s if $s > 0; return }
ask('hot') for 1 .. 12;
is(counts(), '0 0 0', 'while it is far from its end, nothing');
until_age(9.2);
is(status(ask('cold')), 'HIT', 'one that is rare, near its end');
is(counts(), '0 0 0', 'comes to its end');
is(status(ask('hot')), 'HIT', 'a hot one');
is(status(ask('hot')), 'HIT', 'again');
is(count('started'), 1, 'is refreshed, once');
ok($t->wait_for(sub { count('done') == 1 }), 'in the background');
until_age(10.2);
is(status(ask('hot')), 'HIT', 'past its time it is still a hit');
is(status(ask('cold')), 'MISS', 'the rare one is not');
$t->finish;
done_testing;
