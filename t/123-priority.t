#!/usr/bin/perl
# 123-priority.t: infer_priority: who waits starts by priority, then by
# arrival; what runs goes on; a wrong value is normal.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;

my $t = Infer->new(model => 'slow', workers => 2,
    model_extra => 'context 1024; sequences 1;',
    http => 'log_format o "$arg_me $infer_finish_reason";
             access_log logs/order.log o;',
    location => 'infer m; infer_priority $arg_p;',
    server => 'location /low/ { infer m; infer_priority low; }')->start;

my %ask = (prompt => 'abc', max_tokens => 4, temperature => 0,
           ignore_eos => JSON::PP::true);
my $waiting = sub { $t->metric('ngx_infer_requests_waiting') };

my $busy = $t->stream('/low/completions?me=busy',
                      { %ask, max_tokens => 900 });
$busy->event;
my (@c, $n);
for my $q ('low/completions?me=l1', 'v1/completions?me=l2&p=-1',
           'v1/completions?me=n1', 'v1/completions?me=n2&p=urgent',
           'v1/completions?me=h1&p=high', 'v1/completions?me=h2&p=1',
           'v1/completions?me=top&p=8')
{
    my $c = $t->client;
    $c->send('POST', "/$q", \%ask);
    push @c, $c;
    $n++;
    $t->wait_for(sub { $waiting->() >= $n }) or last;
}
is($waiting->(), 7, 'seven wait');
ok($busy->event, 'while what runs goes on');
$busy->close;
is(scalar(grep { $_->response->{status} == 200 } @c), 7, 'all are answered');
$_->close for @c;
my @order;
$t->wait_for(sub {
    @order = $t->log_text('order.log') =~ /^(\S+) length$/mg;
    return @order == 7;
});
is("@order", 'top h1 h2 n1 n2 l1 l2', 'by priority, then by arrival');
like($t->log, qr/infer priority "urgent" is taken for normal/,
     'a wrong value is said');

$t->finish;
done_testing;
