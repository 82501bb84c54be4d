#!/usr/bin/perl
# 169-single.t: the response cache in a single process (master_process off):
# hits, joins and old answers, a paced stream; no refresh, and an end with all
# of that under way.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;

my %ask = (max_tokens => 100, temperature => 0,
           ignore_eos => JSON::PP::true);

my $t = Infer->new(model => 'slow', workers => 1,
    main => 'master_process off;',
    model_extra => 'context 1024; sequences 2;',
    http => 'infer_cache_zone answers 4m; infer_cache answers;
             infer_cache_scope all; infer_cache_valid 1s;',
    server => 'location /new/ { infer m; infer_cache_use_stale updating; }
               location /hot/ { infer m; infer_cache_valid 3s;
                   infer_cache_refresh on; }
               location /total/ { infer m; infer_timeout total=50ms;
                   infer_cache_use_stale timeout; }
               location /pace/ { infer m; infer_cache_valid 1m;
                   infer_cache_pace 50; }
               location /purge { infer_cache_purge answers; }');
my $conf = $t->conf_text;
$conf =~ s/daemon on;/daemon off;/;
$t->{conf} = $conf;
$t->write_conf;
my $pid = fork;
if (!$pid) {
    my @pre = $ENV{INFER_PRELOAD}
        ? ('env', "LD_PRELOAD=$ENV{INFER_PRELOAD}",
           'ASAN_OPTIONS=detect_leaks=0') : ();
    open STDOUT, '>', '/dev/null';
    open STDERR, '>>', $t->dir . '/logs/error.log';
    exec @pre, Infer::nginx_bin(), '-p', $t->dir, '-c',
         $t->dir . '/nginx.conf';
}
ok($t->wait_ready(20), 'ready');
$t->allow(qr/infer answers from \d+ s ago/, qr/infer engine/);

sub ask { my ($prompt, $path, %more) = @_;
          return $t->post(($path || '/v1') . '/completions',
                          { %ask, prompt => $prompt, %more }) }
sub how { my ($r) = @_;
          return "$r->{status} " . ($r->{headers}{'x-infer-cache'} || '-') }
sub started {
    return $t->get('/metrics')->{body} =~
           /^ngx_infer_cache_refreshes_total\{.*"started"\} (\d+)$/m ? $1 : -1;
}

# ---- hits and joins ----

my $was = ask('a');
is(how($was), '200 MISS', 'computed');
my $text = $was->{json}{choices}[0]{text};
is(how(ask('a')), '200 HIT', 'a hit');
is(how(my $r = ask('a', undef, user => 'x')), '200 HIT', 'by request');
is($r->{json}{choices}[0]{text}, $text, 'the same text');
my $s = $t->stream('/v1/completions', { %ask, prompt => 'a' });
is($s->collect->{text}, $text, 'streamed');

my @j = map { $t->stream('/v1/completions', { %ask, prompt => 'j' }) } 1 .. 4;
my @r = map { $_->collect } @j;
is(scalar(grep { $_->{done} && $_->{text} eq $r[0]{text} } @r), 4,
   'four at once');
is(join(' ', sort map { $_->{headers}{'x-infer-cache'} } @j),
   'JOIN JOIN JOIN MISS', 'are one generation');

# ---- past their time ----

my $new = ask('n', '/new');
sleep 1.2;
is(how(ask('n', '/new')), '200 EXPIRED', 'updating: no old answer');
sleep 1.2;
my $old = ask('n', '/total');
is(how($old), '200 STALE', 'a timeout: an old one');
is($old->{json}{choices}[0]{text}, $new->{json}{choices}[0]{text},
   'the same text');
ask('h', '/hot') for 1 .. 12;
my $end = time + 3.3;
while (time < $end) {
    $r = ask('h', '/hot');
    sleep 0.05;
}
is($r->{status}, 200, 'a hot one, beyond its end');
is(started(), 0, 'no refresh was begun');

# ---- at a pace, purged ----

ask('p', '/pace');
my $start = time;
$s = $t->stream('/pace/completions', { %ask, prompt => 'p' });
$r = $s->collect;
is($r->{done}, 1, 'a paced stream');
cmp_ok(time - $start, '>', 1.5, 'takes its time');
is($t->post('/purge?all', {})->{status}, 200, 'a purge');
is(how(ask('p', '/pace')), '200 MISS', 'and all are gone');

# ---- the engine dies under a joined generation ----

@j = map { $t->stream('/pace/completions', { %ask, prompt => 'k',
                                             max_tokens => 200 }) } 1 .. 3;
$_->event for @j;
kill 'KILL', $t->engine;
is(scalar(grep { $_->collect->{done} } @j), 3, 'an engine dies: all go on');
is(how(ask('k', '/pace', max_tokens => 200)), '200 HIT', 'and it is kept');

# ---- the end ----

my $paced = $t->stream('/pace/completions', { %ask, prompt => 'p' });
my $runs = $t->stream('/v1/completions', { %ask, prompt => 'e' });
$_->event for $paced, $runs;
kill 'QUIT', $pid;
ok($t->wait_for(sub { waitpid($pid, 1) != 0 }, 10),
   'it ends, a generation and a paced stream under way');
is($?, 0, 'well');
$t->finish;
done_testing;
