#!/usr/bin/perl
# 122-install.t: make install, a server from what it installed; and the build
# in a stock nginx source tree, dynamic and static, where NGINX_STOCK= names
# one (not part of the ordinary run: it compiles nginx).
use strict;
use warnings;
use lib 't/lib';
use Cwd qw(getcwd);
use Test::More;
use Infer;

my $top = getcwd();
my $t = Infer->new(model => 'tiny', workers => 1);
my $dir = $t->dir;

sub run {
    my ($cmd, $what) = @_;
    my $out = `( $cmd ) 2>&1`;
    return ok($? == 0, $what) || do {
        diag(substr($out, -3000));
        0;
    };
}

my $build = $ENV{BUILD} || 'build';
my ($sanitizer) = $build =~ /^build-([\w-]+)$/;
$sanitizer = defined $sanitizer ? 'SANITIZER=' . $sanitizer =~ s/-/,/gr : '';
run("make --no-print-directory BUILD=$build $sanitizer DESTDIR=$dir/root"
    . ' MODULESDIR=/opt/nginx/modules install', 'make install');
my $modules = "$dir/root/opt/nginx/modules";
# the CUDA plugin goes with them where it was built
my @files = ('ngx_http_infer_module.so', 'ngx_infer_engine',
    grep { -f "$build/$_" } 'libngx_infer_cuda.so');
is(join(' ', map { s{.*/}{}r } sort glob "$modules/*"),
   join(' ', sort @files), 'the files side by side');
is((stat "$modules/ngx_infer_engine")[2] & 07777, 0755, 'one to execute');
is((stat "$modules/ngx_http_infer_module.so")[2] & 07777, 0644, 'one to load');

(my $conf = $t->conf_text)
    =~ s{load_module \S+;}{load_module $modules/ngx_http_infer_module.so;};
$t->{conf} = $conf;
$t->start;
is(readlink('/proc/' . $t->engine . '/exe'), "$modules/ngx_infer_engine",
   'the installed engine runs');
is($t->post('/v1/completions', { prompt => 'a', max_tokens => 2 })->{status},
   200, 'and answers');

# the three lines of the README, relative paths and all
my $port = Infer::free_port();
my $m = Infer->new;
my $mdir = $m->dir;
mkdir "$mdir/modules" or die $!;
symlink "$modules/$_", "$mdir/modules/$_" or die $!
    for 'ngx_http_infer_module.so', 'ngx_infer_engine';
$m->{port} = $port;
my $temp = join ' ', map { "${_}_temp_path $mdir/tmp/$_;" }
    qw(client_body proxy fastcgi uwsgi scgi);
my $user = $> == 0 ? 'user root;' : '';
symlink Infer::model_path('tiny'), "$mdir/m.gguf" or die $!;
$m->{conf} = <<"EOC";
load_module modules/ngx_http_infer_module.so;
$user pid $mdir/nginx.pid; error_log $mdir/logs/error.log info;
events {}
http {
    $temp access_log off;
    infer_model smollm2 { path m.gguf; }
    server { listen 127.0.0.1:$port; location /v1/ { infer smollm2; } }
}
EOC
$m->{zone_name} = 'default';
$m->start(no_wait => 1);
ok($m->wait_for(sub {
    my $r = eval { $m->get('/v1/health/ready') };
    $r && $r->{status} == 200
}, 60), 'three lines of configuration are enough');
is($m->post('/v1/completions', { prompt => 'a', max_tokens => 2 })->{status},
   200, 'to answer');
my $pid = $m->pid;
$m->stop;
ok(!Infer::alive($pid), 'it ends');
my @bad = $m->bad_log_lines;
ok(!@bad, 'its log is clean') or diag(join "\n", @bad);
$m->{finished} = 1;
$t->finish;

SKIP: {
    my $stock = $ENV{NGINX_STOCK};
    skip 'NGINX_STOCK= names no source tree', 6 if !$stock;
    my $configure = -f "$stock/configure" ? './configure'
                                          : './auto/configure';

    run("cp -r $stock $dir/nginx && cd $dir/nginx && sh $configure"
        . " --with-compat --with-threads --add-dynamic-module=$top",
        'configure of a stock tree');
    run("cd $dir/nginx && make -f objs/Makefile modules", 'make modules');
    ok(-s "$dir/nginx/objs/ngx_http_infer_module.so", 'a module');

    skip 'the headers of nginx only', 3 if !-f "$stock/src/core/nginx.c";
    run("cp -r $stock $dir/static && cd $dir/static && sh $configure"
        . " --prefix=$dir/static/run --with-threads --add-module=$top",
        'configure of a static build');
    run("cd $dir/static && make -f objs/Makefile binary && cp "
        . Infer::build_dir() . '/ngx_infer_engine objs/', 'make');
    my $s = Infer->new(model => 'tiny', workers => 1);
    ($conf = $s->conf_text) =~ s{load_module \S+;}{};
    $s->{conf} = $conf;
    local $ENV{TEST_NGINX_BINARY} = "$dir/static/objs/nginx";
    $s->start;
    is($s->post('/v1/completions', { prompt => 'a', max_tokens => 2 })
       ->{status}, 200, 'nginx with the module linked in answers');
    $s->finish;
}

done_testing;
