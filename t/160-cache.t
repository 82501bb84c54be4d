#!/usr/bin/perl
# 160-cache.t: the response cache's first tier: hits by body and by canonical
# request, dialects and streams from one entry, tenants, headers, times, tags,
# purges, reload, a killed worker.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;

my $t = Infer->new(
    http => 'infer_cache_zone answers 2m;
             add_header X-Key $infer_cache_key;
             log_format c "$uri $status $infer_cache_status";
             access_log logs/access.log c;',
    location => 'infer m; infer_cache answers;',
    server => 'location /short/ { infer m; infer_cache answers;
                   infer_cache_valid 1s; infer_cache_scope short; }
               location /shared/ { infer m; infer_cache answers;
                   infer_cache_scope all; infer_cache_tag $arg_tag; }
               location /sampled/ { infer m; infer_cache answers;
                   infer_cache_scope s; infer_cache_sampled on; }
               location /skip/ { infer m; infer_cache answers;
                   infer_cache_scope all; infer_cache_bypass $arg_by;
                   infer_no_cache $arg_no; }
               location /purge { infer_cache_purge answers; }');
$t->start;

my %ask = (prompt => 'abc', max_tokens => 8, temperature => 0,
           ignore_eos => JSON::PP::true);

sub status { $_[0]{headers}{'x-infer-cache'} || '-' }

# an answer without what must differ
sub bare {
    my %j = %{ $_[0]{json} };
    delete @j{qw(id created)};
    return \%j;
}

# ---- hits ----

my $steps = sub { $t->metric('ngx_infer_steps_total') };

my $a = $t->post('/v1/completions', \%ask);
is($a->{status}, 200, 'an answer');
is(status($a), 'MISS', 'computed');
my $n = $steps->();
my $b = $t->post('/v1/completions', { %ask, user => 'me' });
is(status($b), 'HIT', 'another body, the same request');
is_deeply(bare($b), bare($a), 'the same answer');
isnt($b->{json}{id}, $a->{json}{id}, 'under an id of its own');
like($b->{headers}{age}, qr/^\d$/, 'with its age');
my $c = $t->post('/v1/completions', { %ask, user => 'me' });
is(status($c), 'HIT', 'the same body');
is_deeply(bare($c), bare($a), 'the same answer');
isnt($c->{json}{id}, $b->{json}{id}, 'again an id of its own');
is($steps->(), $n, 'the engine did nothing for them');

my $s = $t->stream('/v1/completions', \%ask);
my $r = $s->collect;
is($r->{text}, $a->{json}{choices}[0]{text}, 'as a stream');
is($r->{done}, 1, 'with its end');
is($s->{headers}{'x-infer-cache'}, 'HIT', 'from the same entry');
like($s->{headers}{'content-type'}, qr{^text/event-stream}, 'typed as one');
is($steps->(), $n, 'nothing was generated');

is(status($t->post('/v1/completions', { %ask, max_tokens => 7 })), 'MISS',
   'another request');
my $l = $t->post('/v1/completions', { %ask, n => 2, logprobs => 2 });
is(status($l), 'MISS', 'choices and logprobs');
is_deeply(bare($t->post('/v1/completions', { %ask, n => 2, logprobs => 2 })),
          bare($l), 'come back');

# chat, whole and streamed
my %chat = (messages => [ { role => 'user', content => 'hi' } ],
            max_tokens => 6, temperature => 0, ignore_eos => JSON::PP::true);
my $m = $t->post('/v1/chat/completions', \%chat);
is(status($m), 'MISS', 'a chat');
$s = $t->stream('/v1/chat/completions', { %chat,
    stream_options => { include_usage => JSON::PP::true } });
$r = $s->collect;
is($s->{headers}{'x-infer-cache'}, 'HIT', 'streamed from its log');
is($r->{text}, $m->{json}{choices}[0]{message}{content}, 'the same text');
is_deeply($r->{usage}, $m->{json}{usage}, 'and usage');

# ---- what is not cached ----

my %warm = (%ask, temperature => 1);
is(status($t->post('/v1/completions', \%warm)), 'BYPASS', 'random: not kept');
is(status($t->post('/v1/completions', { %warm, seed => 5 })), 'MISS',
   'seeded: kept');
is(status($t->post('/v1/completions', { %warm, seed => 5 })), 'HIT', 'found');
is(status($t->post('/sampled/completions', \%warm)), 'MISS',
   'infer_cache_sampled');
$a = $t->post('/sampled/completions', \%warm);
is(status($a), 'HIT', 'any answer will do');

is(status($t->post('/v1/completions', \%ask,
                   'Cache-Control' => 'no-cache')), 'BYPASS',
   'the client may ask past it');
