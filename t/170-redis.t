#!/usr/bin/perl
# 170-redis.t: the response cache's second tier: two nodes on one Redis, who
# shares with whom, times, purges across nodes, values that others wrote, and a
# Redis that is absent, frozen, killed, full or does not let us in.
use strict;
use warnings;
use lib 't/lib';
use List::Util qw(min);
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Redis;

plan skip_all => 'no redis-server' unless Infer::Redis::binary();

my $redis = Infer::Redis->new->start;
my $in = 'location /short/ { $IN infer_cache_valid 1s; infer_cache_scope s; }
    location /shared/ { $IN infer_cache_scope all; infer_cache_tag $arg_tag; }
    location /stale/ { $IN infer_cache_valid 2s; infer_cache_scope st;
        infer_cache_use_stale updating; }
    location /skip/ { $IN infer_no_cache 1; infer_cache_scope all; }
    location /one/ { infer m; infer_cache answers; infer_cache_scope all; }';
sub node {
    return $redis->node(server => $in,
                        in => 'add_header X-Key $infer_cache_key;', @_);
}

my %ask = (prompt => 'abc', max_tokens => 8, temperature => 0,
           ignore_eos => JSON::PP::true);
sub status { $_[0]{headers}{'x-infer-cache'} || '-' }
sub bare {
    my %j = %{ $_[0]{json} || {} };
    delete @j{qw(id created)};
    return \%j;
}
sub fresh { return Infer::Redis::fresh() }
sub ask { my ($t, $q, $path) = @_;
          return $t->post($path || '/v1/completions', $q) }
sub m_of { return Infer::Redis::of(@_) }
sub stored { return Infer::Redis::stored(@_) }
sub warm { return Infer::Redis::warm(@_) }
my $one = node();
my $two = node();
ok(warm($one) && warm($two), 'two nodes write to Redis');

# ---- hits ----

my $q = fresh();
my $n = m_of($one, 'stores_total');
my $r = ask($one, $q);
is(status($r), 'MISS', 'computed by one');
ok(stored($one, $n + 1), 'and written');
my $steps = $two->metric('ngx_infer_steps_total');
my $r2 = ask($two, $q);
is(status($r2), 'L2', 'found by the other');
is_deeply(bare($r2), bare($r), 'the same answer');
isnt($r2->{json}{id}, $r->{json}{id}, 'under an id of its own');
like($r2->{headers}{age}, qr/^\d+$/, 'with its age');
is($two->metric('ngx_infer_steps_total'), $steps, 'no engine for it');
is(status(ask($two, $q)), 'HIT', 'then it is in the first tier');
is(status(ask($two, { %$q, user => 'x' })), 'HIT', 'under any body');
my $s = $two->stream('/v1/completions', $q);
is($s->collect->{text}, $r->{json}{choices}[0]{text}, 'streamed too');

$q = { %{ fresh() }, n => 2, logprobs => 2 };
$n = m_of($one, 'stores_total');
$r = ask($one, $q);
stored($one, $n + 1);
$r2 = ask($two, $q);
is(status($r2), 'L2', 'choices and logprobs');
is_deeply(bare($r2), bare($r), 'come back');

# ---- who, and for how long ----

$q = fresh();
$n = m_of($one, 'stores_total');
$one->post('/v1/completions', $q, Authorization => 'Bearer alice');
stored($one, $n + 1);
is(status($two->post('/v1/completions', $q, Authorization => 'Bearer bob')),
   'MISS', 'another tenant');
is(status($two->post('/v1/completions', $q, Authorization => 'Bearer alice')),
   'L2', 'the same');

$q = fresh();
$n = m_of($one, 'stores_total');
ask($one, $q, '/short/completions');
stored($one, $n + 1);
my $ttl = min(map { $redis->cli('PTTL', $_) } $redis->keys('infer:v:*'));
cmp_ok($ttl, '<=', 1000, 'Redis forgets with the answer');
is(status(ask($two, $q, '/short/completions')), 'L2', 'a short life');
sleep 1.2;
is(status(ask($two, $q, '/short/completions')), 'MISS', 'over in both tiers');

$q = fresh();
ask($one, $q, '/stale/completions');
sleep 2.2;
$n = m_of($one, 'stores_total');
is(status(ask($one, $q, '/stale/completions')), 'STALE', 'past its time');
ok(stored($one, $n + 1), 'what a refresh made is written');
is(status(ask($two, $q, '/stale/completions')), 'L2', 'and found');

$n = m_of($one, 'stores_total');
ask($one, fresh(), '/skip/completions');
ask($one, fresh(), '/one/completions');
sleep 0.2;
is(m_of($one, 'stores_total'), $n, 'infer_no_cache, and without redis=');

# ---- purges ----

my $tagged = sub {
    my ($t, $tag) = @_;
    return status(ask($t, { %ask, prompt => "tag $tag" },
                      "/shared/completions?tag=$tag"));
};
$n = m_of($one, 'stores_total');
$tagged->($one, $_) for 1, 2;
stored($one, $n + 2);
is(join(' ', map { $tagged->($two, $_) } 1, 2, 1, 2), 'L2 L2 HIT HIT',
   'two tags on both nodes');
