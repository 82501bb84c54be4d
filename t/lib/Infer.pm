package Infer;

# Infer.pm: one nginx with our module for one test: a directory, a port, a
# configuration, start, reload and stop by pid, an HTTP client that reads
# incrementally, and the check that the error log is clean.
#
#   my $t = Infer->new(location => 'infer m;');
#   $t->start;
#   my $r = $t->post('/v1/completions', { prompt => 'a', max_tokens => 3 });
#   my $s = $t->stream('/v1/completions', { prompt => 'a' });
#   while (my $event = $s->event) { ... }
#   $t->finish;           # stops nginx, checks the log, counts as one test

use strict;
use warnings;

use Cwd qw(abs_path getcwd);
use File::Path qw(make_path remove_tree);
use File::Temp qw(tempdir);
use IO::Socket::INET;
use JSON::PP;
use POSIX qw(:sys_wait_h);
use Test::More ();
use Time::HiRes qw(time sleep);

use Infer::Client;

my $serial = 0;

sub build_dir {
    my $b = $ENV{BUILD} || 'build';
    return abs_path($b) || getcwd() . "/$b";
}

# With its path: an upgrade by USR2 executes argv[0].
sub nginx_bin {
    return $ENV{TEST_NGINX_BINARY} if $ENV{TEST_NGINX_BINARY};
    for (split(/:/, $ENV{PATH} || ''), '/usr/sbin', '/usr/local/sbin') {
        return "$_/nginx" if -x "$_/nginx";
    }
    return 'nginx';
}

# INFER_TEST_DEVICE=cuda runs a file on that device: by the emulated plugin,
# with a smaller model where a slow one is wanted, or with
# INFER_DEVICE_REAL=1 by the real one.
sub device { return $ENV{INFER_TEST_DEVICE} || 'cpu' }
sub emulated { return device() ne 'cpu' && !$ENV{INFER_DEVICE_REAL} }

# How many tokens of the slow model's a test asks for: the emulated device
# makes them a tenth as fast.
sub tokens { return emulated() ? int($_[0] / 10) : $_[0] }

# A time limit of a test that a first token has to keep, in ms.
sub in_time { return emulated() ? 4 * $_[0] : $_[0] }

sub cuda_plugin {
    return $ENV{INFER_CUDA_PLUGIN}
           || build_dir() . ($ENV{INFER_DEVICE_REAL}
                             ? '/libngx_infer_cuda.so'
                             : '/libngx_infer_cuda_emu.so');
}

sub model_path {
    my ($name) = @_;
    $name = 'tiny' if !defined $name;
    $name = 'emu' if $name eq 'slow' && emulated();
    return build_dir() . "/$name.gguf" if $name =~ /^(?:tiny|slow|cuda|emu)$/;
    return $name =~ m{^/} ? $name : getcwd() . "/$name";
}

# The real model, or undef: tests then skip with the reason below.
sub smollm2 {
    return undef if emulated();
    my $p = getcwd() . '/models/SmolLM2-135M-Instruct.Q4_1.gguf';
    return -s $p ? $p : undef;
}

sub no_smollm2 {
    return emulated() ? 'the real model takes the emulated device too long'
                      : 'the demo model is not there (make model)';
}

sub free_port {
    my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1',
                                  LocalPort => 0) or die "no port: $!";
    return $s->sockport;
}

# model (tiny), workers (2), main, events, http, server, location: text;
# conf: a whole file instead. zone: arguments of infer_zone. engine:
# arguments of infer_engine. model_extra: directives in infer_model. device:
# where the model runs (INFER_TEST_DEVICE, cpu).
sub new {
    my ($class, %o) = @_;
    my $dir = tempdir('ngx_infer_XXXXXX', TMPDIR => 1,
                      CLEANUP => !$ENV{INFER_KEEP});
    chmod 0755, $dir;
    my $self = bless { workers => 2, location => 'infer m;', %o,
                       dir => $dir, port => free_port(), allow => [],
                       zone_name => "t$$" . '_' . $serial++ }, $class;
    make_path("$dir/logs", "$dir/tmp");
    chmod 0777, "$dir/logs", "$dir/tmp";
    return $self;
}

sub dir  { $_[0]{dir} }
sub port { $_[0]{port} }

