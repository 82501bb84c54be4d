#!/usr/bin/perl
# 110-kill-engine.t: kill -9 of the engine under eight streams: another one
# loads and every stream goes on with the text it would have had.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;
use Infer::Same;

my $t = Infer->new(model => 'slow')->start;
$t->allow(qr/infer engine .*(?:died|gone|exited)/);

sub ask {
    my ($i) = @_;
    return { asked(prompt => "stream $i", max_tokens => Infer::tokens(300),
                   seed => $i, temperature => $i % 2 ? 0.8 : 0,
                   ignore_eos => JSON::PP::true) };
}

my @want = map { wanted($t, ask($_)) } 1 .. 8;

my @s = map { $t->stream('/v1/completions', ask($_)) } 1 .. 8;
my @begun = map { $_->event } @s;
my $old = $t->engine;
ok($old, 'an engine runs');
kill 'KILL', $old;
my @r = map { $s[$_]->collect(0, $begun[$_]) } 0 .. 7;
is(scalar(grep { $_->{done} } @r), 8, 'every stream ends with [DONE]');
same(\@r, \@want, 'the text is what it would have been');
my $new = $t->engine;
ok($new && $new != $old, 'another engine runs');
is(scalar(my @all = $t->engines), 1, 'only one');
cmp_ok($t->metric('ngx_infer_engine_restarts_total'), '>=', 1,
       'the restart is counted');

# killed again while requests wait, not streamed
my @c = map { my $c = $t->client; $c->send('POST', '/v1/completions', ask($_));
              $c } 1 .. 8;
sleep 0.05;
kill 'KILL', $t->engine;
my @a = map { $_->response } @c;
is(scalar(grep { $_->{status} == 200 } @a), 8, 'no request fails');
same([ map { whole($_) } @a ], \@want, 'same text');

$t->finish;

# many workers see it die at once, and one of them starts another
$t = Infer->new(workers => 12)->start;
$t->allow(qr/infer engine .*died/);
my $kills = 0;
for (1 .. 5) {
    my $dies = $t->engine;
    $kills += kill 'KILL', $dies if $dies;
    $t->wait_for(sub { my @up = $t->log =~ /engine \d+ is ready/g;
                       @up > $kills }, 30);
}
is(scalar(() = $t->log =~ /died, starting another/g), $kills,
   "$kills deaths, as many starts");
unlike($t->log, qr/did not come up/, 'and none was in the way of another');
$t->finish;
done_testing;
