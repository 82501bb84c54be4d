#!/usr/bin/perl
# 200-openai.t: an unmodified openai Python client (from PyPI) on the real
# model: lists models, chats, streams, gets logprobs and error objects.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;

my $model = Infer::smollm2()
    or plan skip_all => Infer::no_smollm2();
my $venv = Infer::build_dir() . '/venv';
if (!-x "$venv/bin/python3"
    || system("$venv/bin/python3 -c 'import openai' 2>/dev/null") != 0)
{
    system("python3 -m venv $venv && $venv/bin/pip install -q"
           . " --disable-pip-version-check openai > $venv.log 2>&1") == 0
        or plan skip_all => 'openai cannot be installed from PyPI';
}

my $t = Infer->new(model => $model, zone => '64m', engine => 'threads=2',
                   model_extra => 'context 2048;')->start;
my $port = $t->port;
my $out = `$venv/bin/python3 t/tool/openai_client.py $port 2>&1`;
for (split /\n/, $out) {
    if (/^(not )?ok (.*)/) { ok(!$1, $2) } else { diag($_) }
}
is($?, 0, 'the client ran to its end');

# the prompts of the golden data, through HTTP
open my $f, '<', 't/golden/smollm2/chat.jsonl' or die "golden: $!";
while (my $line = <$f>) {
    my $g = JSON::PP->new->utf8->decode($line);
    my $r = $t->post('/apply-template', { messages => $g->{messages} });
    is($r->{json}{prompt}, $g->{prompt}, "$g->{name}: the prompt");
    my $tok = $t->post('/tokenize', { content => $g->{prompt} });
    is_deeply($tok->{json}{tokens}, $g->{ids}, "$g->{name}: its ids");
}

$t->finish;
done_testing;