is(status($t->post('/skip/completions?by=1', \%ask)), 'BYPASS',
   'infer_cache_bypass');
is(status($t->post('/skip/completions', \%ask)), 'HIT', 'but it was kept');
is(status($t->post('/skip/completions?no=1', { %ask, prompt => 'no' })),
   'MISS', 'infer_no_cache');
is(status($t->post('/skip/completions', { %ask, prompt => 'no' })), 'MISS',
   'was not');
my $e = $t->post('/v1/completions', { prompt => 'x', max_tokens => -1 });
is($e->{status}, 400, 'errors');
is($t->post('/v1/completions', { prompt => 'x', max_tokens => -1 })->{status},
   400, 'are not kept');

# ---- tenants ----

my %bob = (Authorization => 'Bearer bob');
is(status($t->post('/v1/completions', \%ask, %bob)), 'MISS',
   'another tenant does not see it');
is(status($t->post('/v1/completions', \%ask, %bob)), 'HIT', 'but his own');
is(status($t->post('/v1/completions', \%ask, 'X-Api-Key' => 'bob')),
   'MISS', 'the kind of credential counts');
is(status($t->post('/shared/completions', \%ask, %bob)), 'HIT',
   'infer_cache_scope shares across locations');

# ---- times, tags, purges ----

is(status($t->post('/short/completions', \%ask)), 'MISS', 'a short life');
is(status($t->post('/short/completions', \%ask)), 'HIT', 'not over');
sleep 1.2;
is(status($t->post('/short/completions', \%ask)), 'MISS', 'over');

my %tagged = (%ask, prompt => 'tagged');
my $ask_tag = sub { status($t->post("/shared/completions?tag=$_[0]",
                                    { %tagged, prompt => "t$_[0]" })) };
$ask_tag->($_) for 1, 2;
is($ask_tag->(1) . $ask_tag->(2), 'HITHIT', 'two tags');
is($t->get('/purge?all')->{status}, 405, 'a purge is no GET');
is($t->post('/purge', {})->{status}, 400, 'nothing said');
is($t->post('/purge?tag=1', {})->{status}, 200, 'one is purged');
is($ask_tag->(1) . $ask_tag->(2), 'MISSHIT', 'it alone');

my $key = $t->post('/v1/completions', \%ask)->{headers}{'x-key'};
like($key, qr/^[0-9a-f]{32}$/, '$infer_cache_key');
my $other = $t->post('/v1/completions', { %ask, max_tokens => 5 });
isnt($other->{headers}{'x-key'}, $key, 'is each answer\'s own');
my %page = (%ask, user => 'page');
$r = $t->post('/v1/completions', \%page) for 1, 2;
is(status($r) . $r->{headers}{'x-key'}, "HIT$key", 'a page has it too');
is($t->post('/purge?key=' . substr($key, 1), {})->{status}, 400, 'no key');
is($t->post('/purge?key=' . substr($key, 0, 31) . 'g', {})->{status}, 400,
   'nor is this');
is($t->post('/purge?key=' . ('0' x 32), {})->{status}, 200,
   'nothing has this one');
is(status($t->post('/v1/completions', \%page)), 'HIT', 'so nothing goes');
is($t->post("/purge?key=$key", {})->{status}, 200, 'one is purged');
is(status($t->post('/v1/completions', \%page)), 'MISS', 'its page is gone');
is(status($t->post('/v1/completions', { %ask, max_tokens => 5 })), 'HIT',
   'another answer is there');
is(status($t->post('/v1/completions', \%ask)), 'HIT', 'and it comes anew');
is($t->post('/purge?all', {})->{status}, 200, 'all');
is($ask_tag->(2), 'MISS', 'are gone');
is($ask_tag->(2), 'HIT', 'and new ones stay');

# ---- the zone lives on ----

$t->reload;
is($ask_tag->(2), 'HIT', 'over a reload');

$t->allow(qr/exited on signal 9/, qr/infer cache "answers" lost/);
for my $i (1 .. 5) {
    my ($w) = $t->workers;
    kill 'KILL', $w;
    $t->wait_for(sub { my @w = $t->workers; @w == 2 && !grep { $_ == $w } @w });
}
my $ok = 0;
for (1 .. 20) {
    $ok++ if $ask_tag->(2) eq 'HIT';
    sleep 0.1 if !$ok;
}
cmp_ok($ok, '>=', 1, 'and over killed workers');

cmp_ok($t->metric('ngx_infer_cache_hits_total'), '>', 10, 'hits are counted');
like($t->log_text('access.log'), qr{/v1/completions 200 HIT},
     '$infer_cache_status');

$t->finish;
done_testing;