$r = $one->post('/purge?tag=1', {});
is($r->{status}, 200, 'a purge');
is_deeply($r->{json}, { purged => JSON::PP::true }, 'was done');
is($tagged->($one, 2), 'HIT', 'the other tag stays');
ok($two->wait_for(sub { $tagged->($two, 1) eq 'MISS' }, 5),
   'another node hears of it');
is($tagged->($two, 2), 'HIT', 'and keeps what was not purged');
is($tagged->($one, 1), 'L2', 'what came afterwards is good');

$q = fresh();
$n = m_of($one, 'stores_total');
ask($one, $q);
stored($one, $n + 1);
is(status(ask($two, $q)), 'L2', 'before a purge of all');
is($two->post('/purge?all', {})->{status}, 200, 'from the other node');
ok($one->wait_for(sub { status(ask($one, $q)) ne 'HIT' }, 5),
   'all are gone everywhere');

($q, my $other) = (fresh(), fresh());
$n = m_of($one, 'stores_total');
$r = ask($one, $_) for $other, $q;
stored($one, $n + 2);
is(status(ask($two, $_)), 'L2', 'two answers') for $q, $other;
my $key = $r->{headers}{'x-key'};
is($two->post('/v1/completions', $q)->{headers}{'x-key'}, $key,
   'a key is the same on all nodes');
is($one->post("/purge?key=$key", {})->{status}, 200, 'one is purged by it');
ok($two->wait_for(sub { status(ask($two, $q)) eq 'MISS' }, 5),
   'is gone on the other node');
is(status(ask($two, $other)), 'HIT', 'it alone');

# ---- FLUSHALL ----

$q = fresh();
$n = m_of($one, 'stores_total');
ask($one, $q);
stored($one, $n + 1);
$redis->cli('COPY', $_, "old:$_") for $redis->keys('infer:v:*');
my @old = $redis->keys('old:*');
$redis->cli('DEL', $redis->keys('infer:*'));
$redis->cli('RENAME', $_, substr $_, 4) for @old;
is(status(ask($two, $q)), 'MISS', 'lost epochs do not make old values good');
$redis->cli('FLUSHALL');
is(status(ask($two, fresh())), 'MISS', 'after FLUSHALL');
$q = fresh();
$n = m_of($one, 'stores_total');
ask($one, $q);
stored($one, $n + 1);
is(status(ask($two, $q)), 'L2', 'it goes on');

# ---- values that others wrote ----

my $put = sub {
    my ($how) = @_;
    $redis->cli('FLUSHALL');
    my $q = fresh();
    my $n = m_of($one, 'stores_total');
    my $r = ask($one, $q);
    stored($one, $n + 1);
    my ($key) = $redis->keys('infer:v:*');
    $how->($key);
    my $bad = m_of($two, 'foreign_total') + m_of($two, 'errors_total');
    my $r2 = ask($two, $q);
    is_deeply(bare($r2), bare($r), 'a right answer all the same');
    return status($r2) . ' ' . (m_of($two, 'foreign_total')
                                + m_of($two, 'errors_total') - $bad);
};
is($put->(sub { $redis->cli('SETRANGE', $_[0], 60, 'XXXX') }), 'MISS 1',
   'a corrupted value');
is($put->(sub { $redis->cli('SET', $_[0], substr $redis->cli('GET', $_[0]),
                            0, 40) }), 'MISS 1', 'a truncated one');
is($put->(sub { $redis->cli('SET', $_[0], 'hello') }), 'MISS 1',
   'a foreign one');
is($put->(sub { $redis->cli('SET', $_[0], '') }), 'MISS 1', 'an empty one');
is($put->(sub { $redis->cli('DEL', $_[0]);
                $redis->cli('LPUSH', $_[0], 1) }), 'MISS 1',
   'another type');
is($put->(sub {
    my ($mine) = @_;
    my $n = m_of($one, 'stores_total');
    ask($one, fresh());
    stored($one, $n + 1);
    my ($other) = grep { $_ ne $mine } $redis->keys('infer:v:*');
    $redis->cli('COPY', $other, $mine, 'REPLACE');
}), 'MISS 1', 'one under another key');

my $c = node(secret => 'y' x 40);
ok(warm($c), 'a node with another secret');
$q = fresh();
ask($c, $q);
is(status(ask($two, $q)), 'MISS', 'shares nothing');
$c->finish;

chmod 0644, "$one->{dir}/secret";
my ($rc, $out) = $one->nginx('-t');
is($rc, 0, 'a secret that everybody can read');
like($out, qr/\[warn\].*secret" holds a secret and can be read by everybody/,
     'is a warning');
chmod 0600, "$one->{dir}/secret";

# ---- a Redis that is not there ----

