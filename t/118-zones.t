#!/usr/bin/perl
# 118-zones.t: zones that come and go by reload leave nothing behind in the
# master and no engine; a model file that was touched brings a new engine, an
# engine that cannot come up is started again with a growing delay.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use File::Copy qw(copy);
use Time::HiRes qw(sleep time);
use Infer;

my $t = Infer->new(model => 'tiny');
my $file = $t->dir . '/m.gguf';
copy(Infer::model_path('tiny'), $file) or die "$file: $!";
$t->{model} = $file;
$t->start;
my $engine = $t->engine;
my $fds = sub { my @f = glob '/proc/' . $t->pid . '/fd/*'; scalar @f };
my $before = $fds->();

sub others {
    return grep { Infer::cmdline($_) =~ /--run \S+ \Q$t->{zone_name}\E_b\d/ }
           map { /(\d+)$/ } glob '/proc/[0-9]*';
}

for my $i (1 .. 6) {
    my $z = "$t->{zone_name}_b$i";
    $t->reload(http => "infer_zone $z 32m; infer_model b$i { zone $z; "
                       . "path $file; context 128; alias c$i; }")
        or die 'no reload';
    $t->reload(http => '') or die 'no reload' if $i % 2;
}
$t->reload(http => '');
ok($t->wait_for(sub { !others() }, 15), 'engines of zones that are gone end');
ok($t->wait_for(sub { $fds->() <= $before }, 10),
   'the master holds no more descriptors');
is($t->engine, $engine, 'the zone that stayed has its engine');

# the same path, another file as far as anybody can tell
utime 1, 1, $file or die $!;
$t->reload;
ok($t->wait_for(sub { my @e = $t->engines; @e == 1 && $e[0] != $engine }, 15),
   'a touched model: another engine');
$t->wait_ready(10);
is($t->post('/v1/completions', { prompt => 'a', max_tokens => 3 })->{status},
   200, 'which answers');
$t->finish;

# passes the check, and ends at once when it is to run
my $bad = Infer->new(model => 'tiny', workers => 2);
my $c = $bad->write_file('bad.c', <<'EOC');
#include <string.h>
#include <unistd.h>
extern char **environ;
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--check") == 0) {
        execve(ENGINE, argv, environ);
    }
    return 1;
}
EOC
my $engine_bin = Infer::build_dir() . '/ngx_infer_engine';
SKIP: {
    system('cc', "-DENGINE=\"$engine_bin\"", '-o', $bad->dir . '/bad', $c) == 0
        or skip 'no compiler', 4;
    $bad->{engine} = 'path=' . $bad->dir . '/bad';
    $bad->allow(qr/infer engine .* did not come up/, qr/Loading model/);
    $bad->start(no_wait => 1);
    sleep 7;
    my $n = () = $bad->log =~ /did not come up, starting another/g;
    ok($n >= 1 && $n <= 3, "an engine that ends at once: $n more in 7 s");
    isnt($bad->get('/health/ready')->{status}, 200, 'it is not ready');
    is($bad->get('/health/live')->{status}, 200, 'nginx is alive');
    $bad->finish;
}

done_testing;
