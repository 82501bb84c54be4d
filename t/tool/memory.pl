#!/usr/bin/perl
# memory.pl PIDFILE [SECONDS]: what a running nginx, its workers and its
# engines hold, in KiB, once or every SECONDS: proportional set size, memory
# of their own, shared memory, descriptors, threads.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use Infer;
use Infer::Memory;

my ($file, $every) = @ARGV;
die "usage: memory.pl PIDFILE [SECONDS]\n" if !defined $file;

# Inodes of the buses that a process has open.
sub buses {
    my ($pid) = @_;
    my %bus;
    for my $fd (glob "/proc/$pid/fd/*") {
        my $to = readlink $fd;
        next unless defined $to && $to =~ m{^/memfd:ngx_infer_bus};
        $bus{ (stat $fd)[1] } = 1;
    }
    return %bus;
}

sub processes {
    open my $f, '<', $file or die "$file: $!\n";
    my $master = <$f>;
    chomp $master;
    die "no process $master\n" if !Infer::alive($master);
    my @p = ([ master => $master ],
             map { [ worker => $_ ] } Infer::children($master));
    my %ours = map { buses($_->[1]) } @p;
    for my $d (glob '/proc/[0-9]*') {
        my ($pid) = $d =~ /(\d+)$/;
        next if Infer::cmdline($pid) !~ /ngx_infer_engine|--run /;
        my %bus = buses($pid);
        push @p, [ engine => $pid ]
            if grep({ $ours{$_} } keys %bus)
               && !grep { $_->[1] == $pid } @p;
    }
    return @p;
}

while (1) {
    my @p = processes();
    printf "%-8s %8s %9s %9s %9s %5s %7s\n",
           qw(process pid pss own shared fds threads);
    for (@p) {
        my ($what, $pid) = @$_;
        my $m = Infer::Memory::of($pid);
        printf "%-8s %8d %9d %9d %9d %5d %7d\n", $what, $pid, $m->{Pss} || 0,
               Infer::Memory::own($pid), $m->{Pss_Shmem} || 0,
               Infer::Memory::fds($pid), Infer::Memory::threads($pid);
    }
    printf "%-8s %8s %9d\n", 'all', '',
           Infer::Memory::pss(map { $_->[1] } @p);
    last if !$every;
    sleep $every;
}