my $missing = Infer->free_port;
$c = node(servers => "server 127.0.0.1:$missing;");
$c->allow(qr/does not answer/);
my $good = grep { $_->{status} == 200 } map { ask($c, fresh()) } 1 .. 20;
is($good, 20, 'no Redis: nobody notices');
# once the engine knows the model's content
ok($c->wait_for(sub { ask($c, fresh()); m_of($c, 'errors_total') >= 10 }, 20),
   'but it is counted');
is($c->post('/purge?all', {})->{status}, 502, 'a purge says so');
$c->finish;

$c = node(servers => "server 127.0.0.1:$missing; server unix:"
                     . $redis->socket . ';');
$c->allow(qr/does not answer/);
ok(warm($c), 'the next server takes over, by its unix socket');
$c->finish;

# ---- frozen ----

$_->allow(qr/does not answer/, qr/read by everybody/) for $one, $two;
$redis->freeze;
my ($failed, $start) = (m_of($one, 'failed_total'), time);
$good = grep { $_->{status} == 200 } map { ask($one, fresh()) } 1 .. 30;
is($good, 30, 'frozen: all are answered');
# three to open the breaker, perhaps a poll beside them, then one a second
cmp_ok(m_of($one, 'failed_total') - $failed, '<=', 5 + time - $start,
       'few wait for it');
$start = time;
my @c = map { my $c = $one->client;
              $c->send('POST', '/v1/completions', fresh()); $c } 1 .. 20;
is($one->post('/v1/tokenize', { content => 'abc' })->{status}, 200,
   'tokenizing goes on');
cmp_ok(time - $start, '<', 2, 'at once');
is(scalar(grep { $_->response->{status} == 200 } @c), 20, 'many at once too');
@c = map { my $c = $one->client;
           $c->send('POST', '/v1/completions', fresh()); $c } 1 .. 10;
sleep 0.02;
$_->close for @c;
$redis->thaw;
ok(warm($one), 'thawed: used again');

# ---- killed and back ----

$redis->stop('KILL');
$good = grep { $_->{status} == 200 } map { ask($one, fresh()) } 1 .. 10;
is($good, 10, 'killed: all are answered');
$redis->start;
ok(warm($one), 'back: used again');

# ---- full ----

$redis->cli('CONFIG', 'SET', 'maxmemory', '100kb');
$redis->cli('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
$n = m_of($one, 'store_errors_total');
$good = grep { $_->{status} == 200 } map { ask($one, fresh()) } 1 .. 5;
is($good, 5, 'out of memory: all are answered');
ok($one->wait_for(sub { m_of($one, 'store_errors_total')
                      + m_of($one, 'dropped_total') > $n }, 5),
   'what could not be stored is counted');
$redis->cli('CONFIG', 'SET', 'maxmemory', '0');

# ---- who is let in ----

$redis->cli('ACL', 'SETUSER', 'app', 'on', '>pass word', '~infer:*',
            '+get', '+set', '+incr', '+eval', '+pexpire', '+del');
$redis->cli('CONFIG', 'SET', 'requirepass', 'hidden');
$redis->{auth} = [ '-a', 'hidden' ];
for ([ 'password hidden;', 1, 'a password' ],
     [ 'user app; password "pass word";', 1, 'a user of an ACL' ],
     [ 'password wrong;', 0, 'a wrong password' ],
     [ '', 0, 'none' ])
{
    my ($block, $good, $what) = @$_;
    $c = node(block => "$block timeout 200ms; fail_timeout 1s;");
    $c->allow(qr/does not answer/) if !$good;
    if ($good) {
        ok(warm($c), "$what: let in");
    } else {
        is(ask($c, fresh())->{status}, 200, "$what: answered");
        cmp_ok($c->wait_for(sub { ask($c, fresh());
                                  m_of($c, 'errors_total') }, 5), '>', 0,
               'but not let in');
        like($c->log, qr/"shared" does not answer: it refuses the user/,
             'and the log says why');
    }
    $c->finish;
}
$redis->cli('CONFIG', 'SET', 'requirepass', '');
delete $redis->{auth};

# ---- reload, killed workers ----

sleep 1.2;
$redis->freeze;
@c = map { my $c = $one->client;
           $c->send('POST', '/v1/completions', fresh()); $c } 1 .. 8;
sleep 0.05;
$one->reload;
$redis->thaw;
is(scalar(grep { $_->response->{status} == 200 } @c), 8,
   'a reload with jobs under way');
$one->allow(qr/exited on signal 9/, qr/infer cache "answers" lost/);
$redis->freeze;
@c = map { my $c = $one->client;
           $c->send('POST', '/v1/completions', fresh()); $c } 1 .. 4;
sleep 0.05;
my ($w) = $one->workers;
kill 'KILL', $w;
$redis->thaw;
ok($one->wait_for(sub { my $r = eval { ask($one, fresh()) };
                      $r && $r->{status} == 200 }, 10),
   'a killed worker: the next goes on');

$_->finish for $one, $two;
$redis->stop;
done_testing;
