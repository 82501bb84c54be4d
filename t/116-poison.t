#!/usr/bin/perl
# 116-poison.t: a request that kills the engine each time fails alone, at the
# third death: 500 before its headers, an error event after them. Everybody
# else goes on with the text it would have. The engine is a test build (make
# poison) that dies of the token 77 three times in a row.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;
use Infer::Same;

my $path = Infer::build_dir() . '/poison/ngx_infer_engine';
-x $path or plan skip_all => "$path is not built (make poison)";

my $t = Infer->new(model => 'slow', engine => "threads=1 path=$path")->start;
$t->allow(qr/infer engine .*(?:died|did not come up|gone|exited)/,
          qr/infer slot \d+ failed: 3 engines died with it/,
          qr/infer answers 500: "the engine died with this request/,
          qr/infer stream ends with an error: the engine died/);

my %poison = (prompt => [ 5, 77, 77, 77, 6 ], max_tokens => 20);

sub ask {
    my ($i) = @_;
    return { asked(prompt => "stream $i", max_tokens => Infer::tokens(250),
                   seed => $i, temperature => $i % 2 ? 0.8 : 0,
                   ignore_eos => JSON::PP::true) };
}

my @want = map { wanted($t, ask($_)) } 1 .. 4;

# before its headers, among streams
my @s = map { $t->stream('/v1/completions', ask($_)) } 1 .. 4;
my @begun = map { $_->event } @s;
my $r = $t->post('/v1/completions', { %poison });
is($r->{status}, 500, 'the poisonous request is a 500');
like($r->{json}{error}{message}, qr/engine died with this request three/,
     'that says why');
is($r->{json}{error}{type}, 'server_error', 'in an error object');
my @r = map { $s[$_]->collect(0, $begun[$_]) } 0 .. 3;
is(scalar(grep { $_->{done} } @r), 4, 'every other stream ends with [DONE]');
same(\@r, \@want, 'each with its own text');
my $deaths = () = $t->log =~ /with pid \d+ died/g;
is($deaths, 3, 'three engines died');

# streamed: nothing was sent yet, so it is a status, too
my $p = $t->stream('/v1/completions', { %poison });
$p->head;
is($p->{status}, 500, 'a stream that has not begun is a 500');

# after its headers: it has emitted its poison, and swallows it when an
# engine that died for another reason is followed by one that reads it again
my %slow_poison = (prompt => 'abc', max_tokens => 900, temperature => 0,
                   logit_bias => { 77 => 100 }, ignore_eos => JSON::PP::true);
@s = map { $t->stream('/v1/completions', ask($_)) } 1 .. 4;
@begun = map { $_->event } @s;
$p = $t->stream('/v1/completions', { %slow_poison });
$p->event for 1 .. 4;
kill 'KILL', $t->engine;
my $end = $p->collect;
is($end->{status}, 200, 'a stream that has begun');
is($end->{done}, 0, 'has no [DONE]');
like($end->{error}{message} || '', qr/engine died with this request three/,
     'but an error event');
@r = map { $s[$_]->collect(0, $begun[$_]) } 0 .. 3;
is(scalar(grep { $_->{done} } @r), 4, 'the others go on again');
same(\@r, \@want, 'with their own texts');

ok($t->wait_for(sub { my $n = eval { $t->metric('ngx_infer_slots_used') };
                      defined $n && $n == 0 }, 15), 'no slot is left');
$t->none_left('ngx_infer_kv_pages_used', 'no KV page');
$t->none_left('ngx_infer_blocks_used', 'no block');

# someone who was there at two deaths is no suspect for ever
same([ whole($t->post('/v1/completions', ask(1))) ], [ $want[0] ],
     'and it answers');

$t->finish;
done_testing;
