#!/usr/bin/perl
# 112-reload.t: reload under load; with the same model the engine keeps its
# pid; with another configuration a new engine takes over and the old one
# drains; a broken configuration or a taken port changes nothing.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use IO::Socket::INET;
use Time::HiRes qw(sleep);
use Infer;

my $t = Infer->new(model => 'slow')->start;
my $engine = $t->engine;
my %ask = (prompt => 'abc', max_tokens => Infer::tokens(300),
           temperature => 0, ignore_eos => JSON::PP::true);
my $want = $t->post('/v1/completions', { %ask })->{json}{choices}[0]{text};

sub streams { return map { $t->stream('/v1/completions', { %ask }) } 1 .. $_[0] }
sub texts {
    return map { my $r = $_->collect;
                 $r->{done} ? ($_->{text} || '') . $r->{text}
                            : 'broken: ' . ($r->{status} || 'no answer') } @_;
}

# twice in a row with streams of old workers alive
my @s = streams(4);
$_->{text} = $_->event->{choices}[0]{text} for @s;
ok($t->reload, 'reload');
push @s, streams(4);
ok($t->reload, 'and again');
push @s, streams(4);
is_deeply([ texts(@s) ], [ ($want) x @s ], 'no stream fails');
is($t->engine, $engine, 'the engine keeps its pid');
ok($t->wait_for(sub { $t->workers(1) == 2 }, 10), 'old workers are gone');

# many reloads under load; descriptors of the master do not grow
my $fds = sub { my @f = glob '/proc/' . $t->pid . '/fd/*'; scalar @f };
my $before = $fds->();
for (1 .. 5) {
    my @l = streams(3);
    $t->reload;
    push @s, @l;
    is_deeply([ texts(@l) ], [ ($want) x 3 ], "under load, reload $_");
}
is($t->engine, $engine, 'still the same engine');
ok($t->wait_for(sub { $t->workers(1) == 2 && $fds->() == $before }, 10),
   'the master holds no more descriptors');

# broken configuration
my $conf = $t->conf_text;
$t->allow(qr/no_such_thing/, qr/infer_model/, qr/bind\(\)|Address already in use|still could not bind/);
$t->write_file('nginx.conf', $conf . "\nno_such_thing;\n");
my @w = $t->workers;
my @live = streams(2);
$t->signal('HUP');
ok($t->wait_for(sub { $t->log =~ /no_such_thing/ }, 5), 'a broken file');
is_deeply([ $t->workers ], \@w, 'the workers stay');
# a model that is not there
(my $bad = $conf) =~ s{/\w+\.gguf"}{/none.gguf"};
$t->write_file('nginx.conf', $bad);
$t->signal('HUP');
ok($t->wait_for(sub { $t->log =~ /none\.gguf/ }, 5), 'a missing model');
is_deeply([ $t->workers ], \@w, 'the workers stay');
# a port that is taken
my $port = Infer::free_port();
my $taken = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1',
                                  LocalPort => $port);
(my $other = $conf) =~ s/(listen 127\.0\.0\.1:\d+;)/$1 listen 127.0.0.1:$port;/;
$other =~ s/context 1024/context 512/;
$t->write_file('nginx.conf', $other);
$t->signal('HUP');
ok($t->wait_for(sub { $t->log =~ /still could not bind/ }, 10), 'a taken port');
is_deeply([ $t->workers ], \@w, 'the workers stay');
is_deeply([ texts(@live) ], [ $want, $want ], 'and so do their streams');
is($t->engine, $engine, 'and the engine');
ok($t->wait_for(sub { $fds->() == $before }, 5),
   'no descriptor is left of what failed') or diag($fds->(), " $before");
close $taken;

# another configuration of the model: a new engine
@s = streams(4);
$_->{text} = $_->event->{choices}[0]{text} for @s;
ok($t->reload(model_extra => 'context 512; sequences 4;'), 'other sizes');
my @n = map { $t->stream('/v1/completions', { %ask }) } 1 .. 2;
is_deeply([ texts(@s) ], [ ($want) x 4 ], 'old streams end on the old engine');
is_deeply([ texts(@n) ], [ ($want) x 2 ], 'new ones on the new engine');
ok($t->wait_for(sub {
    my @e = $t->engines;
    @e == 1 && $e[0] != $engine
}, 20), 'the old engine is gone');
ok($t->wait_for(sub { $fds->() <= $before }, 5), 'and its descriptors');

$t->finish;
done_testing;
