#!/usr/bin/perl
# 166-join-group.t: what joined requests share: the latest deadlines and the
# highest priority of all, each one's own time; and requests of several
# choices, which are joined whole, whatever ends or dies meanwhile.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Same;

my $t = Infer->new(
    model => 'slow', zone => '64m',
    http => 'infer_cache_zone answers 4m; infer_cache_scope all;
             log_format o "$arg_me $infer_finish_reason";
             access_log logs/order.log o;',
    model_extra => 'context 1024; sequences 4;',
    location => 'infer m; infer_cache answers; infer_priority $arg_p;',
    server => 'location /plain/ { infer m; }
               location /brief/ { infer m; infer_cache answers;
                   infer_timeout total=700ms; }
               location /hasty/ { infer m; infer_cache answers;
                   infer_timeout queue=500ms; }');
$t->start;
$t->allow(qr/infer answers 50[34]:/, qr/infer stream ends with an error/);

my %ask = (max_tokens => 900, temperature => 0,
           ignore_eos => JSON::PP::true);
# one of which somebody reads all
my %whole = (%ask, Infer::emulated() ? (max_tokens => 200) : ());
my $finished = sub {
    my $r = $t->get('/metrics');
    my $n = 0;
    $n += $1 while $r->{body} =~
        /^ngx_infer_finished_total\{[^}]*\} (\d+)$/mg;
    return $n;
};
my $idle = sub {
    return $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 20);
};
sub status { $_[0]{headers}{'x-infer-cache'} || '-' }
sub texts { join '|', map { $_->{text} } @{ $_[0]{json}{choices} || [] } }

# what collect() gives of a stream of several choices
sub streamed { join '|', map { $_->{text} } @{ $_[0]{choices} || [] } }

# ---- the leader's time is over, a follower has more ----

my $began = time;
my $whole = $t->post('/plain/completions', { %whole, prompt => 'late' });
cmp_ok(time - $began, '>', 0.8, 'it takes longer than the brief have');
my $text = $whole->{json}{choices}[0]{text};
my $lead = $t->client;
$lead->send('POST', '/brief/completions', { %whole, prompt => 'late' });
$t->wait_for(sub { $t->metric('ngx_infer_requests_running') == 1 });
my $n = $finished->();
my $f = $t->stream('/v1/completions', { %whole, prompt => 'late' });
$f->event;
is(status($f), 'JOIN', 'a follower with more time');
my $r = $lead->response;
is($r->{status}, 504, 'the leader is told that its time is over');
$r = $f->collect;
is($r->{done}, 1, 'the follower gets all');
is(substr($text, -length $r->{text}), $r->{text}, 'as it should be');
is($finished->() - $n, 1, 'of one generation');

# ---- a follower's time is over, the leader has more ----

$lead = $t->stream('/v1/completions', { %whole, prompt => 'more' });
$lead->event;
$began = time;
my @f = map { my $c = $t->client;
              $c->send('POST', '/brief/completions',
                       { %whole, prompt => 'more' }); $c } 1 .. 4;
$n = grep { $_->response->{status} == 504 } @f;
is($n, 4, 'followers are told when their own time is over');
cmp_ok(time - $began, '<', 1.6, 'and not later');
$r = $lead->collect;
is($r->{done}, 1, 'the leader goes on');
unlike($t->log, qr/deadline passed without the engine/,
       'nobody took the engine for dead');

# ---- the leader leaves: the followers' time counts ----

$lead = $t->stream('/v1/completions', { %ask, prompt => 'leaves' });
$lead->event;
$f = $t->stream('/brief/completions', { %ask, prompt => 'leaves' });
$f->event;
$lead->close;
$r = $f->collect;
ok($r->{error} && !$r->{done}, 'a brief follower alone ends in its time');
ok($idle->(), 'and nothing runs on');

# ---- terms of those that wait ----

my @busy = map { $t->stream('/plain/completions?me=busy',
                            { %ask, prompt => "busy $_" }) } 1 .. 4;
$_->event for @busy;
my $waits = sub { my ($k) = @_;
                  $t->wait_for(sub {
                      $t->metric('ngx_infer_requests_waiting') == $k }) };
my @c;
my $later = sub { my ($path, $prompt) = @_;
                  my $c = $t->client;
                  $c->send('POST', $path,
                           { %ask, max_tokens => 4, prompt => $prompt });
                  push @c, $c };
$later->('/v1/completions?me=low&p=low', 'lane');
$waits->(1);
$later->('/v1/completions?me=normal', 'other');
$waits->(2);
$later->('/v1/completions?me=high&p=high', 'lane');
$later->('/hasty/completions?me=hasty', 'queue');
$waits->(3);
$later->('/v1/completions?me=patient', 'queue');
$r = $c[3]->response;
is($r->{status}, 503, 'who does not wait longer is told');
is($t->metric('ngx_infer_requests_waiting'), 3, 'the others wait');
$busy[0]->close;
is(scalar(grep { $_->response->{status} == 200 } @c[0, 1, 2, 4]), 4,
   'and are answered');
