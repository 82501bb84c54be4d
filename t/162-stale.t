#!/usr/bin/perl
# 162-stale.t: infer_cache_use_stale: an old answer instead of a timeout, a
# full queue, an engine that is down or a generation that failed; whole and
# streamed, by canonical request and by body; never after headers.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;

my $poison = Infer::build_dir() . '/poison/ngx_infer_engine';
my %ask = (max_tokens => 6, temperature => 0, ignore_eos => JSON::PP::true);
my %long = (%ask, prompt => 'busy', max_tokens => 1900);

sub status { $_[0]{headers}{'x-infer-cache'} || '-' }

sub bare {
    my %j = %{ $_[0]{json} || {} };
    delete @j{qw(id created)};
    return \%j;
}

# one that is answered from before: the same, and said so
sub stale {
    my ($r, $was, $what, $code) = @_;
    $code ||= '111 - "Revalidation Failed"';
    is($r->{status} . ' ' . status($r), '200 STALE', $what);
    is_deeply(bare($r), bare($was), "$what: the same answer");
    is($r->{headers}{warning}, $code, "$what: Warning");
    cmp_ok($r->{headers}{age} || 0, '>=', 1, "$what: Age");
    return;
}

my $t = Infer->new(model => 'slow', workers => 1,
    model_extra => 'context 2048; sequences 1;',
    main => 'thread_pool narrow threads=1 max_queue=1;',
    http => 'infer_cache_zone answers 4m; infer_cache answers;
             infer_cache_scope all; infer_cache_valid 1s;
             client_max_body_size 64m; client_body_buffer_size 64m;
             infer_cache_use_stale timeout overload error for=1h;',
    server => 'location /none/ { infer m; infer_cache_use_stale off; }
               location /plain/ { infer m; infer_cache off; }
               location /brief/ { infer m;
                   infer_cache_use_stale error for=1s; }
               location /queue/ { infer m; infer_timeout queue=300ms; }
               # its pages are its own: a prompt of two steps again
               location /first/ { infer m; infer_timeout first=1ms;
                   infer_prefix_scope first; }
               location /total/ { infer m; infer_timeout total=150ms; }
               # time for the first token wherever it runs
               location /begun/ { infer m; infer_timeout total=1s; }
               location /full/ { infer m; infer_queue length=1; }
               location /error/ { infer m; infer_timeout total=150ms;
                   infer_cache_use_stale error; }
               location /narrow/ { infer m; infer_thread_pool narrow; }',
)->start;
$t->allow(qr/infer answers from \d+ s ago/, qr/infer answers 50[34]:/,
          qr/infer answers 429/, qr/infer stream ends with an error/);

sub free {
    return $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 20);
}

sub counted {
    my ($cause) = @_;
    my $r = $t->get('/metrics');
    return $r->{body} =~ /^ngx_infer_cache_stale_served_total\{cache="answers",
                          cause="$cause"\}\ (\d+)$/mx ? $1 : undef;
}

# ---- what is old, and what is not kept ----

my %q = (%ask, prompt => 'q');
my %w = (%ask, prompt => 'word ' x 300);
my %l = (%ask, prompt => 'l', max_tokens => Infer::tokens(1000));
my $q = $t->post('/v1/completions', \%q);
is(status($q), 'MISS', 'an answer');
is(status($t->post('/v1/completions', \%q)), 'HIT', 'its page, too');
my ($w, $l) = map { $t->post('/v1/completions', $_) } \%w, \%l,
                  { %ask, prompt => 'b' };
is(status($t->post('/brief/completions', { %ask, prompt => 'c' })), 'MISS',
   'one for a short time');
sleep 1.2;
is(status($t->post('/none/completions', { %ask, prompt => 'b' })), 'EXPIRED',
   'old, and made anew');
is(status($t->post('/none/completions', { %ask, prompt => 'b' })), 'HIT',
   'then it is good again');
is(counted($_), 0, "none stood in for $_") for qw(error timeout overload);

# ---- timeouts ----

my $busy = $t->stream('/plain/completions', \%long);
$busy->event;
stale($t->post('/queue/completions', \%q), $q, 'queue time');
my $s = $t->stream('/queue/completions', \%q);
my $r = $s->collect;
is($r->{text}, $q->{json}{choices}[0]{text}, 'queue time, streamed');
is($s->{headers}{'x-infer-cache'}, 'STALE', 'it says so');
is($r->{done}, 1, 'to its end');
is($t->post('/queue/completions', { %q, prompt => 'new' })->{status}, 503,
   'without an old answer: 503');
is(counted('timeout'), 2, 'both are counted');

# ---- full queues ----

my $second = $t->stream('/plain/completions', \%long);
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_waiting') == 1 }, 5),
   'one waits');
stale($t->post('/full/completions', \%q), $q, 'a full queue');
is($t->post('/full/completions', { %q, prompt => 'new' })->{status}, 429,
   'without an old answer: 429');
is($t->metric('ngx_infer_rejected_total{code="429"}') || 1, 1,
   'which alone counts as one');

my @many = map { $t->stream('/plain/completions', { %long, prompt => "m$_" }) }
           1 .. 62;
ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 64 }, 10),
   'every slot is taken');
stale($t->post('/v1/completions', \%q), $q, 'no slot');
is($t->post('/v1/completions', { %q, prompt => 'new' })->{status}, 503,
   'without an old answer: 503');
$_->close for @many, $second, $busy;
ok(free(), 'all are gone');

