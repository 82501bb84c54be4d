#!/usr/bin/perl
# 130-memory.t: what a request in flight costs a worker, what requests of
# every kind leave behind, and what engine and workers hold together.
# INFER_REQUESTS: how many requests SmolLM2 answers (300).
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(sleep);
use Infer;
use Infer::Memory;

my $TRUE = JSON::PP::true;
my $json = JSON::PP->new->canonical;

# ---- a request in flight, against one that limit_req delays ----

# KiB for each of n requests: heap and stacks, and everything.
sub in_flight {
    my ($path, $how, $n, %ask) = @_;
    my $t = Infer->new(model => 'slow', workers => 1, zone => '128m',
        model_extra => 'context 512; sequences 256; kv_cache 512m;',
        http => 'limit_req_zone $server_name zone=z:1m rate=1r/m;'
                . 'limit_req_log_level info;',
        server => 'location /held/ { limit_req zone=z burst=1000; infer m; }');
    my $conf = $t->conf_text;
    $conf =~ s/worker_connections 256/worker_connections 1024/;
    $t->{conf} = $conf;
    $t->start;

    my ($worker) = $t->workers;
    my $engine = $t->engine;
    my $body = $json->encode({ prompt => 'abc', max_tokens => 400, %ask,
                               stop => ['zzz'], temperature => 0, ignore_eos => $TRUE });
    $body =~ s/^\{/'{"pad":"' . 'x' x (1015 - length $body) . '",'/e;
    is(length $body, 1024, "$how: the body is 1 KiB");

    # each thread of the pool has run, and so has nginx's own code
    $t->post('/v1/completions', { prompt => 'a', max_tokens => 1 })
        for 1 .. 40;
    $t->post('/held/v1/completions', '{}');
    $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 5);

    kill STOP => $engine;
    my $own = Infer::Memory::own($worker);
    my $pss = Infer::Memory::pss($worker);
    my @c;
    for (1 .. $n) {
        push @c, my $c = $t->client;
        $c->send('POST', $path, $body);
    }
    if ($how eq 'held') {
        sleep 0.5;
    } else {
        $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == $n }, 20);
    }
    if ($how eq 'streaming') {
        # all begin in one step and have the same few tokens: however slow
        # the machine is, a log of 400 does not get into its second block
        kill CONT => $engine;
        $_->event for @c;
        kill STOP => $engine;
        # what is on its way arrives
        sleep 0.5;
    }
    my $slots = $t->metric('ngx_infer_slots_used');
    is($slots, $path =~ /held/ ? 0 : $n, "$how: $n requests are in flight");
    $own = (Infer::Memory::own($worker) - $own) / $n;
    $pss = (Infer::Memory::pss($worker) - $pss) / $n;
    kill CONT => $engine;
    $_->close for @c;
    ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 10),
       "$how: no slot is left");
    $t->finish;
    note(sprintf '%s: %.2f KiB a request of its own, %.2f KiB in all', $how,
         $own, $pss);
    return ($own, $pss);
}

my $n = 200;
my ($held_own, $held_pss) = in_flight('/held/v1/completions', 'held', $n);
cmp_ok($held_own, '>', 4, 'what limit_req holds is measured');

my ($own, $pss) = in_flight('/v1/completions', 'queued', $n);
cmp_ok($own - $held_own, '<=', 6, 'queued: own memory');
cmp_ok($pss - $held_pss, '<=', 8, 'queued: with the bus, at most 8 KiB more');

($own, $pss) = in_flight('/v1/completions', 'streaming', $n,
                         stream => $TRUE);
cmp_ok($own - $held_own, '<=', 6, 'streaming: own memory');
cmp_ok($pss - $held_pss, '<=', 8,
       'streaming: with the bus, at most 8 KiB more');

# ---- nothing stays of requests, errors, gone clients, reloads ----

# KV pages of gone sequences may be kept: few, so that all are soon in use
my $t = Infer->new(model => 'tiny', model_extra =>
                   'context 1024; sequences 8; kv_cache 512k;', location =>
                   'infer m; client_max_body_size 8m;')->start;

