#!/usr/bin/perl
# 174-redis-stale.t: what is written to the second tier besides what was
# missed there: answers asked for past the cache, and refreshes; values past
# their time that any node may send, and purges that end them.
use strict;
use warnings;
use lib 't/lib';
use File::Temp qw(tempdir);
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Redis;

plan skip_all => 'no redis-server' unless Infer::Redis::binary();

# an engine that does not come up while a file is there
my $dir = tempdir('ngx_infer_broken_XXXXXX', TMPDIR => 1, CLEANUP => 1);
chmod 0755, $dir;
open my $c, '>', "$dir/broken.c" or die $!;
print $c <<"EOC";
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void
broken(int argc, char **argv)
{
    if (access("$dir/broken", F_OK) == 0
        && !(argc > 1 && strcmp(argv[1], "--check") == 0))
    {
        _exit(7);
    }
}
EOC
close $c;
system("cc -shared -fPIC -o $dir/broken.so $dir/broken.c") == 0 or die 'cc';
# a sanitizer's runtime has to come first
my $preload = join ':', grep { defined } $ENV{INFER_PRELOAD}, "$dir/broken.so";

my $redis = Infer::Redis->new->start;
my $in = 'location /by/ { $IN infer_cache_bypass $arg_past; }
    location /no/ { $IN infer_no_cache 1; }
    location /hot/ { $IN infer_cache_valid 6s; infer_cache_refresh on; }
    location /old/ { $IN infer_cache_valid 1s; infer_cache_tag $arg_tag;
        infer_cache_use_stale error for=10m; }
    location /brief/ { $IN infer_cache_valid 1s;
        infer_cache_use_stale error for=1s; }
    location /none/ { $IN infer_cache_valid 1s; }
    location /wait/ { $IN infer_cache_valid 1s; infer_timeout queue=300ms;
        infer_cache_use_stale timeout; }
    location /full/ { $IN infer_cache_valid 1s; infer_queue length=1;
        infer_cache_use_stale overload; }
    location /new/ { $IN infer_cache_valid 1s;
        infer_cache_use_stale updating; }
    location /lock/ { $IN infer_cache_valid 1s; infer_cache_lock on;
        infer_cache_use_stale updating; }
    location /plain/ { infer m; }';
my ($one, $two) = map { $redis->node(server => $in,
    model_extra => 'sequences 1;', block => 'timeout 1s; fail_timeout 1s;',
    engine => "threads=1 env=LD_PRELOAD=$preload",
    in => 'add_header X-Key $infer_cache_key;') } 1 .. 2;
ok(Infer::Redis::warm($_), 'a node writes to Redis') for $one, $two;
$two->allow(qr/infer engine/, qr/infer answers from \d+ s ago/,
            qr/infer deadline passed without the engine/,
            qr/infer answers (?:429|503)/);

sub status { $_[0]{headers}{'x-infer-cache'} || '-' }
sub bare {
    my %j = %{ $_[0]{json} || {} };
    delete @j{qw(id created)};
    return \%j;
}
sub of { return Infer::Redis::of(@_) }
sub fresh { return Infer::Redis::fresh(@_) }
sub ask { my ($t, $q, $path, %h) = @_;
          return $t->post(($path || '/v1') . '/completions', $q, %h) }
sub put { my ($q, $path, %h) = @_;             # by one, and it is in Redis
          my $n = of($one, 'stores_total');
          my $r = ask($one, $q, $path, %h);
          ok(Infer::Redis::stored($one, $n + 1), 'written');
          return $r }

# old on node two: the same, and said so
sub stale {
    my ($r, $was, $what, $code) = @_;
    $code ||= '111 - "Revalidation Failed"';
    is("$r->{status} " . status($r), '200 STALE', $what);
    is_deeply(bare($r), bare($was), "$what: the same answer");
    is($r->{headers}{warning}, $code, "$what: Warning");
    cmp_ok($r->{headers}{age} || 0, '>=', 1, "$what: Age");
    return;
}

# ---- past the cache ----

my $q = fresh();
my $r = put($q, '/v1', 'Cache-Control' => 'no-cache');
is(status($r), 'BYPASS', 'Cache-Control: no-cache');
my $r2 = ask($two, $q);
is(status($r2), 'L2', 'is found by another node');
is_deeply(bare($r2), bare($r), 'the same answer');
sleep 0.5;
my $ttl = $redis->cli('PTTL', "infer:v:$r->{headers}{'x-key'}");
put($q, '/v1', 'Cache-Control' => 'no-cache');
cmp_ok($redis->cli('PTTL', "infer:v:$r->{headers}{'x-key'}"), '>', $ttl + 300,
       'written again, for its whole time');

$q = fresh();
my $n = of($one, 'stores_total');
is(status($one->post('/by/completions?past=1', $q)), 'BYPASS',
   'infer_cache_bypass');
ok(Infer::Redis::stored($one, $n + 1), 'is written');
is(status(ask($two, $q)), 'L2', 'and found');

$n = of($one, 'stores_total');
ask($one, fresh(), '/v1', 'Cache-Control' => 'no-store');
ask($one, fresh(), '/no', 'Cache-Control' => 'no-cache');
sleep 0.3;
is(of($one, 'stores_total'), $n, 'not where it is not to be kept');

$one->allow(qr/does not answer/);
$two->allow(qr/does not answer/);
$redis->freeze;
my $start = time;
is(ask($one, fresh(max_tokens => 1), '/v1',
       'Cache-Control' => 'no-cache')->{status}, 200, 'a frozen Redis');
# a look-up would take its whole time, a second
cmp_ok(time - $start, '<', 0.7, 'is not waited for');
$redis->thaw;
ok(Infer::Redis::warm($_), 'it goes on') for $one, $two;

