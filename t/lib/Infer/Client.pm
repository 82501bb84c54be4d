package Infer::Client;

# Client.pm: an HTTP/1.1 client for tests that reads a response bit by bit:
# status and headers first, then the body as it comes, or one SSE event at a
# time. Every read has a time limit.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use Socket qw(SOL_SOCKET SO_RCVBUF inet_aton pack_sockaddr_in);
use Time::HiRes qw(time);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

sub new {
    my ($class, %o) = @_;
    my $sock = $o{rcvbuf} ? small_socket(@o{qw(port rcvbuf)})
             : IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                   PeerPort => $o{port}, Proto => 'tcp', Timeout => 5);
    $sock or die "connect to $o{port}: $!";
    return bless { sock => $sock, in => '', timeout => $o{timeout} || 60 },
           $class;
}

# The size of a receive buffer counts only when it is set before connect().
sub small_socket {
    my ($port, $rcvbuf) = @_;
    my $sock = IO::Socket::INET->new(Proto => 'tcp') or return;
    setsockopt $sock, SOL_SOCKET, SO_RCVBUF, $rcvbuf or return;
    return unless $sock->connect(pack_sockaddr_in($port,
                                                  inet_aton('127.0.0.1')));
    return $sock;
}

sub send_raw {
    my ($self, $bytes) = @_;
    local $SIG{PIPE} = 'IGNORE';
    my $off = 0;
    while ($off < length $bytes) {
        my $n = syswrite $self->{sock}, $bytes, length($bytes) - $off, $off;
        return unless $n;
        $off += $n;
    }
    return 1;
}

sub send {
    my ($self, $method, $path, $body, %h) = @_;
    $body = $json->encode($body) if ref $body;
    my $req = "$method $path HTTP/1.1\r\nHost: localhost\r\n";
    $req .= "Content-Type: application/json\r\n"
        if defined $body && !grep { lc eq 'content-type' } keys %h;
    $req .= 'Content-Length: ' . length($body) . "\r\n" if defined $body;
    $req .= "$_: $h{$_}\r\n" for sort keys %h;
    $req .= "\r\n" . (defined $body ? $body : '');
    $self->{method} = $method;
    delete @$self{qw(status headers chunked left eof done)};
    return $self->send_raw($req);
}

# More bytes from the socket; 0 at the end, undef when time is over.
sub fill {
    my ($self, $timeout) = @_;
    my $end = time + (defined $timeout ? $timeout : $self->{timeout});
    my $sel = IO::Select->new($self->{sock});
    my $left = $end - time;
    return unless $sel->can_read($left > 0 ? $left : 0);
    my $n = sysread $self->{sock}, $self->{in}, 65536, length $self->{in};
    return $n || 0;
}

sub head {
    my ($self) = @_;
    return 1 if $self->{status};
    while ($self->{in} !~ /\r\n\r\n/) {
        return unless $self->fill;
    }
    $self->{in} =~ s/^(.*?)\r\n\r\n//s;
    my ($line, @h) = split /\r\n/, $1;
    ($self->{status}) = $line =~ m{^HTTP/1\.\d (\d+)} or return;
    $self->{headers} = {};
    for (@h) {
        my ($k, $v) = /^([^:]+):\s*(.*)$/ or next;
        $k = lc $k;
        $self->{headers}{$k} = defined $self->{headers}{$k}
                             ? "$self->{headers}{$k}, $v" : $v;
    }
    if ($self->{status} == 100) {
        delete $self->{status};
        return $self->head;
    }
    $self->{chunked} = lc($self->{headers}{'transfer-encoding'} || '')
                       eq 'chunked';
    $self->{left} = $self->{headers}{'content-length'};
    $self->{left} = 0 if $self->{method} eq 'HEAD'
                         || $self->{status} =~ /^(?:204|304)$/;
    $self->{data} = '';
    return 1;
}

