#!/usr/bin/perl
# 151-plugin.t: libngx_infer_cuda.so as nvcc made it: what it needs and
# exports, what it says where there is no driver, a plugin of another build;
# and nvcc's own code on the real model, its PTX interpreted by the emulator:
# the CPU's 8 greedy tokens.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;

my $dir = Infer::build_dir();
my $so = "$dir/libngx_infer_cuda.so";
my $cli = "$dir/infer_cli";
my $tiny = Infer::model_path('tiny');
plan skip_all => 'the CUDA plugin was not built (no nvcc)' if !-f $so;

sub cli {
    my ($env, @args) = @_;
    my $cmd = join ' ', 'env', '-u', 'INFER_CUDA_PLUGIN', @$env, $cli, @args;
    my $out = `( $cmd ) 2>&1`;
    return ($? >> 8, $out);
}

my @needed = map { /\(NEEDED\).*\[(.*)\]/ ? $1 : () } `readelf -d $so`;
is_deeply([ grep { !/^(?:libc|libm|libdl|librt|libpthread)\.so|^ld-linux/ }
            @needed ], [], 'needs nothing but libc and its family');
my @symbols = map { /\s(?:GLOBAL|WEAK)\s+DEFAULT\s+\d+\s+(\S+)$/ ? $1 : () }
              `readelf --dyn-syms -W $so`;
is_deeply(\@symbols, ['infer_cuda_plugin'], 'exports one symbol');

SKIP: {
    skip 'there is a driver', 2 if `ldconfig -p` =~ /libcuda\.so\.1/;
    my ($rc, $out) = cli([], "--device cuda -m $tiny --ids 1,2");
    is($rc, 1, 'no driver');
    like($out, qr/there is no NVIDIA driver \(libcuda\.so\.1 was not found\)/,
         'and a sentence that says so');
}

my ($rc, $out) = cli(["INFER_CUDA_PLUGIN=$dir/ngx_http_infer_module.so"],
                     "--device cuda -m $tiny --ids 1,2");
is($rc, 1, 'something else than a plugin');
like($out, qr/cannot be loaded|is not a plugin/, 'is refused');

SKIP: {
    my $emu = "$dir/libngx_infer_cuda_emu.so";
    # emulated too: eight tokens take half a minute
    my $model = 'models/SmolLM2-135M-Instruct.Q4_1.gguf';
    my @ptx = grep { !m{/test_} } glob "$dir/emu/ptx/90a/*.ptx";
    skip 'no real model, emulated plugin or PTX (make check-cuda)', 2
        if !-s $model || !-f $emu || !@ptx;
    my @run = ("-m $model --ids 504,3575,282,4649,314 -n 8 -t 1 -b 8");
    my ($r1, $cpu) = cli([], @run, '--isa ref-q8', '2>/dev/null');
    my ($r2, $gpu) = cli(["INFER_CUDA_PLUGIN=$emu", 'SIMT_ORDER=0',
                          'SIMT_PTX=' . join(':', @ptx)],
                         @run, '--device cuda', '2>/dev/null');
    is($r1 + $r2, 0, 'the real model by nvcc\'s PTX');
    is($gpu, $cpu, 'has the CPU\'s 8 greedy tokens');
}

done_testing;