my @kinds = (
    sub {
        my ($c, $i) = @_;
        return $c->request('POST', '/v1/completions',
            { prompt => "hello $i", max_tokens => 3 })->{status} == 200;
    },
    sub {
        my ($c, $i) = @_;
        return $c->request('POST', '/v1/chat/completions',
            { messages => [ { role => 'user', content => "hi $i" } ], n => 2,
              max_tokens => 5, logprobs => $TRUE, top_logprobs => 3,
              stop => ['zzz'] })->{status} == 200;
    },
    sub {
        my ($c, $i) = @_;
        $c->send('POST', '/v1/completions', { stream => $TRUE,
            prompt => "hello $i", max_tokens => 20, stop => ['qqq'],
            logit_bias => { 5 => 1 } });
        return $c->collect->{done};
    },
    sub {
        my ($c, $i) = @_;
        return $c->request('POST', '/v1/completions',
                           { prompt => 'a', n => "x$i" })->{status} == 400
               && $c->request('POST', '/v1/completions', '{')->{status} == 400
               && $c->request('GET', "/nothing/$i")->{status} == 404;
    },
    sub {
        my ($c, $i) = @_;
        return $c->request('POST', '/tokenize',
                           { content => "hello $i" })->{status} == 200
               && $c->request('GET', '/v1/models')->{status} == 200
               && $c->request('GET', '/metrics')->{status} == 200;
    },
    sub {
        my ($c, $i) = @_;
        return $c->request('POST', '/v1/completions', { prompt => 'hello',
            pad => 'y' x (40000 + $i), max_tokens => 1 })->{status} == 200;
    },
    sub {
        my (undef, $i) = @_;
        my $c = $t->client;
        $c->send('POST', '/v1/completions', { prompt => "hello $i",
            $i % 2 ? (stream => $TRUE) : (), max_tokens => 700,
            ignore_eos => $TRUE });
        sleep 0.001 * ($i % 8);
        $c->close;
        return 1;
    });

sub all_kinds {
    my ($rounds) = @_;
    my $bad = 0;
    for my $r (1 .. $rounds) {
        my $c = $t->client;
        for my $i (1 .. 10) {
            $bad += !$_->($c, 10 * $r + $i) for @kinds;
        }
        $c->close;
    }
    $t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 10);
    return $bad;
}

sub everything { return ($t->pid, $t->workers, $t->engines) }

sub descriptors { return join ' ', map { Infer::Memory::fds($_) } everything() }

# Connections are closed a little later than clients see it.
sub quiet {
    my ($want) = @_;
    return $t->wait_for(sub { descriptors() eq $want }, 5);
}

is(all_kinds(8), 0, 'requests of every kind are answered as they should be');
sleep 0.5;
my $fds = descriptors();
# What is touched for the first time, a thread's arena or a block, grows once,
# which depends on how many threads the machine lets run; a leak grows always.
my ($grown, $bad) = (undef, 0);
for (1 .. 3) {
    my $before = Infer::Memory::pss(everything());
    $bad += all_kinds(8);
    my $by = Infer::Memory::pss(everything()) - $before;
    note("grown by $by KiB");
    $grown = $by if !defined $grown || $by < $grown;
    last if $grown < 1024;
}
is($bad, 0, 'and many more');
cmp_ok($grown, '<', 1024, 'requests leave no memory behind');
$t->none_left('ngx_infer_blocks_used', 'and no block');
$t->none_left('ngx_infer_kv_pages_used', 'and no KV page');
ok(quiet($fds), 'and no descriptor')
    or diag("before: $fds, now: " . descriptors());

# Arenas of the pool's threads do not grow with the largest body.
my $text = 'hello wor ' x 60000;
my $most = 0;
for (1 .. 4) {
    my @c = map { $t->client } 1 .. 8;
    $_->send('POST', '/v1/completions', { prompt => $text }) for @c;
    is(scalar(grep { $_->response->{status} == 400 } @c), 8,
       'large bodies are refused');
    $_->close for @c;
}
for my $w ($t->workers) {
    my $o = Infer::Memory::own($w);
    $most = $o if $o > $most;
}
note("a worker has $most KiB after large bodies");
cmp_ok($most, '<', 12288, 'large bodies leave little behind');

