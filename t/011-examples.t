#!/usr/bin/perl
# 011-examples.t: every configuration in conf/ passes nginx -t, with the tiny
# model in the place of its models and our build in the place of modules/.
use strict;
use warnings;
use lib 't/lib';
use Cwd qw(getcwd);
use File::Copy qw(copy);
use Test::More;
use Infer;

my @confs = glob 'conf/*.conf';
ok(@confs > 2, 'there are examples');

for my $conf (@confs) {
    if ($conf =~ /cuda/ && !-f Infer::build_dir() . '/libngx_infer_cuda.so') {
        SKIP: { skip "$conf: the CUDA plugin was not built (no nvcc)", 1 }
        next;
    }
    my $t = Infer->new;
    my $dir = $t->dir;
    mkdir "$dir/$_" or die "$_: $!" for 'models', 'templates';

    open my $in, '<', $conf or die "$conf: $!";
    my $text = join '', <$in>;
    close $in;

    my $so = Infer::build_dir() . '/ngx_http_infer_module.so';
    $text =~ s{load_module \S+;}{load_module $so;};
    copy(Infer::model_path('tiny'), "$dir/$_") or die "$_: $!"
        for $text =~ /(models\/\S+\.gguf)/g;
    copy($_, "$dir/templates/") or die "$_: $!" for glob 'conf/templates/*';
    copy($_, $dir) or die "$_: $!" for glob 'conf/keys*';
    for my $name ($text =~ /\b(cache\.secret|redis\.password);/g) {
        chmod 0600, $t->write_file($name, 'a secret of more than 32 bytes, 123');
    }
    # the tiny model's context and the ports of the machine are smaller
    $text =~ s/context\s+\d+;/context 512;/g;
    $text =~ s/127\.0\.0\.1:\d+/'127.0.0.1:' . Infer::free_port()/ge;
    $text = "user root;\n$text" if $> == 0;
    $text = "pid $dir/nginx.pid;\nerror_log $dir/logs/error.log;\n$text";
    my $temp = join '', map { "\n    ${_}_temp_path $dir/tmp/$_;" }
        qw(client_body proxy fastcgi uwsgi scgi);
    $text =~ s/^http \x7b/$&$temp/m;
    $t->write_file('nginx.conf', $text);

    my ($rc, $out) = $t->nginx('-t');
    is($rc, 0, "$conf loads") or diag($out);
}

done_testing();
