#!/usr/bin/perl
# 120-kv.t: KV pages run out: the youngest sequences are preempted and go on
# later; every text is what it is alone. The context ends with "length"; n
# and several prompts under the same pressure.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;

# the model of sanitizer builds has fewer layers, so smaller pages
my $kv = $ENV{INFER_PRELOAD} ? '2688k' : '8m';
my $t = Infer->new(model => 'slow', zone => '64m',
    location => 'infer m; infer_sampling max_n=8;'
                . ' infer_timeout queue=300s first=300s;',
    model_extra => "context 256; sequences 8; kv_cache $kv;")->start;
my ($pages) = $t->log =~ /kv pages (\d+)/;
cmp_ok($pages, '>=', 8, "one context fits ($pages pages)");
cmp_ok($pages, '<', 40, 'eight do not');

my %ask = (max_tokens => 150, temperature => 0, ignore_eos => JSON::PP::true);

sub ask {
    my ($i) = @_;
    return { %ask, prompt => "sequence $i", seed => $i,
             temperature => $i % 2 ? 0.7 : 0, logprobs => 1 };
}

sub content {
    my ($c) = @_;
    return [ $c->{text}, $c->{finish_reason}, $c->{logprobs}{tokens},
             $c->{logprobs}{token_logprobs} ];
}

my @alone = map { content($t->post('/v1/completions', ask($_))
                            ->{json}{choices}[0]) } 1 .. 8;
my $metric = 'ngx_infer_preemptions_total';
is($t->metric($metric), 0, 'alone nobody is preempted');

my @c = map { my $c = $t->client(timeout => 200);
              $c->send('POST', '/v1/completions', ask($_)); $c } 1 .. 8;
my @r = map { $_->response } @c;
is_deeply([ map { $_->{status} } @r ], [ (200) x 8 ], 'eight together');
cmp_ok($t->metric($metric), '>', 0,
       'some were preempted: ' . $t->metric($metric));
is_deeply([ map { content($_->{json}{choices}[0]) } @r ], \@alone,
          'each is what it is alone, to the last bit of its logprobs');

# streamed, with an engine that dies in the middle
$t->allow(qr/infer engine .*died/);
my @s = map { $t->stream('/v1/completions', ask($_)) } 1 .. 8;
my $first = $s[0]->event->{choices}[0]{text};
$t->wait_for(sub { 0 }, 0.5);
kill 'KILL', $t->engine;
@r = map { $_->collect } @s;
$r[0]{text} = $first . $r[0]{text};
is_deeply([ map { $_->{text} } @r ], [ map { $_->[0] } @alone ],
          'the same streamed, over a killed engine');

# n and several prompts
my $n = $t->post('/v1/completions', { %ask, prompt => [ 'one', 'two' ],
                 temperature => 1, seed => 5, n => 4, max_tokens => 100 });
is($n->{status}, 200, 'two prompts, four choices each');
my @choice = map { $_->{text} } @{ $n->{json}{choices} };
is_deeply([ map { $_->{index} } @{ $n->{json}{choices} } ], [ 0 .. 7 ],
          'in order');
my %seen = map { $_ => 1 } @choice;
is(scalar(keys %seen), 8, 'all different');
$n = $t->post('/v1/completions', { %ask, prompt => 'one', temperature => 1,
              seed => 5, n => 2, max_tokens => 100 });
is_deeply([ map { $_->{text} } @{ $n->{json}{choices} } ],
          [ @choice[0, 1] ], 'a choice does not depend on how many there are');

# the end of the context
my $ids = $t->post('/tokenize', { content => 'abc' })->{json}{tokens};
my $r = $t->post('/v1/completions', { %ask, prompt => $ids,
                 max_tokens => 100000 });
is($r->{status}, 200, 'more than the context can hold');
is($r->{json}{choices}[0]{finish_reason}, 'length', 'ends with length');
is($r->{json}{usage}{total_tokens}, 256, 'when the context is full');
$r = $t->post('/v1/completions', { %ask, prompt => [ (5) x 255 ] });
is($r->{json}{usage}{completion_tokens}, 1, 'room for one token');
$r = $t->post('/v1/completions', { %ask, prompt => [ (5) x 256 ] });
is($r->{status}, 400, 'no room is a 400');
is($r->{json}{error}{code}, 'context_length_exceeded', 'that says so');

$t->none_left('ngx_infer_kv_pages_used', 'no page is left');
$t->none_left('ngx_infer_blocks_used', 'no block');

$t->finish;
done_testing;
