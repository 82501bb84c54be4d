package Test::Nginx::Socket;

# Socket.pm: runs test files in the format of OpenResty's
# Test::Nginx::Socket, on Debian's libtest-base-perl. It has the sections
# that our tests use and means the same by them; a file that runs here runs
# with the real library too, given TEST_NGINX_LOAD_MODULES.
#
# Sections: main_config http_config config user_files request raw_request
# pipelined_requests more_headers timeout must_die error_code response_body
# response_body_like response_body_unlike response_headers
# response_headers_like error_log no_error_log ONLY SKIP LAST
#
# Every block also asserts that the error log has no alert, crit or emerg
# line and no sanitizer report, unless its error_log section expects one.

use strict;
use warnings;

use Test::Base -Base;

use Infer;

our @EXPORT = qw(run_tests no_long_string no_shuffle no_root_location
                 server_port repeat_each blocks_per master_on workers
                 add_block_preprocessor worker_connections
                 env_to_nginx log_level);

my $port = Infer::free_port();
my ($t, $last_conf, $log_pos, @preprocessors);
my $repeat = 1;
my $level = 'debug';

sub no_long_string () { }
sub no_shuffle () { }
sub no_root_location () { }
sub server_port () { return $port }
sub repeat_each { my $n = $self; $repeat = $n if defined $n; return $repeat }
sub master_on () { }
sub workers { }
sub worker_connections { }
sub env_to_nginx { }
sub log_level { $level = $self }
sub add_block_preprocessor { push @preprocessors, $self }

sub expand () {
    my ($s) = @_;
    return '' unless defined $s;
    $s =~ s/\$TEST_NGINX_SERVER_PORT\b/$port/g;
    $s =~ s/\$(TEST_NGINX_\w+)/defined $ENV{$1} ? $ENV{$1} : ''/ge;
    return $s;
}

$ENV{TEST_NGINX_TINY_MODEL} = Infer::model_path('tiny');
$ENV{TEST_NGINX_SMOLLM2} = Infer::smollm2() || '';

# Models that say nothing of a device run on the one of INFER_TEST_DEVICE; the
# engine of their zone is told of the emulated plugin.
sub on_device () {
    my ($http) = @_;
    my $device = Infer::device();
    return $http if $device eq 'cpu';
    my %zones;
    $http =~ s{(infer_model \S+ \{)(?![^\}]*\bdevice\b)([^\}]*)}{
        my ($open, $rest) = ($1, $2);
        $zones{ $rest =~ /\bzone (\S+);/ ? $1 : 'default' } = 1;
        "$open device $device;$rest"
    }ge;
    return $http if !Infer::emulated();
    my $env = ' env=INFER_CUDA_PLUGIN=' . Infer::cuda_plugin();
    for my $zone (sort keys %zones) {
        $http =~ s/\binfer_engine +\Q$zone\E\b[^;]*/$&$env/
            or $http = "infer_engine $zone$env; $http";
    }
    return $http;
}

sub block_conf () {
    my ($b) = @_;
    my $so = $ENV{TEST_NGINX_LOAD_MODULES}
             || Infer::build_dir() . '/ngx_http_infer_module.so';
    my $dir = $t->dir;
    my $user = $> == 0 ? 'user root;' : '';
    my ($main, $http, $config) = map { expand(scalar $b->$_) }
                                 qw(main_config http_config config);
    $http = on_device($http);
    return <<"EOC";
load_module $so;
$user
worker_processes 1;
daemon on;
pid $dir/nginx.pid;
error_log $dir/logs/error.log $level;
$main
events { worker_connections 64; }
http {
    access_log $dir/logs/access.log;
    client_body_temp_path $dir/tmp/body;
    proxy_temp_path $dir/tmp/proxy;
    fastcgi_temp_path $dir/tmp/fastcgi;
    uwsgi_temp_path $dir/tmp/uwsgi;
    scgi_temp_path $dir/tmp/scgi;
    default_type text/plain;
    keepalive_timeout 68;
$http
    server {
        listen $port;
        server_name localhost;
        client_max_body_size 30m;
$config
    }
}
EOC
}

