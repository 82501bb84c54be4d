package Infer::Memory;

# Memory.pm: what processes hold, from /proc: proportional set sizes in KiB
# and open descriptors.

use strict;
use warnings;

# The fields of smaps_rollup in KiB, by name; empty when the process is gone.
sub of {
    my ($pid) = @_;
    my %m;
    open my $f, '<', "/proc/$pid/smaps_rollup" or return \%m;
    while (my $line = <$f>) {
        $m{$1} = $2 if $line =~ /^(\w+):\s+(\d+) kB/;
    }
    return \%m;
}

# Pss of several processes together; memory in swap counts.
sub pss {
    my $sum = 0;
    for my $pid (@_) {
        my $m = of($pid);
        $sum += ($m->{Pss} || 0) + ($m->{SwapPss} || 0);
    }
    return $sum;
}

# Memory that is the process's own: heap, stacks, data.
sub own {
    my ($pid) = @_;
    my $m = of($pid);
    return ($m->{Pss_Anon} || 0) + ($m->{SwapPss} || 0);
}

sub fds {
    my ($pid) = @_;
    opendir my $d, "/proc/$pid/fd" or return 0;
    return scalar grep { !/^\./ } readdir $d;
}

sub threads {
    my ($pid) = @_;
    opendir my $d, "/proc/$pid/task" or return 0;
    return scalar grep { !/^\./ } readdir $d;
}

1;
