#!/usr/bin/perl
# 164-pace.t: infer_cache_pace: a stream out of the cache comes at its pace,
# whole events and the same bytes; slow clients, clients that go, reloads.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep time);
use Infer;
use Infer::Memory;

my %ask = (prompt => 'abc', max_tokens => 100, temperature => 0,
           ignore_eos => JSON::PP::true);

my $t = Infer->new(workers => 1,
    http => 'infer_cache_zone answers 4m; infer_cache answers;
             infer_cache_scope all; infer_cache_max_size 1m;
             log_format f "$infer_finish_reason $infer_cache_status";
             access_log logs/f.log f;',
    location => 'infer m; infer_cache_pace 100;',
    server => 'location /once/ { infer m; }
               location /fast/ { infer m; infer_cache_pace 5000; }
               location /slow/ { infer m; infer_cache_pace 10; }
               location /stale/ { infer m; infer_cache_pace 100;
                   infer_cache_valid 1s; infer_cache_use_stale updating; }',
)->start;

sub timed {
    my ($path, $ask) = @_;
    my $start = time;
    my $s = $t->stream($path, $ask);
    my $first = $s->event;
    my $begun = time - $start;
    my $r = $s->collect;
    $r->{text} = ($first->{choices}[0]{text} // '') . $r->{text};
    $r->{events}++;
    return ($s->{headers}{'x-infer-cache'}, $r, $begun, time - $start);
}

my ($how, $was) = timed('/v1/completions', \%ask);
is($how, 'MISS', 'a stream');
is($was->{done}, 1, 'is computed');

($how, my $at, undef, my $took) = timed('/once/completions', \%ask);
is($how, 'HIT', 'without a pace');
cmp_ok($took, '<', 0.5, 'it comes at once');

for my $by ('by request', 'by body') {
    ($how, my $r, my $begun, $took) = timed('/v1/completions', \%ask);
    is($how, 'HIT', "100 tokens, 100 a second, $by");
    cmp_ok($begun, '<', 0.3, "$by: the first event at once");
    cmp_ok($took, '>', 0.8, "$by: the last one after a second");
    cmp_ok($took, '<', 1.8, "$by: not much later");
    is($r->{text}, $at->{text}, "$by: the same text");
    is($r->{events}, $at->{events}, "$by: the same events");
    is($r->{done}, 1, "$by: to the end");
}

($how, my $r, undef, $took) = timed('/fast/completions', \%ask);
cmp_ok($took, '<', 0.5, '5000 a second');
is($r->{text}, $at->{text}, 'the same text');

my $start = time;
my $w = $t->post('/slow/completions', \%ask);
is($w->{headers}{'x-infer-cache'}, 'HIT', 'what is not streamed');
cmp_ok(time - $start, '<', 0.5, 'has no pace');

# an old one has its pace, while the new one is made
timed('/stale/completions', { %ask, prompt => 'old' });
sleep 1.2;
($how, $r, undef, $took) = timed('/stale/completions',
                                 { %ask, prompt => 'old' });
is($how, 'STALE', 'an old one');
cmp_ok($took, '>', 0.8, 'at its pace');
is($r->{done}, 1, 'to the end');
ok($t->wait_for(sub { $t->get('/metrics')->{body}
                      =~ /refreshes_total\{.*"done"\} 1$/m }),
   'while it is refreshed');

# clients that go
my ($worker) = $t->workers;
my @s = map { $t->stream('/slow/completions', \%ask) } 1 .. 20;
$_->event for @s;
my $gone = $t->metric('ngx_infer_client_gone_total');
$_->close for @s;
ok($t->wait_for(sub { $t->metric('ngx_infer_client_gone_total')
                      == $gone + 20 }), 'clients go');
ok($t->wait_for(sub { $t->log_text('f.log') =~ /^cancelled HIT$/m }),
   'and count as such');
like($t->log_text('f.log'), qr/^length HIT$/m, 'others do not');

# a client that takes nothing for a while: all of it, and no copies
# some 1.5 KB an event
my %long = (%ask, messages => [ { role => 'user', content => 'long' } ],
            max_tokens => 300, logprobs => JSON::PP::true,
            top_logprobs => 20);
delete $long{prompt};
my $chat = 'chat/completions';
my $long = $t->stream("/once/$chat", \%long)->collect;
$t->stream("/fast/$chat", \%long)->collect;
my @c = map { my $c = $t->client(rcvbuf => 4096);
              $c->send('POST', "/fast/$chat",
                       { %long, stream => JSON::PP::true });
              $c } 1 .. 10;
sleep 1;
my $m = Infer::Memory::own($worker);
sleep 0.5;
my @all = map { $_->collect } @c;
is(scalar(grep { $_->{done} && $_->{text} eq $long->{text} } @all), 10,
   'slow clients get everything');
$_->close for @c;
@c = ();
for (1 .. 3) {
    @s = map { $t->stream("/fast/$chat", \%long) } 1 .. 10;
    $_->event for @s;
    $_->close for @s;
    sleep 0.2;
}
my $grown = Infer::Memory::own($worker) - $m;
SKIP: {
    skip 'ASan keeps what is freed', 1 if $ENV{INFER_PRELOAD};
    cmp_ok($grown, '<', 1024, "and leave nothing ($grown KiB)");
}

# a reload waits for them
my $s = $t->stream('/v1/completions', \%ask);
$s->event;
my @old = $t->workers;
$t->reload;
ok(Infer::alive($old[0]), 'a reload: the old worker stays');
is($s->collect->{done}, 1, 'until the answer is complete');
ok($t->wait_for(sub { !Infer::alive($old[0]) }), 'then it goes');
$t->finish;
done_testing;