# The first reload makes the master's memory of two cycles.
my @seen;
for (1 .. 5) {
    $t->reload;
    $t->wait_for(sub { $t->workers(1) == 2 }, 10);
    all_kinds(1);
    push @seen, [ Infer::Memory::pss(everything()), descriptors(),
                  $t->engine ];
}
$grown = $seen[4][0] - $seen[1][0];
note("grown by $grown KiB over three reloads");
cmp_ok($grown, '<', 1024, 'reloads leave no memory behind');
ok(quiet($seen[1][1]), 'and no descriptor')
    or diag("before: $seen[1][1], now: " . descriptors());
is($seen[4][2], $seen[0][2], 'all with one engine');

# a new bus and engine each time, then a dead engine and a dead worker
@seen = ();
for my $i (1 .. 3) {
    my $old = $t->engine;
    $t->reload(model_extra => "context 1024; sequences $i; kv_cache 512k;");
    $t->wait_for(sub { $t->workers(1) == 2 && !Infer::alive($old)
                       && $t->engine }, 15);
    $t->wait_ready;
    all_kinds(1);
    sleep 0.5;
    push @seen, descriptors();
}
is($seen[2], $seen[0], 'models that change leave no descriptor behind');

for my $pid ($t->engine, ($t->workers)[0]) {
    kill KILL => $pid;
    $t->wait_for(sub { !Infer::alive($pid) && $t->workers == 2 && $t->engine },
                 10);
    $t->wait_ready;
    all_kinds(1);
}
ok(quiet($seen[2]), 'nor do processes that die')
    or diag("before: $seen[2], now: " . descriptors());
$t->allow(qr/body is buffered to a temporary file/,
          qr/exited on signal 9/, qr/infer engine .*(?:is gone|died|killed)/);
$t->finish;

# ---- all processes together, with the real model ----

SKIP: {
    my $model = Infer::smollm2();
    skip Infer::no_smollm2(), 9 if !defined $model;

    my $requests = $ENV{INFER_REQUESTS} || 300;
    $t = Infer->new(model => $model, engine => 'threads=2',
        model_extra => 'context 2048; sequences 32; kv_cache 512m;')->start;
    my $tensors = $t->get('/v1/models')->{json}{data}[0]{meta}{size};
    cmp_ok($tensors, '>', 80e6, 'the tensors are some 90 MB');

    # K and V of 32 tokens in f16: 30 layers, 3 heads of 64 values
    my $page = 32 * 2 * 30 * 3 * 64 * 2;
    my $check = sub {
        my ($when) = @_;
        my $sum = Infer::Memory::pss(everything()) * 1024;
        my $kv = $t->metric('ngx_infer_kv_pages_peak') * $page;
        my $more = $sum - $tensors - $kv;
        note(sprintf '%s: %.1f MB = tensors %.1f + KV pages %.1f + %.1f',
             $when, map { $_ / 1e6 } $sum, $tensors, $kv, $more);
        cmp_ok($more, '<', 60e6,
               "$when: at most 60 MB beside tensors and KV pages");
        return $more;
    };
    my $run = sub {
        my ($count, %ask) = @_;
        my ($ok, @c) = (0);
        push @c, $t->client for 1 .. 16;
        for (my $i = 0; $i < $count; $i += @c) {
            $_->send('POST', '/v1/completions',
                     { prompt => 'word ' . $i, max_tokens => 2, %ask })
                for @c;
            $ok += $_->response->{status} == 200 for @c;
        }
        $_->close for @c;
        return $ok >= $count;
    };

    $check->('loaded');
    # a step as large as they come, and every array of the sampler
    ok($run->(16, prompt => 'word ' x 200, logprobs => 5,
              temperature => 0.7, seed => 1), 'long prompts');
    ok($run->(48), 'short ones');
    my $first = $check->('busy');
    ok($run->($requests), "$requests requests");
    my $last = $check->("after $requests requests");
    cmp_ok($last - $first, '<', 2e6, 'flat');
    $t->finish;
}

done_testing;
