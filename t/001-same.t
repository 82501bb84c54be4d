#!/usr/bin/perl
# 001-same.t: what Infer::Same takes for the same answer where prefill and
# decode round differently.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer::Same;

# An answer of tokens; each of them has this list of the best.
sub answer {
    my ($tokens, $top, %more) = @_;
    my @t = split //, $tokens;
    return { text => $tokens, finish => 'length', %more,
             logprobs => { tokens => \@t, token_logprobs => [ (-1) x @t ],
                           top_logprobs => [ ($top) x @t ] } };
}

sub judge { return Infer::Same::same_there(@_) ? 1 : 0 }

my $far = { a => -0.5, b => -1.1, c => -3 };
my $near = { a => -0.7, b => -1.1, c => -3 };
my $want = answer('aaaa', $far);

is(judge(answer('aaaa', $near), $want), 1, 'equal tokens');
is(judge(answer('aaa', $near), $want), 0, 'one is lost');
is(judge(answer('aaaaa', $near), $want), 0, 'one is doubled');
is(judge(answer('aaaa', $near, finish => 'stop'), $want), 0, 'another end');
is(judge(answer('aaaa', $near, text => 'aaa'), $want), 0,
   'text that its tokens are not');
is(judge(answer('aaba', $near), $want), 0, 'parted where nothing is near');
is(judge(answer('aaba', $far), answer('aaaa', $near)), 1,
   'parted at a near-tie of the expected one');
is(judge({ text => 'a', finish => 'length' }, $want), 0, 'nothing to judge');
is(judge(answer('abaa', { a => 0 }), answer('aaaa', { a => 0 })), 0,
   'no second best to tell');

$want = answer('aaaa', $far, sampled => 1);
is(judge(answer('aaca', $near), $want), 1, 'drawn beside a border');
is(judge(answer('aaca', { a => -1.1, b => -0.5, c => -3 }), $want), 0,
   'drawn from another distribution');
is(judge(answer('aaca', { %$near, c => -2.4 }), $want), 0,
   'another in one token');
is(judge(answer('aaca', { d => -0.1, a => -1 }), $want), 0,
   'another best token');

# a part of an answer, or more than was expected
is(follows(answer('aa', $far), answer('aaaa', $far)), 1, 'a part follows');
is(follows(answer('aaaab', $far), answer('aaaa', $far)), 1, 'more, too');
is(follows(answer('', $far), answer('aaaa', $far)) ? 1 : 0, 0,
   'nothing follows nothing');

done_testing;
