package Infer::Redis;

# Redis.pm: one redis-server for one test: on loopback and on a unix socket,
# in a directory of its own, stopped by its pid.
#
#   my $redis = Infer::Redis->new(args => ['--maxmemory', '1mb']);
#   $redis->start;
#   $redis->cli('GET', 'key');
#   $redis->stop;
#
# And nginx as a node that uses it as its second tier:
#
#   my $t = $redis->node(block => 'timeout 200ms;');
#   Infer::Redis::warm($t) or die;

use strict;
use warnings;

use File::Temp qw(tempdir);
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(time sleep);

use Infer;

my $serial = 0;

# undef where there is no redis-server: tests then skip.
sub binary {
    for (split(/:/, $ENV{PATH} || ''), '/usr/bin', '/usr/local/bin') {
        return "$_/redis-server" if -x "$_/redis-server";
    }
    return undef;
}

sub new {
    my ($class, %o) = @_;
    my $dir = tempdir('ngx_infer_redis_XXXXXX', TMPDIR => 1, CLEANUP => 1);
    return bless { dir => $dir, port => Infer::free_port(),
                   args => $o{args} || [], owner => $$ }, $class;
}

sub port   { $_[0]{port} }
sub pid    { $_[0]{pid} }
sub socket { "$_[0]{dir}/redis.sock" }
sub addr   { "127.0.0.1:$_[0]{port}" }

sub start {
    my ($self, @more) = @_;
    my $pid = fork;
    die "fork: $!" unless defined $pid;
    if (!$pid) {
        open STDOUT, '>>', "$self->{dir}/log";
        open STDERR, '>&', \*STDOUT;
        exec binary(), '--port', $self->{port}, '--bind', '127.0.0.1',
             '--unixsocket', $self->socket, '--unixsocketperm', '777',
             '--save', '', '--appendonly', 'no', '--dir', $self->{dir},
             '--daemonize', 'no', @{ $self->{args} }, @more
            or POSIX::_exit(127);
    }
    $self->{pid} = $pid;
    chmod 0755, $self->{dir};
    my $end = time + 10;
    while (time < $end) {
        return $self if $self->cli('PING') =~ /PONG|NOAUTH/;
        sleep 0.02;
    }
    die "redis-server did not start";
}

# Output of redis-cli without the newline at its end; errors too.
sub cli {
    my ($self, @args) = @_;
    my @auth = defined $self->{auth} ? @{ $self->{auth} } : ();
    my $pid = open my $out, '-|';
    die "fork: $!" unless defined $pid;
    if (!$pid) {
        open STDERR, '>&', \*STDOUT;
        exec 'timeout', '5', 'redis-cli', '-s', $self->socket,
             '--no-auth-warning', @auth, @args
            or POSIX::_exit(127);
    }
    local $/;
    my $text = <$out>;
    close $out;
    $text = '' unless defined $text;
    $text =~ s/\n\z//;
    return $text;
}

sub keys {
    my ($self, $pattern) = @_;
    my @keys = sort grep { length } split /\n/, $self->cli('KEYS', $pattern);
    return @keys;
}

sub freeze { kill 'STOP', $_[0]{pid} }
sub thaw   { kill 'CONT', $_[0]{pid} }

sub stop {
    my ($self, $sig) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'CONT', $pid;
    kill $sig || 'TERM', $pid;
    for (1 .. 250) {
        return if waitpid($pid, WNOHANG) == $pid;
        sleep 0.02;
    }
    kill 'KILL', $pid;
    waitpid $pid, 0;
    return;
}

# ---- nodes ----

# A node: its own nginx, engine and first tier. secret: the file's text.
# servers, block: what is in infer_redis. in: of each location that serves;
# server: more locations, $IN stands for such a location's directives. size:
# of the first tier; http: more there. Everything else as for Infer.
sub node {
    my ($self, %o) = @_;
    my $secret = delete $o{secret} || 'x' x 40;
    my $servers = delete $o{servers} || 'server ' . $self->addr . ';';
    my $block = delete $o{block};
    $block = 'timeout 200ms; fail_timeout 1s;' if !defined $block;
    my $in = 'infer m; infer_cache answers redis=shared; '
             . (delete $o{in} || '');
    my $size = delete $o{size} || '2m';
    my $t = Infer->new(workers => 1, %o, location => $in);
    my $path = $t->write_file('secret', $secret);
    chmod 0600, $path;
    $t->{http} = "infer_cache_zone answers $size; infer_cache_secret $path;
                  infer_redis shared { $servers $block } "
                 . ($o{http} || '');
    $t->{server} = ($o{server} || '') . ' location /purge {
                    infer_cache_purge answers; }';
    $t->{server} =~ s/\$IN\b/$in/g;
    return $t->start;
}

# A request that nobody has made.
sub fresh {
    my (%o) = @_;
    return { prompt => "p$$ " . $serial++, max_tokens => 8, temperature => 0,
             ignore_eos => JSON::PP::true, %o };
}

sub of {
    my ($t, $name) = @_;
    return $t->metric("ngx_infer_redis_$name") || 0;
}

# So many values were written.
sub stored {
    my ($t, $n) = @_;
    return $t->wait_for(sub { of($t, 'stores_total') >= $n }, 5);
}

# Values are written: the engine knows the model's content, Redis answers.
sub warm {
    my ($t) = @_;
    my $n = of($t, 'stores_total');
    return $t->wait_for(sub {
        $t->post('/v1/completions', fresh(max_tokens => 1));
        sleep 0.05;
        return of($t, 'stores_total') > $n;
    }, 30);
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local $?;
    $self->stop('KILL');
    return;
}

1;
