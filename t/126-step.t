#!/usr/bin/perl
# 126-step.t: step_time: how much of a long prompt one step takes beside a
# running stream.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;

my $rows = 800;
my %ask = (temperature => 0, ignore_eos => JSON::PP::true);

# Steps that the engine makes for a prompt while a stream runs.
sub steps {
    my ($time) = @_;
    my $t = Infer->new(model => 'slow', workers => 1,
        model_extra => "context 2048; sequences 2; step_time $time;")->start;
    my $s = $t->stream('/v1/completions',
                       { %ask, prompt => 'abc', max_tokens => 1900 });
    $s->event;
    my $before = $t->metric('ngx_infer_engine_steps_total');
    my $r = $t->post('/v1/completions',
                     { %ask, prompt => [ (5) x $rows ], max_tokens => 1 });
    is($r->{json}{usage}{prompt_tokens}, $rows, "$time: a long prompt");
    my $steps = $t->metric('ngx_infer_engine_steps_total') - $before;
    ok($s->event, 'beside a running stream');
    $s->close;
    $t->finish;
    return $steps;
}

# a chunk is 16 tokens at least (64 before anything was measured),
# batch_tokens (512) at most
cmp_ok(steps('1ms'), '>=', $rows / 20, 'short steps: as many as there can be');
cmp_ok(steps('10s'), '<', $rows / 32, 'long steps: few');

done_testing;
