#!/usr/bin/perl
# 140-prefix.t: what has been computed of a prompt is not computed again:
# cached_tokens in usage, streamed or not, for chats, choices and lists of
# prompts; tenants do not share: by infer_prefix_scope, by key, by header.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;
use Infer::Same;

my $t = Infer->new(model => 'tiny',
    http => 'map $http_x_tenant $tenant { default "t-$http_x_tenant"; }',
    server => 'location /scope/ { infer m; infer_prefix_scope $tenant; }
               location /keys/ { infer m; infer_api_keys keys; }
               location /all/ { infer m; infer_prefix_scope ""; }');
$t->write_file('keys', "sk-one alice\nsk-two bob\nsk-three alice\n"
                       . "sk-four\nsk-five\n");
$t->start;

my $n_prompt = 0;
sub prompt { $n_prompt++; return join ' ', map { "p$n_prompt-$_" } 1 .. 60 }

# cached tokens and prompt tokens of a completion, and its choices
sub ask {
    my ($path, $prompt, $head, %more) = @_;
    my $r = $t->post($path, { prompt => $prompt, max_tokens => 5,
                              temperature => 0, %more }, %{ $head || {} });
    is($r->{status}, 200, "$path answers") or diag $r->{body};
    my @index = map { $_->{index} } @{ $r->{json}{choices} };
    is_deeply(\@index, [ 0 .. $#index ], 'its choices in order');
    my $u = $r->{json}{usage};
    return ($u->{prompt_tokens_details}{cached_tokens}, $u->{prompt_tokens},
            [ wholes($r) ]);
}

# as many as full pages hold, without the last token
sub full { return int(($_[0] - 1) / 32) * 32 }

my $p = prompt();
my ($cached, $n, $first) = ask('/v1/completions', $p, {}, asked());
is($cached, 0, 'a new prompt has no cached tokens');
cmp_ok($n, '>', 100, "of $n");
($cached, undef, my $again) = ask('/v1/completions', $p, {}, asked());
is($cached, full($n), 'the same prompt has all full pages');
same($again, $first, 'and the same answer');
($cached, my $m) = ask('/v1/completions', "$p and more");
cmp_ok($m, '>', $n, 'a longer one');
cmp_ok($cached, '>=', full($n) - 32, 'has what is common');

# a stream
my $s = $t->stream('/v1/completions', { prompt => $p, max_tokens => 5,
    temperature => 0, stream_options => { include_usage => JSON::PP::true } });
is($s->collect->{usage}{prompt_tokens_details}{cached_tokens}, full($n),
   'usage of a stream says it too');

# a conversation
my @chat = ({ role => 'user', content => prompt() });
my $r = $t->post('/v1/chat/completions', { messages => \@chat,
    max_tokens => 40, temperature => 0 });
my $turn1 = $r->{json}{usage};
push @chat, $r->{json}{choices}[0]{message},
            { role => 'user', content => 'go on' };
$r = $t->post('/v1/chat/completions', { messages => \@chat,
    max_tokens => 5, temperature => 0 });
cmp_ok($r->{json}{usage}{prompt_tokens_details}{cached_tokens}, '>=',
       full($turn1->{prompt_tokens}) - 32, 'turn 2 has the tokens of turn 1');

# choices: a prompt counts once
my $q = prompt();
(undef, $n) = ask('/v1/completions', $q);
($cached, $m) = ask('/v1/completions', $q, {}, n => 4);
is($m, $n, 'the prompt of four choices is counted once');
is($cached, full($n), 'and so are its cached tokens');
my ($q1, $q2) = (prompt(), prompt());
my (undef, $n1) = ask('/v1/completions', $q1);
my (undef, $n2) = ask('/v1/completions', $q2);
($cached) = ask('/v1/completions', [$q1, $q2], {}, n => 2);
is($cached, full($n1) + full($n2), 'two prompts, two choices each');

# tenants
$p = prompt();
($cached, $n) = ask('/scope/v1/completions', $p, { 'X-Tenant' => 'a' });
is($cached, 0, 'tenant a asks');
($cached) = ask('/scope/v1/completions', $p, { 'X-Tenant' => 'b' });
is($cached, 0, 'tenant b does not share it');
($cached) = ask('/scope/v1/completions', $p, { 'X-Tenant' => 'a' });
is($cached, full($n), 'tenant a does');

$p = prompt();
my %key = map { $_ => { Authorization => "Bearer sk-$_" } }
    qw(one two three four five);
($cached, $n) = ask('/keys/v1/completions', $p, $key{one});
is($cached, 0, 'key one asks');
($cached) = ask('/keys/v1/completions', $p, $key{two});
is($cached, 0, 'another name does not share');
($cached) = ask('/keys/v1/completions', $p, $key{three});
is($cached, full($n), 'another key of the same name does');
($cached) = ask('/keys/v1/completions', $p, { 'X-Api-Key' => 'sk-one' });
is($cached, full($n), 'also when it comes in the other header');
($cached) = ask('/keys/v1/completions', $p, $key{four});
is($cached, 0, 'nor does a key without a name');
($cached) = ask('/keys/v1/completions', $p, $key{five});
is($cached, 0, 'nor do two of those share');

$p = prompt();
(undef, $n) = ask('/v1/completions', $p, $key{one});
($cached) = ask('/v1/completions', $p, $key{two});
is($cached, 0, 'without keys in the conf, the header separates');
($cached) = ask('/v1/completions', $p, { 'X-Api-Key' => 'sk-one' });
is($cached, 0, 'either of them');
($cached) = ask('/v1/completions', $p);
is($cached, 0, 'and none is another one');
($cached) = ask('/v1/completions', $p, $key{one});
is($cached, full($n), 'the same header shares');
ask('/all/v1/completions', $p, $key{one});
($cached) = ask('/all/v1/completions', $p, $key{two});
is($cached, full($n), 'a constant scope is one for all');

# metrics
$t->none_left('ngx_infer_kv_pages_used', 'no page is in use');
cmp_ok($t->metric('ngx_infer_kv_pages_cached'), '>', 20, 'many are kept');
my $hits = $t->metric('ngx_infer_prefix_hits_total');
cmp_ok($hits, '>', 1000, 'hits are counted');
is($t->metric('vllm:prefix_cache_hits_total'), $hits, 'under both names');
is($t->metric('ngx_infer_prefix_queries_total'),
   $t->metric('ngx_infer_prompt_tokens_total'), 'of all prompt tokens');

# an engine that is gone has kept nothing
kill 'KILL', $t->engine;
$t->allow(qr/infer engine .*died/);
($cached) = ask('/v1/completions', $p, $key{one});
is($cached, 0, 'a new engine starts empty');
($cached) = ask('/v1/completions', $p, $key{one});
is($cached, full($n), 'and fills again');

$t->finish;

# the real model: the same with known pages and without, bit by bit where the
# device's prefill and decode round alike
SKIP: {
    my $model = Infer::smollm2() or skip Infer::no_smollm2(), 1;
    $t = Infer->new(model => $model, zone => '64m', engine => 'threads=2',
        model_extra => 'context 1024;',
        location => 'infer m; infer_prefix_scope $http_x_tenant;')->start;
    for my $words (16, 29, 60, 200) {
        my $text = join ' ', map { "$_ walls" } 1 .. $words;
        my @out = map {
            my ($c, $n, $choices) = ask('/v1/completions', $text,
                { 'X-Tenant' => $_ }, max_tokens => 30, logprobs => 5);
            [ $c == 0 ? 'none' : $c == full($n) ? 'all' : $c, $choices ]
        } "a$words", "a$words", "b$words";
        is_deeply([ map { $_->[0] } @out ], [ 'none', 'all', 'none' ],
                  "$words words: known the second time");
        same($out[1][1], $out[0][1], 'the same logprobs');
        same($out[2][1], $out[0][1], 'and for another tenant');
    }
    $t->finish;
}

done_testing;