my @order;
$t->wait_for(sub {
    @order = $t->log_text('order.log') =~ /^(\w+) length$/mg;
    return @order >= 4;
});
my %at = map { $order[$_] => $_ } 0 .. $#order;
cmp_ok($at{low}, '<', $at{normal}, 'a high follower brings the low forward');
cmp_ok($at{normal}, '<', $at{patient}, 'by arrival otherwise');
$_->close for @busy, @c;
ok($idle->(), 'nothing is left');

# ---- several choices: one group for all ----

for my $many ([ n => 2, temperature => 1, seed => 7, prompt => 'two' ],
              [ prompt => [ 'one', 'another' ] ])
{
    my %q = (%ask, max_tokens => Infer::emulated() ? 50 : 100, @$many);
    my $want = texts($t->post('/plain/completions', \%q));
    $n = $finished->();
    my $m = $ENV{INFER_SHORT} ? 20 : 50;
    @c = map { my $c = $t->client;
               $c->send('POST', '/v1/completions',
                        { %q, ($_ % 2 ? (stream => JSON::PP::true) : ()) });
               $c } 1 .. $m;
    my ($good, %how) = (0);
    for my $i (1 .. $m) {
        my $c = $c[$i - 1];
        if ($i % 2) {
            my $s = $c->collect;
            $good++ if $s->{done} && streamed($s) eq $want;
            $how{ status($c) }++;
        } else {
            my $s = $c->response;
            $good++ if $s->{status} == 200 && texts($s) eq $want;
            $how{ status($s) }++;
        }
        $c->close;
    }
    is($good, $m, "$m complete answers of two choices");
    is($finished->() - $n, 2, 'two generations');
    is($how{MISS}, 1, 'one began them');
    cmp_ok($how{JOIN} || 0, '>', $m / 2, 'others joined');
    is(status($t->post('/v1/completions', \%q)), 'HIT', 'and they are kept');
}

# ---- one choice has ended when the follower comes ----

my %q = (%ask, prompt => [ 'first', 'second' ],
         max_tokens => Infer::emulated() ? 150 : 700);
my @alone = map { $_->{text} }
            @{ $t->post('/plain/completions', \%q)->{json}{choices} };
my $stop;
for my $i (8 .. 60) {
    my $s = substr $alone[0], $i, 4;
    next if length $s < 4 || index($alone[1], $s) >= 0
            || index($alone[0], $s) != $i;
    $stop = $s;
    last;
}
SKIP: {
    skip 'no text that only one of two has', 4 if !defined $stop;
    $q{stop} = $stop;
    my $want = texts($t->post('/plain/completions', \%q));
    $n = $finished->();
    $lead = $t->stream('/v1/completions', \%q);
    while (defined(my $e = $lead->event)) {
        last if ref $e && grep { $_->{finish_reason} } @{ $e->{choices} };
    }
    $f = $t->stream('/v1/completions', \%q);
    $r = $f->collect;
    is(status($f), 'JOIN', 'a follower after the end of one choice');
    is($r->{done}, 1, 'gets its end');
    is(streamed($r), $want, 'and all of both');
    $lead->collect;
    is($finished->() - $n, 2, 'of the same two generations');
}

# ---- the engine dies under a group, then nobody reads it ----

$t->allow(qr/infer engine/);
%q = (%ask, prompt => 'dies', n => 3, seed => 3, temperature => 1,
      max_tokens => Infer::emulated() ? 90 : 300);
my %dies = asked(%q);
my @want = wholes($t->post('/plain/completions', \%dies));
$_->{sampled} = 1 for @want;
@f = map { $t->stream('/v1/completions', \%dies) } 1 .. 6;
my @begun = map { $_->event } @f;
kill 'KILL', $t->engine;
my @r = map { $f[$_]->collect(0, $begun[$_]) } 0 .. 5;
is(scalar(grep { $_->{done} } @r), 6,
   'an engine dies under a group: all go on');
same([ map { @{ $_->{choices} } } @r ], [ (@want) x 6 ], 'to the same answers');

$q{prompt} = 'gone';
@f = map { $t->stream('/v1/completions', \%q) } 1 .. 4;
$_->event for @f;
$_->close for @f;
ok($idle->(), 'a group without readers is cancelled');

# ---- a worker dies with some of the readers ----

$t->allow(qr/exited on signal 9/, qr/infer cache/);
$q{prompt} = 'worker';
@f = map { $t->stream('/v1/completions', \%q) } 1 .. 8;
$_->event for @f;
my ($w) = $t->workers;
kill 'KILL', $w;
@r = map { $_->collect } @f;
$n = grep { $_->{done} } @r;
cmp_ok($n, '<=', 8, "a worker dies: $n of 8 go on to their end");
ok($t->wait_for(sub { $t->post('/v1/completions', \%q)->{status} == 200 }),
   'and it is answered afterwards');
ok($idle->(), 'no slot is left');

$t->finish;
done_testing;
