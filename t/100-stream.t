#!/usr/bin/perl
# 100-stream.t: streams: order, incremental delivery, pings, usage, keep-alive,
# equality with the answer that is not streamed, two workers.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;

my $t = Infer->new(model => 'slow')->start;

my %ask = (prompt => 'abc', max_tokens => 200, temperature => 0,
           ignore_eos => JSON::PP::true);

my $s = $t->stream('/v1/completions', \%ask);
my $first = $s->event;
is($s->{status}, 200, 'status');
like($s->{headers}{'content-type'}, qr{^text/event-stream}, 'content type');
is($s->{headers}{'cache-control'}, 'no-cache', 'cache-control');
is($s->{headers}{'x-accel-buffering'}, 'no', 'x-accel-buffering');
ok($s->{headers}{'x-request-id'}, 'x-request-id');
ok(ref $first && $first->{object} eq 'text_completion', 'a first event');
cmp_ok($t->metric('ngx_infer_requests_running'), '>=', 1,
       'it came while the generation runs');
my $text = $first->{choices}[0]{text};
my $rest = $s->collect;
$text .= $rest->{text};
is($rest->{finish}, 'length', 'finish reason');
is($rest->{done}, 1, '[DONE] comes');
ok(!$rest->{broken}, 'the body ends properly');
cmp_ok($rest->{events}, '>', 20, 'many events');

my $again = $s->request('POST', '/v1/completions', { %ask });
is($again->{status}, 200, 'the connection is kept alive');
is($again->{json}{choices}[0]{text}, $text, 'the same text, not streamed');
is($again->{json}{usage}{completion_tokens}, 200, 'usage');

# usage in the stream
my $u = $t->stream('/v1/chat/completions', { max_tokens => 5,
    temperature => 0, ignore_eos => JSON::PP::true,
    messages => [ { role => 'user', content => 'hi' } ],
    stream_options => { include_usage => JSON::PP::true } })->collect;
is($u->{usage}{completion_tokens}, 5, 'include_usage');
is($u->{done}, 1, 'then [DONE]');

# 16 at once, over two workers: the same bytes as alone
my %short = (%ask, max_tokens => Infer::emulated() ? 20 : 60);
my @s = map { $t->stream('/v1/completions', { %short, prompt => "p$_" }) }
        1 .. 16;
my @r = map { $_->collect } @s;
is(scalar(grep { $_->{done} && $_->{finish} eq 'length' } @r), 16,
   '16 streams end');
my @alone = map { $t->post('/v1/completions', { %short, prompt => "p$_" })
                    ->{json}{choices}[0]{text} } 1 .. 16;
is_deeply([ map { $_->{text} } @r ], \@alone,
          'each is byte for byte what it is alone');

# seeded sampling is reproducible, other seeds differ
my %seeded = (%ask, temperature => 1, seed => 42, max_tokens => 50);
my $a = $t->post('/v1/completions', \%seeded)->{json}{choices}[0]{text};
my $b = $t->stream('/v1/completions', \%seeded)->collect->{text};
is($b, $a, 'the same seed, the same text');
isnt($t->post('/v1/completions', { %seeded, seed => 43 })
       ->{json}{choices}[0]{text}, $a, 'another seed, another text');

# n choices
my $n = $t->post('/v1/completions', { %seeded, n => 3 })->{json};
is_deeply([ map { $_->{index} } @{ $n->{choices} } ], [ 0, 1, 2 ],
          'three choices');
is($n->{choices}[0]{text}, $a, 'choice 0 is the one of n = 1');
isnt($n->{choices}[1]{text}, $a, 'choice 1 differs');

# a ping keeps a queued stream open: the prompt takes a while
my $p = Infer->new(model => 'slow', location => 'infer m; infer_ping 20ms;'
                   . ' infer_timeout queue=300s first=300s;',
                   workers => 1)->start;
my @busy = map { $p->stream('/v1/completions',
                            { %ask, max_tokens => Infer::tokens(400) }) }
           1 .. 8;
$_->event for @busy;
my $wait = $p->stream('/v1/completions', { %ask, max_tokens => 5 });
my $e = $wait->event;
like($e, qr/^: /, 'a ping comes while the request waits');
is($wait->collect->{done}, 1, 'and then the answer');
$_->close for @busy;
$p->finish;

$t->finish;
done_testing;
