#!/usr/bin/perl
# 161-join.t: equal requests at once are one generation: on both workers,
# streamed and whole, whoever leaves; and one that fails is begun again.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;
use Infer::Same;

my $t = Infer->new(
    model => 'slow', http => 'infer_cache_zone answers 4m;',
    events => 'worker_connections 1024;',
    zone => '64m', model_extra => 'context 1024; sequences 4;',
    location => 'infer m; infer_cache answers; infer_queue length=4;',
    server => 'location /plain/ { infer m; }');
my $text = $t->conf_text;
$text =~ s/worker_connections 256; //;
$t->{conf} = $text;
$t->start;

my %ask = (max_tokens => Infer::emulated() ? 50 : 150, temperature => 0,
           ignore_eos => JSON::PP::true);
my $finished = sub {
    my $r = $t->get('/metrics');
    my $n = 0;
    $n += $1 while $r->{body} =~
        /^ngx_infer_finished_total\{[^}]*\} (\d+)$/mg;
    return $n;
};
sub status { $_[0]{headers}{'x-infer-cache'} || '-' }

# ---- 200 at once ----

my $many = $ENV{INFER_SHORT} ? 40 : 200;
my $alone = $t->post('/plain/completions', { %ask, prompt => 'many' });
my $n = $finished->();
my @c = map { my $c = $t->client;
              $c->send('POST', '/v1/completions',
                       { %ask, prompt => 'many',
                         ($_ % 2 ? (stream => JSON::PP::true) : ()) });
              $c } 1 .. $many;
my ($good, %how, %id) = (0);
for my $i (1 .. $many) {
    my $c = $c[$i - 1];
    if ($i % 2) {
        my $r = $c->collect;
        $good++ if $r->{done} && $r->{text} eq
                   $alone->{json}{choices}[0]{text};
        $how{ status($c) }++;
    } else {
        my $r = $c->response;
        $good++ if $r->{status} == 200 && $r->{json}{choices}[0]{text} eq
                   $alone->{json}{choices}[0]{text};
        $how{ status($r) }++;
        $id{ $r->{json}{id} }++;
    }
    $c->close;
}
is($good, $many, "$many complete answers, equal to the one without a cache");
is($finished->() - $n, 1, 'one generation');
is($how{MISS}, 1, 'one began it');
cmp_ok($how{JOIN} || 0, '>', $many / 2, 'others joined');
is(scalar(keys %id), $many / 2, 'each under an id of its own');
is(status($t->post('/v1/completions', { %ask, prompt => 'many' })), 'HIT',
   'then it is in the cache');

# ---- the leader goes, the others read on ----

my $lead = $t->stream('/v1/completions', { %ask, prompt => 'lead' });
$lead->event for 1 .. 3;
my @f = map { $t->stream('/v1/completions', { %ask, prompt => 'lead' }) }
        1 .. 6;
my $first = $f[0]->event;
is(status($f[0]), 'JOIN', 'a late one reads from the start');
$lead->close;
my @r = map { $_->collect } @f;
my $want = $t->post('/plain/completions',
                    { %ask, prompt => 'lead' })->{json}{choices}[0]{text};
$r[0]{text} = $first->{choices}[0]{text} . $r[0]{text};
is(scalar(grep { $_->{done} && $_->{text} eq $want } @r), 6,
   'its followers get everything');
is(status($t->post('/v1/completions', { %ask, prompt => 'lead' })), 'HIT',
   'and it is kept');

# ---- all go: cancelled ----

@f = map { $t->stream('/v1/completions', { %ask, prompt => 'gone',
                                           max_tokens => 800 }) } 1 .. 4;
$_->event for @f;
$_->close for @f;
ok($t->wait_for(sub { $t->metric('ngx_infer_requests_running') == 0 }),
   'without readers it is cancelled');
is(status($t->post('/v1/completions', { %ask, prompt => 'gone',
                                        max_tokens => 3 })), 'MISS',
   'and nothing half is kept');

# ---- the engine dies under all of them ----

$t->allow(qr/infer engine/);
my %dies = asked(%ask, prompt => 'dies');
$want = whole($t->post('/plain/completions', \%dies));
@f = map { $t->stream('/v1/completions', \%dies) } 1 .. 8;
my @begun = map { my $f = $_; [ map { $f->event } 1 .. 20 ] } @f;
kill 'KILL', $t->engine;
push @f, $t->stream('/v1/completions', \%dies);
push @begun, [];
@r = map { $f[$_]->collect(0, @{ $begun[$_] }) } 0 .. 8;
is(scalar(grep { $_->{done} } @r), 9, 'an engine dies amid it: all go on');
same(\@r, [ ($want) x 9 ], 'and get the same as alone');
is(join(' ', sort map { status($_) } @f), join(' ', ('JOIN') x 8, 'MISS'),
   'also one that came while it was down');

# ---- a worker dies with the leader or with followers ----

$t->allow(qr/exited on signal 9/, qr/infer cache/);
@f = map { $t->stream('/v1/completions', { %ask, prompt => 'worker' }) }
     1 .. 12;
$_->event for @f;
my ($w) = $t->workers;
kill 'KILL', $w;
@r = map { $_->collect } @f;
my $whole = grep { $_->{done} } @r;
my $cut = grep { $_->{broken} || !$_->{done} } @r;
is($whole + $cut, 12, 'every client hears of it');
ok($t->wait_for(sub { my $r = $t->post('/v1/completions',
                                       { %ask, prompt => 'worker' });
                      $r->{status} == 200 && $r->{json}{choices}[0]{text} }),
   'and it is answered afterwards');

# ---- reload with joins running ----

@f = map { $t->stream('/v1/completions', { %ask, prompt => 'reload' }) }
     1 .. 6;
$_->event for @f;
$t->reload;
my $late = $t->stream('/v1/completions', { %ask, prompt => 'reload' });
@r = map { $_->collect } @f, $late;
is(scalar(grep { $_->{done} } @r), 7, 'a reload: all go on');

ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }),
   'no slot is left');
$t->finish;
done_testing;
