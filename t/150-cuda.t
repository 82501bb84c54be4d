#!/usr/bin/perl
# 150-cuda.t: `device cuda` end to end by the emulated plugin (or a real GPU
# with INFER_DEVICE_REAL=1): what an operator reads when there is no usable
# device, the CPU's tokens, parallel sequences, a device error in the middle
# of a stream, a killed engine, the device's health.
#
# Greedy tokens must be the CPU's up to the first near-tie, by the rule of
# Infer::Same: attention rounds differently.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;
use Infer::Same;

my $real = $ENV{INFER_DEVICE_REAL};
my $plugin = Infer::cuda_plugin();
plan skip_all => 'the emulated CUDA plugin was not built (make emu)'
    if !$real && !-f $plugin;
my %cuda = (device => 'cuda', model => $real ? 'slow' : 'cuda');
my $restarts = qr/infer engine .*(?:died|gone|exited|did not come up)/;

sub ask {
    my ($i, $n) = @_;
    return { prompt => "cuda stream number $i", max_tokens => $n,
             temperature => 0, logprobs => 2, ignore_eos => JSON::PP::true };
}

sub tokens { return scalar @{ $_[0]{logprobs}{tokens} || [] } }

# ---- what is said when there is no device ----

SKIP: {
    skip 'a real GPU is there', 3 * 5 if $real;
    for (['none', 'the NVIDIA driver finds no CUDA device'],
         ['nodriver', 'there is no NVIDIA driver'],
         ['olddriver', 'the NVIDIA driver is too old'],
         ['cc=75', 'is too old: its compute capability is 7.5'],
         ['mem=1m', 'too little memory'])
    {
        my ($spec, $text) = @$_;
        my $t = Infer->new(%cuda, engine => "threads=1 env=SIMT_DEVICE=$spec");
        $t->allow(qr/infer engine failed: .*\Q$text\E/, $restarts);
        $t->start(no_wait => 1);
        ok($t->wait_for(sub {
            my $r = eval { $t->get('/health/ready') };
            $r && $r->{status} == 503 && $r->{body} =~ /\Q$text\E/;
        }, 20), "/health/ready: $text");
        $t->finish;
    }
}

# ---- the same tokens as the CPU ----

my $c = Infer->new(model => $cuda{model}, device => 'cpu')->start;
my @cpu = map { wanted($c, ask($_, 16)) } 1 .. 8;
$c->finish;

my $t = Infer->new(%cuda)->start;
my $one = whole($t->post('/v1/completions', ask(1, 16)));
is(tokens($one), 16, 'a whole answer');
ok(follows($one, $cpu[0]), 'with the tokens of the CPU');

my @s = map { $t->stream('/v1/completions', ask($_, 16)) } 1 .. 8;
my @got = map { $_->collect } @s;
is(scalar(grep { tokens($_) == 16 } @got), 8, '8 sequences side by side');
is(scalar(grep { follows($got[$_], $cpu[$_]) } 0 .. 7), 8,
   'each with the tokens of the CPU');
cmp_ok($t->metric('ngx_infer_kv_pages'), '>=', 32, 'pages are told');

# ---- what is lost is said, once for each type ----

{
    my $l = Infer->new(%cuda, model_extra =>
        'context 1024; sequences 8; device cuda; precision bf16;')->start;
    ok($l->wait_for(sub { $l->log =~ /infer model "m" loaded/ }, 5), 'loaded');
    my @said = $l->log =~ /infer model "m": weights of type (\w+) are rounded to bf16, each by at most 0\.4 %/g;
    my %types = map { $_ => 1 } @said;
    is_deeply([ sort keys %types ], [ sort @said ], 'each type is told once');
    ok($types{Q4_0}, "rounded: @said");
    $l->finish;
    unlike($t->log, qr/weights of type/, 'nothing where nothing is lost');
}

# ---- a killed engine ----

$t->allow($restarts);
my $s = $t->stream('/v1/completions', ask(3, 48));
my $first = $s->event;
kill 'KILL', $t->engine;
my $all = $s->collect(0, $first);
is(tokens($all), 48, 'nothing is lost or doubled when the engine is killed');
ok(follows($all, $cpu[2]), 'and the tokens go on');
$t->finish;

# ---- a device that breaks in the middle of a stream ----

SKIP: {
    skip 'a real GPU does not break on demand', 5 if $real;
    my $b = Infer->new(%cuda,
                       engine => 'threads=1 env=SIMT_FAIL=kernel:400:700');
    $b->allow($restarts, qr/the device failed/);
    $b->start;
    my $all = $b->stream('/v1/completions', ask(5, 40))->collect;
    is(tokens($all), 40, 'a broken device ends no stream');
    ok(follows($all, $cpu[4]), 'its tokens go on');
    cmp_ok($b->metric('ngx_infer_engine_restarts_total'), '>=', 1,
           'by another engine');
    $b->finish;
}

# ---- health of the device ----

SKIP: {
    skip 'no C compiler', 3 if system('cc --version > /dev/null 2>&1') != 0;
    my $n = Infer->new(%cuda);
    my $dir = $n->dir;
    $n->write_file('nvml.c', <<'EOC');
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **d)
{ *d = (void *) id; return id[0] == '\0'; }
int nvmlDeviceGetTemperature(void *d, int s, unsigned *v)
{ *v = 61; return d == 0 || s; }
int nvmlDeviceGetUtilizationRates(void *d, unsigned *v)
{ v[0] = 42; v[1] = 7; return d == 0; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *v)
{ v[0] = 1000; v[1] = 400; v[2] = 600; return d == 0; }
int nvmlDeviceGetPowerUsage(void *d, unsigned *v)
{ (void) d; (void) v; return 3; }
EOC
    is(system("cc -shared -fPIC -o $dir/libnvidia-ml.so.1 $dir/nvml.c"), 0,
       'an NVML for tests');
    $n->{engine} = "threads=1 env=LD_LIBRARY_PATH=$dir";
    $n->start;
    ok($n->wait_for(sub {
        my $m = $n->get('/metrics')->{body};
        $m =~ /^ngx_infer_device_temperature_celsius\{[^}]*device="cuda"\} 61$/m
        && $m =~ /^ngx_infer_device_utilization_percent\{.*\} 42$/m
        && $m =~ /^ngx_infer_device_memory_used_bytes\{.*\} 600$/m
        && $m =~ /^ngx_infer_device_memory_bytes\{.*\} 1000$/m
        && $m !~ /device_power/;
    }, 5), 'the device tells how it is, and only what it knows');
    $n->finish;
}

done_testing;