# Body bytes as they come, into {data}; 0 at the end of the body, undef when
# time is over or the connection broke in the middle.
sub more {
    my ($self, $timeout) = @_;
    return 0 if $self->{done};
    if ($self->{chunked}) {
        while ($self->{in} !~ /^([0-9a-fA-F]+)[^\n]*\r\n/) {
            return unless $self->fill($timeout);
        }
        $self->{in} =~ /^([0-9a-fA-F]+)[^\n]*\r\n/;
        my ($len, $skip) = (hex $1, $+[0]);
        while (length($self->{in}) < $skip + $len + 2) {
            return unless $self->fill($timeout);
        }
        $self->{data} .= substr $self->{in}, $skip, $len;
        substr($self->{in}, 0, $skip + $len + 2) = '';
        $self->{done} = 1 if $len == 0;
        return $len;
    }
    if (defined $self->{left}) {
        if ($self->{left} == 0) { $self->{done} = 1; return 0 }
        if (!length $self->{in}) { return unless $self->fill($timeout) }
        my $part = substr $self->{in}, 0, $self->{left}, '';
        $self->{left} -= length $part;
        $self->{data} .= $part;
        return length $part;
    }
    if (!length $self->{in}) {
        my $n = $self->fill($timeout);
        return unless defined $n;
        if ($n == 0) { $self->{done} = 1; return 0 }
    }
    my $n = length $self->{in};
    $self->{data} .= $self->{in};
    $self->{in} = '';
    return $n;
}

sub response {
    my ($self) = @_;
    $self->head or return { status => 0, headers => {}, body => '' };
    my $n;
    while ($n = $self->more) { }
    my $r = { status => $self->{status}, headers => $self->{headers},
              body => $self->{data}, complete => defined $n };
    $r->{json} = eval { $json->decode($r->{body}) }
        if ($r->{headers}{'content-type'} || '') =~ /json/;
    return $r;
}

sub request {
    my ($self, @args) = @_;
    $self->send(@args);
    return $self->response;
}

# The next SSE event: decoded JSON, the string '[DONE]', or a comment as
# ': text'; undef at the end ({broken} when it came early or time is over).
sub event {
    my ($self, $timeout) = @_;
    $self->head or do { $self->{broken} = 1; return };
    while ($self->{data} !~ /\n\n/) {
        my $n = $self->more($timeout);
        if (!$n) {
            $self->{broken} = 1 if !defined $n;
            return;
        }
    }
    $self->{data} =~ s/^(.*?)\n\n//s;
    my $e = $1;
    return $e if $e =~ /^:/;
    $e =~ s/^data: //;
    return $e if $e eq '[DONE]';
    return $json->decode($e);
}

# What an event says of a choice, behind what is known of it.
sub append {
    my ($to, $c) = @_;
    my $d = $c->{delta} ? $c->{delta}{content} : $c->{text};
    $to->{text} .= $d if defined $d;
    $to->{finish} = $c->{finish_reason} if $c->{finish_reason};
    my $lp = exists $c->{text} ? $c->{logprobs} : undef;
    push @{ $to->{logprobs}{$_} }, @{ $lp->{$_} } for keys %{ $lp || {} };
    return;
}

# All the rest of a stream, and before it the events that were read already:
# text, finish reason, logprobs of completions (of all choices together, and
# in {choices} of each), usage, whether [DONE] came.
sub collect {
    my ($self, $limit, @begun) = @_;
    my %r = (text => '', events => 0, done => 0);
    while (defined(my $e = @begun ? shift @begun : $self->event)) {
        if (!ref $e) {
            $r{done} = 1 if $e eq '[DONE]';
            next;
        }
        $r{events}++;
        $r{error} = $e->{error} if $e->{error};
        $r{usage} = $e->{usage} if $e->{usage};
        $r{id} = $e->{id};
        for my $c (@{ $e->{choices} || [] }) {
            append($_, $c) for \%r,
                $r{choices}[ $c->{index} || 0 ] ||= { text => '' };
        }
        last if $limit && $r{events} >= $limit;
    }
    $r{status} = $self->{status};
    $r{broken} = $self->{broken};
    return \%r;
}

sub close {
    my ($self) = @_;
    CORE::close $self->{sock};
    return;
}

1;
