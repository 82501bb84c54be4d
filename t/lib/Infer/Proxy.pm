package Infer::Proxy;

# Proxy.pm: a process between nginx and a Redis that holds what is asked, and
# then lets it pass, or says something else in Redis' place.
#
#   my $p = Infer::Proxy->new($redis->port);
#   $p->port;
#   $p->hold;               what comes from now on is kept
#   $p->held;               how many values are asked for in what is kept
#   $p->pass;               all of it goes on
#   $p->say("garbage");     to those that wait; what they asked is dropped
#   $p->cut("\$5\r\nab");   the same, and their connections are reset
#   $p->stop;

use strict;
use warnings;

use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER IPPROTO_TCP TCP_NODELAY);

sub new {
    my ($class, $port) = @_;
    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64,
                                       ReuseAddr => 1) or die "listen: $!";
    pipe my $in, my $order or die "pipe: $!";
    pipe my $answer, my $out or die "pipe: $!";
    my $pid = fork;
    die "fork: $!" unless defined $pid;
    if (!$pid) {
        close $_ for $order, $answer;
        eval { serve({ port => $port, listen => $listen, in => $in,
                       out => $out, peer => {}, kept => {}, hold => 0,
                       of => {}, select => IO::Select->new($listen, $in) }) };
        POSIX::_exit(0);
    }
    close $_ for $in, $out;
    $order->autoflush;
    return bless { pid => $pid, port => $listen->sockport, order => $order,
                   answer => $answer, owner => $$ }, $class;
}

sub port { $_[0]{port} }
sub addr { "127.0.0.1:$_[0]{port}" }

sub order {
    my ($self, @words) = @_;
    print { $self->{order} } join(' ', @words), "\n";
    my $line = readline $self->{answer};
    return defined $line ? $line + 0 : 0;
}
sub hold { $_[0]->order('hold') }
sub held { $_[0]->order('held') }
sub pass { $_[0]->order('pass') }
sub say  { $_[0]->order('say', unpack 'H*', $_[1]) }
sub cut  { $_[0]->order('cut', unpack 'H*', $_[1]) }

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    return;
}

sub DESTROY {
    my ($self) = @_;
    return if $self->{owner} != $$;
    local $?;
    $self->stop;
    return;
}

# ---- in the process ----

sub serve {
    my ($s) = @_;
    $SIG{PIPE} = 'IGNORE';
    $s->{out}->autoflush;
    while (1) {
        for my $fh ($s->{select}->can_read) {
            if ($fh == $s->{listen}) {
                meet($s, scalar $fh->accept);
            } elsif ($fh == $s->{in}) {
                my $line = '';
                while (sysread $fh, my $byte, 1) {
                    last if $byte eq "\n";
                    $line .= $byte;
                }
                return if $line eq '';
                print { $s->{out} } obey($s, split / /, $line, 2), "\n";
            } elsif ($s->{peer}{$fh}) {
                forward($s, $fh);
            }
        }
    }
}

sub meet {
    my ($s, $client) = @_;
    my $redis = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                      PeerPort => $s->{port});
    return if !$client || !$redis;
    setsockopt $_, IPPROTO_TCP, TCP_NODELAY, 1 for $client, $redis;
    $s->{peer}{$client} = $redis;
    $s->{peer}{$redis} = $client;
    $s->{of}{$client} = $client;
    $s->{kept}{$client} = '';
    $s->{select}->add($client, $redis);
}

sub part {
    my ($s, $fh) = @_;
    my $other = delete $s->{peer}{$fh} or return;
    delete $s->{peer}{$other};
    delete @{ $s->{$_} }{$fh, $other} for qw(of kept);
    $s->{select}->remove($fh, $other);
    close $_ for $fh, $other;
}

sub forward {
    my ($s, $fh) = @_;
    my $n = sysread $fh, my $bytes, 65536;
    return part($s, $fh) if !$n;
    if ($s->{of}{$fh} && $s->{hold}) {
        $s->{kept}{$fh} .= $bytes;
    } else {
        syswrite $s->{peer}{$fh}, $bytes;
    }
}

sub obey {
    my ($s, $what, $hex) = @_;
    my $values = 0;
    $values += () = $_ =~ /infer:v:/g for values %{ $s->{kept} };
    return $values if $what eq 'held';
    $s->{hold} = $what eq 'hold';
    return $values if $s->{hold};
    for my $c (values %{ $s->{of} }) {
        my $kept = $s->{kept}{$c};
        $s->{kept}{$c} = '';
        if ($kept =~ /infer:v:/ && $what ne 'pass') {
            syswrite $c, pack 'H*', $hex if $hex;
            next if $what ne 'cut';
            select undef, undef, undef, 0.05;
            setsockopt $c, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
            part($s, $c);
        } elsif (length $kept) {
            syswrite $s->{peer}{$c}, $kept;
        }
    }
    return $values;
}

1;