# nginx runs with this block's configuration; restarted when it changed.
sub ensure_nginx () {
    my ($b) = @_;
    my $conf = block_conf($b);
    my $files = scalar $b->user_files;
    if (defined $files) {
        mkdir $t->dir . '/html';
        while ($files =~ /^>>> (\S+)[^\n]*\n(.*?)(?=^>>> |\z)/msg) {
            $t->write_file("html/$1", $2);
        }
    }
    if (!defined $last_conf || $conf ne $last_conf || !$t->pid
        || !Infer::alive($t->pid))
    {
        stop_nginx();
        $t->{conf} = $conf;
        $t->write_conf;
        my ($rc, $out) = $t->nginx;
        $log_pos = 0;
        if (defined scalar $b->must_die) {
            Test::More::ok($rc != 0, $b->name . ' - must die');
            $t->write_file('logs/error.log', $out . $t->log);
            undef $last_conf;
            return 0;
        }
        if ($rc != 0) {
            Test::More::BAIL_OUT($b->name . ": nginx did not start: $out");
        }
        $t->wait_for(sub {
            $t->pid && IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                             PeerPort => $port)
        }, 10);
        $last_conf = $conf;
        # the first request must not meet a model that still loads
        wait_models() if $conf =~ /infer_model/;
    }
    return 1;
}

sub wait_models () {
    $t->wait_for(sub {
        my $log = $t->log;
        return 1 if $log =~ /infer.*\b(?:ready|loaded|failed)\b/;
    }, 20);
}

sub stop_nginx () {
    return unless $t->pid;
    my $pid = $t->pid;
    kill 'TERM', $pid;
    $t->wait_for(sub { !Infer::alive($pid) }, 10);
    unlink $t->dir . '/nginx.pid';
    unlink $t->dir . '/logs/error.log';
}