# Debug logs only under INFER_DEBUG_LOG: they hide what is asserted.
sub conf_text {
    my ($self, %o) = @_;
    my %c = (%$self, %o);
    return $c{conf} if defined $c{conf};
    my $so = build_dir() . '/ngx_http_infer_module.so';
    my $dir = $self->{dir};
    my $model = model_path($c{model});
    my $user = $> == 0 ? 'user root;' : '';
    my $zone = defined $c{zone} ? $c{zone} : '48m';
    my $engine = defined $c{engine} ? $c{engine} : 'threads=1';
    my $extra = defined $c{model_extra} ? $c{model_extra}
                                        : 'context 1024; sequences 8;';
    my $device = defined $c{device} ? $c{device} : device();
    $extra .= " device $device;" if $extra !~ /\bdevice\b/;
    # tests that run at once share a GPU
    $extra .= ' gpu_memory 1g;'
        if $ENV{INFER_DEVICE_REAL} && $extra =~ /device cuda/
           && $extra !~ /\b(?:gpu_memory|kv_cache)\b/;
    $engine .= ' env=INFER_CUDA_PLUGIN=' . cuda_plugin()
        if $extra =~ /device cuda/ && $engine !~ /INFER_CUDA_PLUGIN/;
    my $level = $ENV{INFER_DEBUG_LOG} ? 'debug' : 'info';
    my ($main, $events, $http, $server) =
        map { defined $c{$_} ? $c{$_} : '' } qw(main events http server);
    return <<"EOC";
load_module $so;
$user
worker_processes $c{workers};
daemon on;
pid $dir/nginx.pid;
error_log $dir/logs/error.log $level;
$main
events { worker_connections 256; $events }
http {
    access_log $dir/logs/access.log;
    client_body_temp_path $dir/tmp/body;
    proxy_temp_path $dir/tmp/proxy;
    fastcgi_temp_path $dir/tmp/fastcgi;
    uwsgi_temp_path $dir/tmp/uwsgi;
    scgi_temp_path $dir/tmp/scgi;
    infer_zone $self->{zone_name} $zone;
    infer_engine $self->{zone_name} $engine;
    infer_model m { zone $self->{zone_name}; path "$model"; $extra }
    $http
    server {
        listen 127.0.0.1:$self->{port};
        server_name localhost;
        $server
        location / { $c{location} }
    }
}
EOC
}

sub write_file {
    my ($self, $name, $text) = @_;
    my $path = $name =~ m{^/} ? $name : "$self->{dir}/$name";
    open my $f, '>', $path or die "$path: $!";
    print $f $text;
    close $f or die "$path: $!";
    return $path;
}

sub write_conf {
    my ($self, %o) = @_;
    return $self->write_file('nginx.conf', $self->conf_text(%o));
}

# nginx with arguments, output captured; returns (exit code, output). A module
# built with ASan needs its library loaded before stock nginx; what nginx
# leaves to exit() is no leak of ours.
sub nginx {
    my ($self, @args) = @_;
    my $dir = $self->{dir};
    my @pre = $ENV{INFER_PRELOAD} ? ('env', "LD_PRELOAD=$ENV{INFER_PRELOAD}",
                                     'ASAN_OPTIONS=detect_leaks=0',
                                     'UBSAN_OPTIONS=print_stacktrace=1')
                                  : ();
    my $cmd = join ' ', map { "'$_'" } @pre, nginx_bin(), '-p', $dir,
                                       '-c', "$dir/nginx.conf", @args;
    my $out = `$cmd 2>&1`;
    return ($? >> 8, $out);
}

sub test_conf {
    my ($self, %o) = @_;
    $self->write_conf(%o);
    return $self->nginx('-t');
}

sub start {
    my ($self, %o) = @_;
    $self->write_conf(%o);
    my ($rc, $out) = $self->nginx;
    if ($rc != 0) {
        Test::More::diag($out . $self->log);
        die "nginx did not start";
    }
    $self->wait_for(sub { $self->pid }, 10) or die "no pid file";
    $self->{master} = $self->pid;
    return $self if $o{no_wait};
    $self->wait_ready or do {
        Test::More::diag($self->log);
        $self->stop;
        die "the model did not get ready";
    };
    return $self;
}

sub wait_ready {
    my ($self, $timeout) = @_;
    return $self->wait_for(sub {
        my $r = eval { $self->get('/health/ready') };
        return $r && $r->{status} == 200;
    }, $timeout || 60);
}

sub wait_for {
    my ($self, $cond, $timeout) = @_;
    my $end = time + ($timeout || 10);
    while (1) {
        my $v = $cond->();
        return $v if $v;
        return if time > $end;
        sleep 0.02;
    }
}

sub pid {
    my ($self) = @_;
    open my $f, '<', "$self->{dir}/nginx.pid" or return;
    my $p = <$f>;
    return unless defined $p;
    chomp $p;
    return $p =~ /^\d+$/ ? $p : undef;
}

sub children {
    my ($pid) = @_;
    my @c;
    for my $f (glob '/proc/[0-9]*/stat') {
        open my $h, '<', $f or next;
        my $line = <$h>;
        next unless defined $line && $line =~ /^(\d+) \(.*\) (\S) (\d+)/s;
        push @c, $1 if $3 == $pid && $2 ne 'Z';
    }
    return sort { $a <=> $b } @c;
}

