#!/usr/bin/perl
# 168-hit-shared.t: a long hit is sent out of the cache's shared memory, to a
# slow client too: while its entry is purged, replaced and evicted, over a
# reload, and until its worker is killed.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;

my $port = Infer::free_port();
my $shared = 'infer m; infer_cache answers; infer_cache_scope all;';
my %conf = (http => "infer_cache_zone answers 1m shards=1;
                     server { listen 127.0.0.1:$port sndbuf=4096;
                              add_header X-Pid \$pid;
                              location / { $shared send_timeout 10m; } }");
my $t = Infer->new(
    %conf,
    location => $shared,
    server => 'location /purge { infer_cache_purge answers; }');
$t->start;

# one whose logprobs make it long, some 2 KB a token
my $path = '/v1/chat/completions';
sub long {
    my ($text, $tokens) = @_;
    return JSON::PP->new->canonical->encode({
        messages => [ { role => 'user', content => $text } ],
        max_tokens => $tokens, temperature => 0, logprobs => JSON::PP::true,
        top_logprobs => 20, ignore_eos => JSON::PP::true });
}
my $long = long('abc', 40);

sub bare {
    my ($r) = @_;
    my %j = %{ $r->{json} || {} };
    delete @j{qw(id created)};
    return \%j;
}

sub refs { return $t->metric('ngx_infer_cache_references') }

# A client that has the headers of its hit and no more.
sub slow {
    my $c = Infer::Client->new(port => $port, rcvbuf => 2048);
    $c->send('POST', $path, $long);
    $c->head;
    return $c;
}

sub warm {
    my $r;
    for (1 .. 4) {
        $r = $t->post($path, $long);
    }
    return $r;
}

sub fill {
    my ($from) = @_;
    for my $i ($from .. $from + 11) {
        my $body = long("fill $i", 20);
        $t->post($path, $body) for 1 .. 3;
    }
}

my $want = warm();
is($want->{headers}{'x-infer-cache'}, 'HIT', 'a hit');
cmp_ok(length $want->{body}, '>', 30000, 'a long one');
ok($t->wait_for(sub { refs() == 0 }, 5), 'nothing is read');

my $c = slow();
is($c->{headers}{'x-infer-cache'}, 'HIT', 'a slow client of it');
is(refs(), 1, 'reads it in place');
my $d = slow();
is(refs(), 2, 'another one too');
is($t->post('/purge?all', '')->{status}, 200, 'it is purged');
warm();
fill(0);
is_deeply(bare($c->response), bare($want), 'and read to its end');
ok($t->wait_for(sub { refs() == 1 }, 5), 'then given back');
fill(100);

(my $cut = $conf{http}) =~ s/shards=1/shards=2/;
$t->write_conf(http => $cut);
$t->signal('HUP');
ok($t->wait_for(sub { $t->log =~ /"answers" has 2 shards while it had 1/ }),
   'it cannot be cut anew');
$t->allow(qr/"answers" has 2 shards/);
$t->write_conf;
ok($t->reload, 'a reload');
fill(200);
is_deeply(bare($d->response), bare($want), 'the old worker sends it');
ok($t->wait_for(sub { refs() == 0 }, 5), 'and gives it back');

warm();
$c = slow();
is(refs(), 1, 'a third');
undef $c;
ok($t->wait_for(sub { refs() == 0 }, 5), 'goes away');

$c = slow();
$d = slow();
is(refs(), 2, 'two more');
my @old = $t->workers;
kill 'KILL', @old;
$t->wait_for(sub { my @w = $t->workers;
                   @w == 2 && !grep { my $w = $_; grep { $_ == $w } @old } @w
             });
ok($t->wait_for(sub { my $n = eval { refs() }; defined $n && $n == 0 }, 5),
   'the dead read nothing');
is_deeply(bare(warm()), bare($want), 'the cache goes on');
$c = slow();
fill(300);
is_deeply(bare($c->response), bare($want), 'in place as well');


# ---- a dead reader whose pid is not free: nobody has waited for it ----

ok($t->reload, 'new workers');
ok($t->wait_for(sub { $t->workers(1) == 2 }, 15), 'the old ones have gone');
$c = slow();
my ($reader) = $c->{headers}{'x-pid'};
kill 'STOP', $t->pid;
kill 'KILL', $reader;
ok($t->wait_for(sub { `cat /proc/$reader/stat` =~ /\) Z / }, 5), 'a zombie');
is(refs(), 0, 'reads nothing');
kill 'CONT', $t->pid;
ok($t->wait_for(sub { my @w = $t->workers;
                      @w == 2 && !grep { $_ == $reader } @w }, 10),
   'and is waited for');

$t->allow(qr/exited on signal 9/);
$t->finish;
done_testing();