# ---- a hot answer, made anew before its end ----

$q = fresh(max_tokens => 1);
my $made = time;
put($q, '/hot');
ask($one, $q, '/hot') for 1 .. 12;
sleep $made + 5.4 - time if time < $made + 5.4;
$n = of($one, 'stores_total');
while (of($one, 'stores_total') == $n && time < $made + 6.5) {
    ask($one, $q, '/hot');
    sleep 0.05;
}
is(of($one, 'stores_total'), $n + 1, 'a refresh ahead of the end is written');
$r = ask($two, $q, '/hot');
is(status($r), 'L2', 'found by another node');
cmp_ok($r->{headers}{age}, '<', 3, 'the new one');

# ---- past their time ----

my %old = map { $_ => fresh() } qw(a b c gone tag wait full off both);
my %was = map { $_ => put($old{$_}, '/old') } qw(a b c both);
$was{gone} = put($old{gone}, '/brief');
$was{off} = put($old{off}, '/old');
my %where = (wait => '/wait', full => '/full');
$was{$_} = put($old{$_}, $where{$_}) for keys %where;
$n = of($one, 'stores_total');
$was{tag} = $one->post('/old/completions?tag=t', $old{tag});
Infer::Redis::stored($one, $n + 1);

$ttl = $redis->cli('PTTL', "infer:v:$was{tag}{headers}{'x-key'}");
cmp_ok($ttl, '>', 1000, 'kept beyond its time');
cmp_ok($ttl, '<=', 601000, 'as long as the location says');
sleep 1.2;

is(status($r = ask($two, $old{off}, '/none')), 'EXPIRED',
   'without infer_cache_use_stale a miss');
is_deeply(bare($r), bare($was{off}), 'made anew');
is(status(ask($two, $old{both}, '/old')), 'EXPIRED',
   'nor one while the engine runs');

# ---- an engine that hangs, a queue that is full ----

kill 'STOP', my $engine = $two->engine;
stale(ask($two, $old{wait}, '/wait'), $was{wait}, 'a timeout');
my @busy = map { my $b = $two->client;
                 $b->send('POST', '/plain/completions', fresh()); $b } 1 .. 2;
$two->wait_for(sub { $two->metric('ngx_infer_requests_waiting') == 2 }, 5);
stale(ask($two, $old{full}, '/full'), $was{full}, 'a full queue');
kill 'CONT', $engine;
$_->response for @busy;

# ---- no engine ----

open my $f, '>', "$dir/broken" or die $!;
close $f;
kill 'KILL', $two->engine;
ok($two->wait_for(sub { $two->get('/v1/health/ready')->{status} != 200 }, 5),
   'an engine that is down');
$start = time;
stale(ask($two, $old{a}, '/old'), $was{a}, 'an old value');
cmp_ok(time - $start, '<', 0.5, 'at once');
stale(ask($two, { %{ $old{a} }, user => 'x' }, '/old'), $was{a},
      'under another body');
my $s = $two->stream('/old/completions', $old{b});
is($s->collect->{text}, $was{b}{json}{choices}[0]{text}, 'streamed');
is($s->{headers}{'x-infer-cache'}, 'STALE', 'and said so');
$r = $two->post('/old/completions?tag=t', $old{tag});
stale($r, $was{tag}, 'one with a tag');
is(ask($two, $old{gone}, '/brief')->{status}, 503, 'for= is over');

is($one->post('/purge?tag=t', {})->{status}, 200, 'a purge of the tag');
is($two->post('/old/completions?tag=t', $old{tag})->{status}, 503,
   'ends it, at once and everywhere');
stale(ask($two, $old{a}, '/old'), $was{a}, 'others stay');
my $key = $was{a}{headers}{'x-key'};
is($redis->cli('EXISTS', "infer:v:$key"), 1, 'one that is in Redis');
is($one->post("/purge?key=$key", {})->{status}, 200, 'a purge of its key');
is($redis->cli('EXISTS', "infer:v:$key"), 0, 'takes it out');
is(ask($two, $old{a}, '/old')->{status}, 503, 'it does not stand in');
stale(ask($two, $old{c}, '/old'), $was{c}, 'another does');
is($one->post('/purge?all', {})->{status}, 200, 'a purge of all');
is(ask($two, $old{c}, '/old')->{status}, 503, 'ends all');

unlink "$dir/broken";
ok($two->wait_ready(40), 'the engine comes up');
is(status(ask($two, $old{c}, '/old')), 'MISS', 'what was purged is made anew');

# ---- while a new one is made ----

for my $path ('/new', '/lock') {
    $q = fresh();
    $r = put($q, $path);
    sleep 1.2;
    $n = of($two, 'stores_total');
    stale(ask($two, $q, $path), $r, "updating, $path",
          '110 - "Response is Stale"');
    ok(Infer::Redis::stored($two, $n + 1), 'the refresh is written');
    like(status(ask($two, $q, $path)), qr/^(?:HIT|L2)$/, 'and sent');
    is_deeply([ $redis->keys('infer:l:*') ], [], 'no lock is left');
}

# ---- a key, where both nodes have it ----

$q = fresh();
$r = put($q);
is(status(ask($two, $q)), 'L2', 'an answer');
is(status(ask($two, $q)), 'HIT', 'in both first tiers');
$key = $r->{headers}{'x-key'};
is($one->post("/purge?key=$key", {})->{status}, 200, 'purged by its key');
is($redis->cli('EXISTS', "infer:v:$key"), 0, 'goes from Redis');
ok($two->wait_for(sub { status(ask($two, $q)) eq 'MISS' }, 3),
   'and from the other node soon');

$_->finish for $one, $two;
$redis->stop;
done_testing;
