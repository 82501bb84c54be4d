#!/usr/bin/perl
# 176-purge-race.t: a purge while another worker makes something of what it
# purges: a page of logs, or an answer that is being generated.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(time usleep);
use Infer;

my $t = Infer->new(
    workers => 2, model_extra => 'context 256; sequences 16;',
    http => 'infer_cache_zone answers 16m;
             infer_cache answers; infer_cache_tag some;',
    location => 'infer m; add_header X-Pid $pid;',
    server => 'location /purge { infer_cache_purge answers;
                                 add_header X-Pid $pid; }')->start;

# long to render, short to generate
my %ask = (prompt => 'p', max_tokens => 100, temperature => 0, n => 8,
           logprobs => 5, ignore_eos => JSON::PP::true);
my @purge = ('all', 'tag=some');
my (%at, $c);

# a connection to each of two workers
my $end = time + 10;
while (keys %at < 2 && time < $end) {
    $c = $t->client;
    $at{ $c->request('POST', '/purge?all', '')->{headers}{'x-pid'} } ||= $c;
}
my ($reader, $purger) = map { $at{$_} } sort keys %at;

sub how { $_[0]{headers}{'x-infer-cache'} || '-' }

# the same request in other bytes: its page is made of the logs that are there
my ($n, $made, $kept) = (0, 0, 0);
$end = time + ($ENV{INFER_SHORT} ? 15 : 6);
while (time < $end) {
    $reader->request('POST', '/v1/completions', \%ask);
    for (1 .. 4) {
        my %other = (%ask, user => 'u' . $n++);
        $reader->send('POST', '/v1/completions', \%other);
        usleep(rand 4000);
        $purger->request('POST', "/purge?$purge[$n % 2]", '');
        next if how($reader->response) ne 'HIT';
        $made++;
        my $r = $purger->request('POST', '/v1/completions', \%other);
        $kept++ if how($r) eq 'HIT';
        last;
    }
}
cmp_ok($made, '>', 0, 'pages were made');
is($kept, 0, 'none outlived a purge of what it was made of')
    or diag("of $made");

$t->finish;

# what is being generated while it is purged is not kept, as in Redis
$t = Infer->new(model => 'slow',
    http => 'infer_cache_zone answers 4m;
             infer_cache answers; infer_cache_tag some;',
    server => 'location /purge { infer_cache_purge answers; }')->start;
%ask = (max_tokens => Infer::tokens(200), temperature => 0,
        ignore_eos => JSON::PP::true);
for my $what (@purge) {
    $ask{prompt} = $what;
    my $s = $t->stream('/v1/completions', \%ask);
    $s->event;
    $t->post("/purge?$what", '');
    my $late = $t->stream('/v1/completions', \%ask);
    ok($s->collect->{done} && $late->collect->{done}
       && how($late) eq 'JOIN', 'generated, and joined after the purge');
    is(how($t->post('/v1/completions', \%ask)), 'MISS', "$what: not kept");
    is(how($t->post('/v1/completions', \%ask)), 'HIT',
       'what comes later is');
}
$t->finish;
done_testing;
