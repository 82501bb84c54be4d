#!/usr/bin/perl
# 114-end.t: quit, stop, USR2 upgrade, a killed master, daemon off,
# master_process off, nginx as PID 1: the engine is gone when it should be.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;

my %ask = (prompt => 'abc', max_tokens => 200, temperature => 0,
           ignore_eos => JSON::PP::true);

sub answer {
    my ($t, $what) = @_;
    my $r = $t->post('/v1/completions', { %ask, max_tokens => 5 });
    is($r->{status}, 200, "$what: an answer");
    return;
}

# quit waits for the streams
my $t = Infer->new(model => 'slow')->start;
my $s = $t->stream('/v1/completions', { %ask });
$s->event;
$t->signal('QUIT');
is($s->collect->{done}, 1, 'quit: a stream ends normally');
$t->finish;

# stop does not
$t = Infer->new(model => 'slow')->start;
$s = $t->stream('/v1/completions', { %ask, max_tokens => 900 });
$s->event;
$t->signal('TERM');
isnt($s->collect->{done}, 1, 'stop: a stream is cut');
$t->finish;

# the master and all workers killed: nobody is left, the engine ends
$t = Infer->new(model => 'slow')->start;
my @p = ($t->pid, $t->workers);
kill 'KILL', @p;
ok($t->wait_for(sub { !$t->engines }, 8), 'all killed: the engine ends');
unlink $t->dir . '/nginx.pid';
$t->finish;

# USR2: both run; then the old one quits
$t = Infer->new(model => 'slow')->start;
my $old = $t->pid;
my $old_engine = $t->engine;
kill 'USR2', $old;
ok($t->wait_for(sub { my $p = $t->pid; $p && $p != $old
                      && $t->workers >= 2 }, 10), 'USR2: a new master');
ok($t->wait_for(sub { $t->engines == 2 }, 20), 'it has its own engine');
$s = $t->stream('/v1/completions', { %ask });
$s->event;
kill 'QUIT', $old;
is($s->collect->{done}, 1, 'a stream goes on while the old one quits');
ok($t->wait_for(sub { !Infer::alive($old) }, 10), 'the old master is gone');
ok($t->wait_for(sub { my @e = $t->engines;
                      @e == 1 && $e[0] != $old_engine }, 10),
   'and its engine');
answer($t, 'after the upgrade');
$t->finish;

# daemon off and master_process off (where a reload is beyond us: stock nginx
# 1.22.1 has no connections left after one)
for my $mode ('daemon off', 'master_process off') {
    $t = Infer->new(model => 'tiny', workers => 1);
    my $conf = $t->conf_text;
    $conf =~ s/daemon on;/daemon off;/;
    $conf = "master_process off;\n$conf" if $mode =~ /master/;
    $t->{conf} = $conf;
    $t->write_conf;
    my $pid = fork;
    if (!$pid) {
        open STDOUT, '>', '/dev/null';
        open STDERR, '>', '/dev/null';
        exec Infer::nginx_bin(), '-p', $t->dir, '-c', $t->dir . '/nginx.conf';
    }
    ok($t->wait_ready(20), "$mode: ready");
    answer($t, $mode);
    kill 'QUIT', $pid;
    ok($t->wait_for(sub { waitpid($pid, 1) != 0 }, 10), "$mode: ends");
    $t->finish;
}

# PID 1 of its own namespace
SKIP: {
    system('unshare -pf --mount-proc true 2>/dev/null') == 0
        or skip 'unshare -pf is not allowed here', 4;
    $t = Infer->new(model => 'tiny', workers => 1);
    my $conf = $t->conf_text;
    $conf =~ s/daemon on;/daemon off;/;
    $t->{conf} = $conf;
    $t->write_conf;
    my $pid = fork;
    if (!$pid) {
        open STDERR, '>', '/dev/null';
        exec 'unshare', '-pf', '--kill-child', Infer::nginx_bin(), '-p', $t->dir,
             '-c', $t->dir . '/nginx.conf';
    }
    ok($t->wait_ready(20), 'PID 1: ready');
    answer($t, 'PID 1');
    kill 'KILL', $pid;
    waitpid $pid, 0;
    unlink $t->dir . '/nginx.pid';
    $t->finish;
}

done_testing;
