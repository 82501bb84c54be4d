#!/usr/bin/perl
# 125-deadline.t: a deadline that passes while a worker renders: the client is
# told that it took too long, whichever of the two the worker saw first.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(time);
use Infer;

my %ask = (prompt => 'n', max_tokens => 400, temperature => 1, seed => 1,
           ignore_eos => JSON::PP::true);
my @ms = map { Infer::in_time($_) } 3 .. 12;

# many choices with logprobs: most of the time goes into rendering
my $t = Infer->new(model => 'tiny', workers => 1,
    model_extra => 'context 1024; sequences 16;',
    server => join "\n", map {
        "location /$_/ { infer m; infer_timeout total=${_}ms; }" } @ms,
)->start;
$t->allow(qr/infer answers 504:/, qr/infer stream ends with an error/);

sub why {
    my ($r) = @_;
    my $e = ref $r->{error} ? $r->{error} : ($r->{json} || {})->{error};
    return $e ? $e->{type} : $r->{status} == 504 ? 'timeout_error'
         : $r->{status};
}

my (%streams, %others);
my $end = time + ($ENV{INFER_SHORT} ? 8 : 5);
while (time < $end) {
    for my $ms (@ms) {
        my %a = (%ask, n => 1 + int rand 8, logprobs => int rand 6);
        my $s = $t->stream("/$ms/v1/completions", \%a);
        $streams{why($s->collect)}++;
        $others{why($t->post("/$ms/v1/completions", \%a))}++;
    }
}
my $late = delete $streams{timeout_error};
cmp_ok($late, '>', 0, 'streams were late');
delete $streams{200};
is_deeply(\%streams, {}, 'and ended with nothing else');
$late = delete $others{timeout_error};
cmp_ok($late, '>', 0, 'so did what was not streamed');
delete $others{200};
is_deeply(\%others, {}, 'and with nothing else');
ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 20),
   'no slot is left');
$t->finish;
done_testing;
