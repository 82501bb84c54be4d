#!/usr/bin/perl
# 120-kv.t: KV pages run out: the youngest sequences are preempted and go on
# later; every text is what it is alone. The context ends with "length"; n
# and several prompts under the same pressure.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;
use Infer::Same;

# The models of sanitizer builds and of the emulated device have fewer layers,
# so smaller pages; on the latter all is a quarter as long, too.
my $kv = Infer::emulated() ? '40k' : $ENV{INFER_PRELOAD} ? '2688k' : '8m';
my $part = Infer::emulated() ? 4 : 1;
my $context = 256 / $part;
my $t = Infer->new(model => 'slow', zone => '64m',
    location => 'infer m; infer_sampling max_n=8;'
                . ' infer_timeout queue=300s first=300s;',
    model_extra => "context $context; sequences 8; kv_cache $kv;")->start;
my ($pages) = $t->log =~ /kv pages (\d+)/;
cmp_ok($pages, '>=', $context / 32, "one context fits ($pages pages)");
cmp_ok($pages, '<', 5 * $context / 32, 'eight do not');

my %ask = (max_tokens => int(150 / $part), temperature => 0,
           ignore_eos => JSON::PP::true);

sub ask {
    my ($i) = @_;
    return { asked(%ask, prompt => "sequence $i", seed => $i,
                   temperature => $i % 2 ? 0.7 : 0, logprobs => 1) };
}

my @alone = map { wanted($t, ask($_)) } 1 .. 8;
my $metric = 'ngx_infer_preemptions_total';
is($t->metric($metric), 0, 'alone nobody is preempted');

my @c = map { my $c = $t->client(timeout => 200);
              $c->send('POST', '/v1/completions', ask($_)); $c } 1 .. 8;
my @r = map { $_->response } @c;
is_deeply([ map { $_->{status} } @r ], [ (200) x 8 ], 'eight together');
cmp_ok($t->metric($metric), '>', 0,
       'some were preempted: ' . $t->metric($metric));
same([ map { whole($_) } @r ], \@alone, 'each is what it is alone');

# streamed, with an engine that dies in the middle
$t->allow(qr/infer engine .*died/);
my @s = map { $t->stream('/v1/completions', ask($_)) } 1 .. 8;
my $first = $s[0]->event;
$t->wait_for(sub { 0 }, 0.5);
kill 'KILL', $t->engine;
@r = map { $s[$_]->collect(0, $_ == 0 ? $first : ()) } 0 .. 7;
same(\@r, \@alone, 'the same streamed, over a killed engine');

# n and several prompts
my $n = $t->post('/v1/completions', { %ask, prompt => [ 'one', 'two' ],
                 temperature => 1, seed => 5, n => 4, max_tokens => 100 / $part });
is($n->{status}, 200, 'two prompts, four choices each');
my @choice = map { $_->{text} } @{ $n->{json}{choices} };
is_deeply([ map { $_->{index} } @{ $n->{json}{choices} } ], [ 0 .. 7 ],
          'in order');
my %seen = map { $_ => 1 } @choice;
is(scalar(keys %seen), 8, 'all different');
$n = $t->post('/v1/completions', { %ask, prompt => 'one', temperature => 1,
              seed => 5, n => 2, max_tokens => 100 / $part });
is_deeply([ map { $_->{text} } @{ $n->{json}{choices} } ],
          [ @choice[0, 1] ], 'a choice does not depend on how many there are');

# the end of the context
my $ids = $t->post('/tokenize', { content => 'abc' })->{json}{tokens};
my $r = $t->post('/v1/completions', { %ask, prompt => $ids,
                 max_tokens => 100000 });
is($r->{status}, 200, 'more than the context can hold');
is($r->{json}{choices}[0]{finish_reason}, 'length', 'ends with length');
is($r->{json}{usage}{total_tokens}, $context, 'when the context is full');
$r = $t->post('/v1/completions', { %ask, prompt => [ (5) x ($context - 1) ] });
is($r->{json}{usage}{completion_tokens}, 1, 'room for one token');
$r = $t->post('/v1/completions', { %ask, prompt => [ (5) x $context ] });
is($r->{status}, 400, 'no room is a 400');
is($r->{json}{error}{code}, 'context_length_exceeded', 'that says so');

$t->none_left('ngx_infer_kv_pages_used', 'no page is left');
$t->none_left('ngx_infer_blocks_used', 'no block');

$t->finish;
done_testing;
