#!/usr/bin/perl
# 165-join-bus.t: what the cache remembers of a generation names a slot of one
# bus: with another bus, by a reload, the same slot is somebody else's.
use strict;
use warnings;
use lib 't/lib';
use Test::More;
use Infer;

my %ask = (max_tokens => Infer::tokens(400), temperature => 0,
           ignore_eos => JSON::PP::true);
my @extra = map { "context $_; sequences 4;" } 1024, 512;

my $t = Infer->new(
    model => 'slow', workers => 1,
    model_extra => $extra[0],
    http => 'infer_cache_zone answers 4m;',
    location => 'infer m; infer_cache answers;',
    server => 'location /plain/ { infer m; }')->start;
$t->allow(qr/infer engine/);

sub begun {
    my ($path, $prompt) = @_;
    my $s = $t->stream("$path/completions", { %ask, prompt => $prompt });
    $s->event;
    return $s;
}

# the very first generation of a bus is joined like any other
my $first = begun('/v1', 'first');
my $r = $t->stream('/v1/completions', { %ask, prompt => 'first' });
$r->event;
is($r->{headers}{'x-infer-cache'}, 'JOIN', 'the first of all is joined');
$_->close for $first, $r;

# some that their clients leave, each in the first free slot
for my $prompt (map { "left $_" } 1 .. 4) {
    ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }),
       'no slot is used');
    begun('/v1', $prompt)->close;
}

# another bus, then one like the first again
ok($t->reload(model_extra => $extra[1])
   && $t->reload(model_extra => $extra[0]), 'two reloads');
ok($t->wait_ready, 'ready');
my $want = $t->post('/plain/completions', { %ask, prompt => 'left 1' })
             ->{json}{choices}[0]{text};

# others' generations now run where those did
for (1 .. 4) {
    ok($t->wait_for(sub { $t->metric('ngx_infer_slots_used') == 0 }),
       'no slot is used');
    my $other = begun('/plain', 'others');
    for my $prompt (map { "left $_" } 1 .. 4) {
        my $s = begun('/v1', $prompt);
        is($s->{headers}{'x-infer-cache'}, 'MISS', "$prompt is not joined");
        $s->close;
    }
    $other->close;
}
is($t->post('/v1/completions', { %ask, prompt => 'left 1' })
     ->{json}{choices}[0]{text}, $want, 'and gets its own answer');
$t->finish;
done_testing;
