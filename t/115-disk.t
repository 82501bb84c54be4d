#!/usr/bin/perl
# 115-disk.t: module and engine replaced on disk under a running master, and
# logs rotated by USR1.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use File::Copy qw(copy);
use Infer;

my $t = Infer->new(model => 'tiny');
my $dir = $t->dir;
for my $f ('ngx_http_infer_module.so', 'ngx_infer_engine') {
    copy(Infer::build_dir() . "/$f", "$dir/$f") or die "$f: $!";
    chmod 0755, "$dir/$f";
}
my $conf = $t->conf_text;
$conf =~ s{load_module \S+;}{load_module $dir/ngx_http_infer_module.so;};
$t->{conf} = $conf;
$t->start;
my $old = $t->engine;

# the way a package manager replaces: another inode under the same name
$t->write_file('new', "not an engine\n");
rename "$dir/new", "$dir/ngx_infer_engine" or die $!;
$t->write_file('new', "not a module\n");
rename "$dir/new", "$dir/ngx_http_infer_module.so" or die $!;

$t->allow(qr/infer engine .*(?:died|gone|exited)/);
kill 'KILL', $old;
my $r = $t->post('/v1/completions', { prompt => 'a', max_tokens => 5 });
is($r->{status}, 200, 'a replaced engine: the opened one is started again');
ok($t->engine && $t->engine != $old, 'as another process');

# USR1
rename "$dir/logs/error.log", "$dir/logs/error.log.1";
$t->signal('USR1');
ok($t->wait_for(sub { -e "$dir/logs/error.log" }, 5), 'the log is reopened');
kill 'KILL', $t->engine;
ok($t->wait_for(sub { $t->log =~ /infer/ }, 10),
   'what the engine and its death say goes to the new log');
$r = $t->post('/v1/completions', { prompt => 'a', max_tokens => 5 });
is($r->{status}, 200, 'and it answers');

$t->finish;
done_testing;
