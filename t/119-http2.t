#!/usr/bin/perl
# 119-http2.t: HTTP/2 and TLS with curl: a stream, sixteen streams of one
# connection, a reset stream cancels only itself, a connection that goes
# cancels all; HTTP/1.1 and HTTP/2 over TLS with a certificate of our own.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Time::HiRes qw(time);
use Infer;

plan skip_all => 'curl without HTTP/2'
    if `curl --version 2>/dev/null` !~ /^Features:.*\bHTTP2\b/m;
plan skip_all => 'nginx without HTTP/2'
    if `@{[Infer::nginx_bin()]} -V 2>&1` !~ /http_v2_module/;

my ($h2, $tls) = (Infer::free_port(), Infer::free_port());
my $t = Infer->new(model => 'slow',
    model_extra => 'context 2048; sequences 32;');
my $dir = $t->dir;
my $has_tls = system("openssl req -x509 -newkey rsa:2048 -nodes -days 2"
    . " -subj /CN=localhost -keyout $dir/key.pem -out $dir/cert.pem"
    . ' > /dev/null 2>&1') == 0;
my $ssl = $has_tls ? "server { listen 127.0.0.1:$tls ssl http2;
    access_log $dir/logs/tls.log tls;
    ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem;
    location / { infer m; } }" : '';
$t->{http} = "infer_cache_zone answers 4m;
    server { listen 127.0.0.1:$h2 http2;
    location / { infer m; }
    location /pace/ { infer m; infer_cache answers; infer_cache_pace 60; }
    location /whole/ { infer m; infer_cache answers; } }
    log_format tls \$connection;
    $ssl";
$t->start;
$t->allow(qr/"listen \.\.\. http2" directive is deprecated/);

my $json = JSON::PP->new->utf8;
my %ask = (max_tokens => 60, temperature => 0, ignore_eos => JSON::PP::true);

sub curl {
    my (@args) = @_;
    my $pid = open my $f, '-|', 'curl', '-sN', '--max-time', 120, @args
        or die "curl: $!";
    return ($f, $pid);
}

sub slurp {
    my ($f) = @_;
    local $/;
    my $text = <$f>;
    return defined $text ? $text : '';
}

# The text of a stream of completions, and whether [DONE] came.
sub text {
    my ($sse) = @_;
    my $text = '';
    for ($sse =~ /^data: (\{.*)$/mg) {
        my $e = $json->decode($_);
        $text .= $_->{text} for @{ $e->{choices} };
    }
    return ($text, $sse =~ /^data: \[DONE\]$/m ? 1 : 0);
}

sub body {
    my ($i, %o) = @_;
    return $json->encode({ %ask, prompt => "p$i", stream => \1, %o });
}

my @want = map { $t->post('/v1/completions', { %ask, prompt => "p$_" })
                   ->{json}{choices}[0]{text} } 0 .. 15;
my @h2 = ('--http2-prior-knowledge');
my $url = "http://127.0.0.1:$h2/v1/completions";

my ($f) = curl(@h2, '-i', '-d', body(0), '-H',
               'Content-Type: application/json', $url);
my $out = slurp($f);
like($out, qr{^HTTP/2 200}, 'HTTP/2');
like($out, qr{^content-type: text/event-stream}m, 'an event stream');
is_deeply([ text($out) ], [ $want[0], 1 ], 'the text');

# incremental: a first event while the generation runs
($f, my $pid) = curl(@h2, '-d', body(0, max_tokens => 1900), '-H',
                     'Content-Type: application/json', $url);
my $line = <$f>;
like($line, qr/^data: \{/, 'a first event');
is($t->metric('ngx_infer_requests_running'), 1, 'while the generation runs');
kill 'KILL', $pid;
close $f;
ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 10),
   'a killed curl cancels it');

# out of the cache, whole, each with its own id and as many bytes as it says
my ($first, %ids);
for my $how ('MISS', 'HIT', 'HIT', 'HIT') {
    ($f) = curl(@h2, '-i', '-d', $json->encode({ %ask, prompt => 'a' }), '-H',
                'Content-Type: application/json',
                "http://127.0.0.1:$h2/whole/completions");
    my ($head, $body) = split /\r?\n\r?\n/, slurp($f), 2;
    my $j = eval { $json->decode($body) } || {};
    my ($id) = $head =~ /^x-request-id: (\S+?)\r?$/m;
    like($head, qr/^x-infer-cache: $how\r?$/m, "a whole answer, $how");
    is($j->{id}, "cmpl-$id", 'its id');
    ok(!$ids{$id}++, 'which is its own');
    is(($head =~ /^content-length: (\d+)/m)[0], length $body, 'its length');
    $first ||= $j->{choices};
    is_deeply($j->{choices}, $first, 'its text');
}