# the page alone, since nothing can be tokenized
my @big = map { my $c = $t->client;
                $c->send('POST', '/narrow/tokenize',
                         { content => 'lorem ipsum ' x 1_500_000 }); $c } 1 .. 3;
$t->wait_for(sub { $t->log =~ /thread pool .* queue overflow/ }, 20);
$t->allow(qr/thread pool "narrow" queue overflow/);
stale($t->post('/narrow/completions', \%q), $q, 'no thread');
is(counted('overload'), 3, 'all are counted');
$_->close for @big;

# ---- first token and total time ----

stale($t->post('/first/completions', \%w), $w, 'time to the first token');
stale($t->post('/total/completions', \%l), $l, 'total time');
$s = $t->stream('/begun/completions', \%l);
$r = $s->collect;
is($s->{headers}{'x-infer-cache'}, 'EXPIRED', 'a stream that has begun');
ok($r->{error} && !$r->{done}, 'ends with an error event');
is($t->post('/error/completions', \%l)->{status}, 504,
   'where timeouts are not among the causes: 504');
ok(free(), 'no slot is left');

# ---- an engine that hangs ----

$t->allow(qr/infer deadline passed without the engine/);
kill 'STOP', my $engine = $t->engine;
stale($t->post('/queue/completions', \%q), $q, 'an engine that hangs');
kill 'CONT', $engine;
ok(free(), 'no slot is left');
is(status($t->post('/brief/completions', { %ask, prompt => 'c' })), 'MISS',
   'for= is over: it is gone');
$t->finish;

# ---- an engine that does not come up again ----

$t = Infer->new(model => 'tiny', workers => 2,
    http => 'infer_cache_zone answers 2m; infer_cache answers;
             infer_cache_scope all; infer_cache_valid 1s;
             infer_cache_use_stale error;',
    server => 'location /none/ { infer m; infer_timeout queue=1s;
                   infer_cache_use_stale timeout; }
               location /purge { infer_cache_purge answers; }');
my $dir = $t->dir;
my $c = $t->write_file('broken.c', <<"EOC");
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
system("cc -shared -fPIC -o $dir/broken.so $c") == 0 or die 'cc';
$t->{engine} = "threads=1 env=LD_PRELOAD=$dir/broken.so";
$t->allow(qr/infer engine/, qr/infer answers from \d+ s ago/,
          qr/infer deadline passed without the engine/,
          qr/infer answers 503/);
$t->start;
$q = $t->post('/v1/completions', \%q);
my %chat = (%ask, messages => [ { role => 'user', content => 'hi' } ]);
my $chat = $t->post('/v1/chat/completions', \%chat);
$t->post('/v1/completions', \%q);
$t->write_file('broken', '');
kill 'KILL', $t->engine;
is(status($t->post('/v1/completions', \%q)), 'HIT',
   'a good answer needs no engine');
sleep 1.2;
my $start = time;
stale($t->post('/v1/completions', \%q), $q, 'no engine');
stale($t->post('/v1/chat/completions', \%chat), $chat, 'no engine, a chat');
stale($t->post('/v1/chat/completions', { %chat, user => 'x' }), $chat,
      'another body');
cmp_ok(time - $start, '<', 0.5, 'at once');
stale($t->post('/none/completions', \%q), $q, 'after its queue time');
is($t->post('/none/completions', { %q, prompt => 'new' })->{status}, 503,
   'nothing of before: 503');
ok($t->wait_for(sub { (() = $t->log =~ /did not come up/g) >= 3 }, 20),
   'the engine counts as down');
$start = time;
stale($t->post('/v1/completions', \%q), $q, 'an engine that is down');
is($t->post('/purge?all', {})->{status}, 200, 'a purge');
is($t->post('/v1/completions', \%q)->{status}, 503,
   'takes old answers with it');
cmp_ok(time - $start, '<', 1.5, 'nobody waits for what does not run');
unlink "$dir/broken";
ok($t->wait_ready(40), 'it comes up');
is($t->post('/v1/completions', \%q)->{status}, 200, 'and answers');
sleep 1.2;
is(status($t->post('/v1/completions', \%q)), 'EXPIRED', 'and makes a new one');
$t->finish;

# ---- a generation that fails ----

SKIP: {
    skip "$poison is not built (make poison)", 8 if !-x $poison;
    $t = Infer->new(model => 'slow', engine => "threads=1 path=$poison",
        http => 'infer_cache_zone answers 2m; infer_cache answers;
                 infer_cache_valid 1s; infer_cache_use_stale error;')->start;
    $t->allow(qr/infer engine/, qr/infer slot \d+ failed/,
              qr/infer answers from \d+ s ago: "the engine died/,
              qr/infer stream ends with an error: the engine died/);
    my %p = (prompt => 'abc', temperature => 0,
             max_tokens => Infer::emulated() ? 100 : 300,
             logit_bias => { 77 => 100 }, ignore_eos => JSON::PP::true);
    my $was = $t->post('/v1/completions', \%p);
    is(status($was), 'MISS', 'a poisonous answer');
    sleep 1.2;
    my $w = $t->client;
    $w->send('POST', '/v1/completions', \%p);
    $t->wait_for(sub { $t->metric('ngx_infer_requests_running') == 1 });
    sleep 0.3;
    kill 'KILL', $t->engine;
    stale($w->response, $was, 'its generation fails');
    ok($t->wait_for(sub { my $n = eval { $t->metric('ngx_infer_slots_used') };
                          defined $n && $n == 0 }, 15), 'no slot is left');
    is($t->post('/v1/completions', { %p, logit_bias => {} })->{status}, 200,
       'others are answered');
    $t->finish;
}
done_testing;
