package Infer::Same;

# Same.pm: whether answers to completions are what they would have been
# without a crash, a preemption or company. On the CPU that is byte for byte,
# logprobs included. On another device prefill and decode round differently:
# there it is as many tokens, with the same end, and the same ones up to the
# first near-tie. Where a greedy answer parts from the expected one, that
# one's best two tokens were at most 0.5 apart in logprob. A draw may fall
# beside the border of any two tokens: where a sampled answer parts, the two
# must have had the same choice, each one's best token listed by the other
# and no token's logprobs more than 0.5 apart.
#
#   my %ask = asked(prompt => 'a', max_tokens => 9, temperature => 0);
#   my $want = wanted($t, \%ask);
#   my $s = $t->stream('/v1/completions', \%ask);
#   my $first = $s->event;
#   ...                                       # whatever happens to it
#   same([ $s->collect(0, $first) ], [ $want ], 'it is the same');

use strict;
use warnings;

use Exporter 'import';
use Test::More ();

use Infer;

our @EXPORT = qw(asked whole wholes wanted same follows);

my $NEAR = 0.5;

# The fields of a request, and what is needed to judge its answer.
sub asked {
    my (%ask) = @_;
    $ask{logprobs} = 5 if Infer::device() ne 'cpu';
    return %ask;
}

# The choices of a response that was not streamed, each as collect() gives
# it of a stream.
sub wholes {
    my ($r) = @_;
    return map { { text => $_->{text}, finish => $_->{finish_reason},
                   logprobs => $_->{logprobs} } } @{ $r->{json}{choices} || [] };
}

# The first of them, or an answer of nothing.
sub whole {
    my ($r) = @_;
    return (wholes($r))[0] || {};
}

# The answer that others are compared with.
sub wanted {
    my ($t, $ask) = @_;
    my $a = whole($t->post('/v1/completions', $ask));
    $a->{sampled} = ($ask->{temperature} || 0) > 0;
    return $a;
}

sub best {
    my ($top) = @_;
    return sort { $top->{$b} <=> $top->{$a} || $a cmp $b } keys %$top;
}

# 1 when two could have chosen differently: of token => logprob, both best
# first.
sub near {
    my ($got, $want, $sampled) = @_;
    my ($first, $second) = best($want);
    return 0 if !defined $second;
    return $want->{$first} - $want->{$second} <= $NEAR if !$sampled;
    my ($other) = best($got);
    return 0 if !defined $other || !defined $got->{$first}
                || !defined $want->{$other};
    return !grep { defined $want->{$_}
                   && abs($got->{$_} - $want->{$_}) > $NEAR } keys %$got;
}

# 1 when the tokens of an answer, or what there is of it, follow another's by
# the rule of the device.
sub follows {
    my ($got, $want) = @_;
    my ($g, $w) = map { $_->{logprobs} || {} } $got, $want;
    my @tokens = @{ $g->{tokens} || [] };
    for my $i (0 .. $#{ $w->{tokens} || [] }) {
        last if $i > $#tokens;
        next if $tokens[$i] eq $w->{tokens}[$i];
        my $top = $w->{top_logprobs}[$i];
        Test::More::note("they part at token $i: "
                         . join ', ', map { "$_ $top->{$_}" } best($top));
        return near($g->{top_logprobs}[$i], $top, $want->{sampled});
    }
    return @tokens > 0;
}

sub same_there {
    my ($got, $want) = @_;
    my ($g, $w) = map { $_->{logprobs}{tokens} || [] } $got, $want;
    return 0 if @$g != @$w
                || ($got->{finish} || '') ne ($want->{finish} || '');
    return $got->{text} eq $want->{text} if "@$g" eq "@$w";
    return follows($got, $want);
}

# One test: each answer is the one that was wanted, by the rule of the device
# that INFER_TEST_DEVICE names.
sub same {
    my ($got, $want, $name) = @_;
    if (Infer::device() eq 'cpu') {
        my @both = map { [ map { [ @$_{qw(text finish logprobs)} ] } @$_ ]
                   } $got, $want;
        return Test::More::is_deeply(@both, $name);
    }
    my @other = grep { !same_there($got->[$_], $want->[$_]) } 0 .. $#$want;
    return Test::More::ok(@$got == @$want && !@other, $name)
           || Test::More::diag("other answers: @other");
}

1;