# out of the cache, at a pace: 60 tokens, 60 a second
$url = "http://127.0.0.1:$h2/pace/completions";
for my $how ('MISS', 'HIT', 'HIT') {
    my $start = time;
    ($f) = curl(@h2, '-i', '-d', body(5), '-H',
                'Content-Type: application/json', $url);
    $out = slurp($f);
    my $took = time - $start;
    like($out, qr/^x-infer-cache: $how\r?$/m, "a stream, $how");
    is_deeply([ text($out) ], [ $want[5], 1 ], 'its text');
    next if $how eq 'MISS';
    cmp_ok($took, '>', 0.8, 'at its pace');
    cmp_ok($took, '<', 3, 'and no slower');
}
($f, $pid) = curl(@h2, '-d', body(5), '-H', 'Content-Type: application/json',
                  $url);
like($line = <$f>, qr/^data: \{/, 'a first event');
my $gone = $t->metric('ngx_infer_client_gone_total');
kill 'KILL', $pid;
close $f;
ok($t->wait_for(sub { $t->metric('ngx_infer_client_gone_total') > $gone }, 5),
   'a killed curl ends it');
$url = "http://127.0.0.1:$h2/v1/completions";

# an error
($f) = curl(@h2, '-i', '-d', '{"prompt": 7', '-H',
            'Content-Type: application/json', $url);
like(slurp($f), qr/^HTTP\/2 400.*"error"/s, 'an error object');

SKIP: {
    skip 'no openssl program', 12 if !$has_tls;
    $url = "https://127.0.0.1:$tls/v1/completions";
    for my $v ('--http1.1', '--http2') {
        ($f) = curl($v, '-k', '-i', '-d', body(3), '-H',
                    'Content-Type: application/json', $url);
        $out = slurp($f);
        like($out, $v =~ /2/ ? qr{^HTTP/2 200} : qr{^HTTP/1.1 200},
             "TLS, $v");
        is_deeply([ text($out) ], [ $want[3], 1 ], "the text over TLS, $v");
    }

    # from here over TLS: curl 7.88 fails at several streams without it
    # sixteen on one connection
    my $conf = join "next\n", map {
        my $b = body($_);
        $b =~ s/(["\\])/\\$1/g;
        qq(url = "$url"\nhttp2\ninsecure\noutput = "$dir/o$_"\n)
        . qq(header = "Content-Type: application/json"\ndata = "$b"\n)
    } 0 .. 15;
    $t->write_file('curl.conf', $conf);
    is(system("curl -sN --max-time 120 -Z --parallel-max 16 -K $dir/curl.conf"
              . ' 2> /dev/null'), 0,
       'sixteen at once');
    my @got = map {
        open my $o, '<', "$dir/o$_" or die "o$_: $!";
        [ text(slurp($o)) ]
    } 0 .. 15;
    is_deeply(\@got, [ map { [ $_, 1 ] } @want ], 'each gets its own text');
    my @c = split /\n/, $t->log_text('tls.log');
    is(scalar(grep { $_ eq $c[-1] } @c), 16, 'over one connection');

    # many on one connection that goes away at once
    $conf =~ s/\\"max_tokens\\":60/\\"max_tokens\\":1900/g;
    $t->write_file('curl.conf', $conf);
    $pid = fork;
    if (!$pid) {
        open STDERR, '>', '/dev/null';
        exec 'curl', '-sNZ', '--parallel-max', '16', '-K', "$dir/curl.conf";
    }
    ok($t->wait_for(sub { $t->metric('ngx_infer_requests_running') == 16 }, 20),
       'sixteen run');
    kill 'KILL', $pid;
    waitpid $pid, 0;
    ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 10),
       'their connection goes, all are cancelled');

    # one stream of two is reset (curl gives up by its time limit), the other
    # goes on over the same connection
    $t->write_file('curl.conf',
        qq(url = "$url"\nhttp2\ninsecure\noutput = "$dir/a"\n)
        . qq(header = "Content-Type: application/json"\nmax-time = 1\ndata = ")
        . do { my $b = body(1, max_tokens => 2000); $b =~ s/"/\\"/g; $b }
        . qq("\nnext\nurl = "$url"\nhttp2\ninsecure\noutput = "$dir/b"\n)
        . qq(header = "Content-Type: application/json"\ndata = ")
        . do { my $b = body(2); $b =~ s/"/\\"/g; $b } . qq("\n));
    system("curl -sNZ -K $dir/curl.conf 2> /dev/null");
    open my $o, '<', "$dir/b" or die "b: $!";
    is_deeply([ text(slurp($o)) ], [ $want[2], 1 ], 'one is reset, one goes on');
    ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }, 10),
       'and the reset one is cancelled');
}

$t->finish;
done_testing;