# Requests of a block: a list of raw byte strings.
sub block_requests () {
    my ($b) = @_;
    if (defined scalar $b->raw_request) {
        my $raw = scalar $b->raw_request;
        return ref $raw ? @$raw : ($raw);
    }
    my @reqs = defined scalar $b->pipelined_requests ? @{ $b->pipelined_requests }
                                              : (scalar $b->request);
    my $more = defined scalar $b->more_headers ? expand($b->more_headers) : '';
    $more =~ s/\r?\n/\r\n/g;
    $more .= "\r\n" if length $more && $more !~ /\r\n\z/;
    my @out;
    for my $i (0 .. $#reqs) {
        my $req = expand($reqs[$i]);
        my ($line, $body) = split /\r?\n/, $req, 2;
        my ($method, $uri, $proto) = split ' ', $line;
        $proto ||= 'HTTP/1.1';
        $body = '' unless defined $body;
        $body =~ s/\n\z//;
        my $s = "$method $uri $proto\r\nHost: localhost\r\n";
        $s .= 'Connection: ' . ($i == $#reqs ? 'close' : 'keep-alive')
              . "\r\n" unless $more =~ /^Connection:/mi;
        $s .= $more;
        $s .= 'Content-Length: ' . length($body) . "\r\n"
            if length $body && $more !~ /^(?:Content-Length|Transfer-Encoding):/mi;
        push @out, "$s\r\n$body";
    }
    return @out;
}

sub check_headers () {
    my ($name, $want, $got, $like) = @_;
    for my $line (split /\n/, expand($want)) {
        next unless $line =~ /\S/;
        if ($line =~ /^!\s*(\S+)/) {
            Test::More::ok(!defined $got->{lc $1}, "$name - no header $1");
            next;
        }
        my ($k, $v) = $line =~ /^([^:]+):\s*(.*)$/;
        my $h = $got->{lc $k};
        $h = '' unless defined $h;
        if ($like) {
            Test::More::like($h, qr/^$v$/, "$name - header $k");
        } else {
            Test::More::is($h, $v, "$name - header $k");
        }
    }
}

sub check_body () {
    my ($b, $name, $body, $i) = @_;
    my $pick = sub { ref $_[0] eq 'ARRAY' ? $_[0][$i] : $_[0] };
    if (defined scalar $b->response_body) {
        my $want = $pick->(scalar $b->response_body);
        Test::More::is($body, expand($want), "$name - response body")
            if defined $want;
    }
    for (['response_body_like', 1], ['response_body_unlike', 0]) {
        my ($s, $like) = @$_;
        next unless defined scalar $b->$s;
        my $re = $pick->(scalar $b->$s);
        next unless defined $re;
        $re = expand($re);
        $re =~ s/\n\z//;
        if ($like) {
            Test::More::like($body, qr/$re/s, "$name - $s");
        } else {
            Test::More::unlike($body, qr/$re/s, "$name - $s");
        }
    }
}

sub check_log () {
    my ($b, $name) = @_;
    my $log = substr $t->log, $log_pos;
    my @expect = grep { /\S/ } ref(scalar $b->error_log) ? @{ $b->error_log }
                               : split /\n/, scalar($b->error_log) || '';
    for my $e (@expect) {
        my $re = ref $e ? $e : qr/\Q$e\E/;
        my $seen = $t->wait_for(sub { substr($t->log, $log_pos) =~ $re }, 3);
        Test::More::ok($seen, "$name - error log has $e");
    }
    for my $e (grep { /\S/ } ref(scalar $b->no_error_log) ? @{ $b->no_error_log }
                               : split /\n/, scalar($b->no_error_log) || '')
    {
        my $re = ref $e ? $e : qr/\Q$e\E/;
        Test::More::ok($log !~ $re, "$name - error log lacks $e");
    }
    my @bad = grep { /\[(?:alert|crit|emerg)\]|Sanitizer|runtime error:/ }
              split /\n/, $log;
    for my $e (@expect) {
        my $re = ref $e ? $e : qr/\Q$e\E/;
        @bad = grep { $_ !~ $re } @bad;
    }
    Test::More::ok(!@bad, "$name - no alert, crit or emerg")
        or Test::More::diag(join "\n", @bad);
}

sub run_block () {
    my ($b) = @_;
    my $name = $b->name;
    if (!ensure_nginx($b)) {
        check_must_die_log($b);
        return;
    }
    $log_pos = length $t->log;
    my @raw = block_requests($b);
    if (@raw && defined $raw[0]) {
        my $timeout = $b->timeout ? $b->timeout + 0 : 30;
        my $c = Infer::Client->new(port => $port, timeout => $timeout);
        $c->send_raw(join '', @raw);
        my @codes = defined scalar $b->error_code ? (ref(scalar $b->error_code)
                    ? @{ $b->error_code } : scalar $b->error_code) : (200);
        my $n = defined scalar $b->pipelined_requests
                ? @{ $b->pipelined_requests } : 1;
        for my $i (0 .. $n - 1) {
            my ($m) = $raw[$i < @raw ? $i : 0] =~ /^(\w+)/;
            delete @$c{qw(status headers chunked left eof done)};
            $c->{method} = $m || 'GET';
            my $r = $c->response;
            my $code = $codes[$i < @codes ? $i : $#codes];
            $code =~ s/\s+//g;
            Test::More::is($r->{status}, $code, "$name - status");
            check_headers($name, scalar $b->response_headers, $r->{headers}, 0)
                if defined scalar $b->response_headers;
            check_headers($name, scalar $b->response_headers_like, $r->{headers}, 1)
                if defined scalar $b->response_headers_like;
            check_body($b, $name, $r->{body}, $i);
        }
    }
    check_log($b, $name);
}

# A configuration that must die says why; nothing else is asked of it.
sub check_must_die_log () {
    my ($b) = @_;
    my $log = $t->log;
    for my $e (grep { /\S/ } ref(scalar $b->error_log) ? @{ $b->error_log }
                               : split /\n/, $b->error_log || '')
    {
        my $re = ref $e ? $e : qr/\Q$e\E/;
        Test::More::like($log, $re, $b->name . " - says $e");
    }
    unlink $t->dir . '/logs/error.log';
}

sub run_tests () {
    $t = Infer->new(conf => '');
    $t->{port} = $port;
    my @blocks = Test::Base::blocks();
    for my $b (@blocks) {
        $_->($b) for @preprocessors;
        if (defined scalar $b->SKIP) {
            Test::More::diag('skipped: ' . $b->name);
            next;
        }
        for (1 .. $repeat) { run_block($b) }
        last if defined scalar $b->LAST;
    }
    stop_nginx();
    $t->{finished} = 1;
}

1;