# 1 while the process runs; a zombie that nobody has reaped does not.
sub alive {
    my ($pid) = @_;
    open my $f, '<', "/proc/$pid/stat" or return 0;
    my $line = <$f>;
    return defined $line && $line =~ /^\d+ \(.*\) Z/s ? 0 : 1;
}

# Worker processes that are not shutting down.
sub workers {
    my ($self, $all) = @_;
    return grep {
        my $t = cmdline($_);
        $t =~ /worker process/ && ($all || $t !~ /shutting down/)
    } children($self->pid);
}

sub cmdline {
    my ($pid) = @_;
    open my $f, '<', "/proc/$pid/cmdline" or return '';
    local $/;
    my $t = <$f>;
    return '' unless defined $t;
    $t =~ s/\0/ /g;
    return $t;
}

# Engines of this test's zone, by their command line.
sub engines {
    my ($self) = @_;
    my @e;
    for my $d (glob '/proc/[0-9]*') {
        my ($p) = $d =~ /(\d+)$/;
        push @e, $p if cmdline($p) =~ /--run \S+ \Q$self->{zone_name}\E /;
    }
    return @e;
}

sub engine { return ($_[0]->engines)[0] }

sub signal {
    my ($self, $sig) = @_;
    return kill $sig, $self->pid;
}

# Reloads and waits until new workers serve and log says so.
sub reload {
    my ($self, %o) = @_;
    my %old = map { $_ => 1 } $self->workers;
    $self->write_conf(%o) if %o;
    $self->signal('HUP');
    return $self->wait_for(sub {
        my @new = grep { !$old{$_} } $self->workers;
        return @new == $self->{workers};
    }, 15);
}

sub stop {
    my ($self, $sig) = @_;
    my $pid = $self->pid or return 1;
    kill $sig || 'QUIT', $pid;
    my $gone = $self->wait_for(sub { !alive($pid) }, 15);
    if (!$gone) {
        kill 'KILL', $pid;
        kill 'KILL', $_ for $self->workers(1);
    }
    return $gone;
}

sub log_text {
    my ($self, $name) = @_;
    open my $f, '<', "$self->{dir}/logs/" . ($name || 'error.log') or return '';
    local $/;
    my $t = <$f>;
    return defined $t ? $t : '';
}

sub log { return $_[0]->log_text('error.log') }

# Lines that the test expects beside info and notice.
sub allow {
    my ($self, @re) = @_;
    push @{ $self->{allow} }, @re;
    return;
}

sub bad_log_lines {
    my ($self) = @_;
    my @bad = grep { /\[(?:emerg|alert|crit|error|warn)\]|Sanitizer|runtime error:/ }
              split /\n/, $self->log;
    for my $re (@{ $self->{allow} }) {
        @bad = grep { $_ !~ $re } @bad;
    }
    return @bad;
}

# Stops nginx; two tests: everything is gone, the error log is clean.
sub finish {
    my ($self, $sig) = @_;
    my $gone = $self->stop($sig);
    my $no_engine = $self->wait_for(sub { !$self->engines }, 12);
    kill 'KILL', $_ for $self->engines;
    Test::More::ok($gone && $no_engine, 'nginx and its engine are gone');
    my @bad = $self->bad_log_lines;
    Test::More::ok(!@bad, 'the error log is clean')
        or Test::More::diag(join "\n", @bad[0 .. ($#bad > 20 ? 20 : $#bad)]);
    $self->{finished} = 1;
    return;
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{finished} || ($self->{owner} || $$) != $$;
    local $?;
    if (my $pid = $self->pid) {
        kill 'TERM', $pid;
        sleep 0.3;
        kill 'KILL', $_ for $self->engines;
    }
    return;
}

# ---- HTTP ----

sub client {
    my ($self, %o) = @_;
    return Infer::Client->new(port => $self->{port}, %o);
}

sub get {
    my ($self, $path, %h) = @_;
    return $self->client->request('GET', $path, undef, %h);
}

sub post {
    my ($self, $path, $body, %h) = @_;
    return $self->client->request('POST', $path, $body, %h);
}

# Starts a streaming request; events are read one by one.
sub stream {
    my ($self, $path, $body, %h) = @_;
    my $c = $self->client;
    $c->send('POST', $path, { stream => JSON::PP::true, %$body }, %h);
    return $c;
}

sub metric {
    my ($self, $name) = @_;
    my $r = $self->get('/metrics');
    return $r->{body} =~ /^\Q$name\E(?:\{[^}]*\})? (\S+)$/m ? $1 : undef;
}

# A gauge falls to 0, now or within 5 s: the engine gives pages and blocks
# back after the step that still uses them, later than it tells the slot's
# end.
sub none_left {
    my ($self, $name, $what) = @_;
    my $n;
    $self->wait_for(sub { $n = eval { $self->metric($name) };
                          defined $n && $n == 0 }, 5);
    return Test::More::is($n, 0, $what);
}

1;
