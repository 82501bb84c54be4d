#!/bin/sh
# Installs the Debian packages that builds and tests need, if any is missing.
set -e

packages="build-essential nginx nginx-dev libpcre2-dev libjansson-dev
libhiredis-dev libzstd-dev redis-server libssl-dev openssl zlib1g-dev libtest-base-perl curl unzip
python3 python3-pip python3-venv procps util-linux"
# the kernels of arm64, built and run beside ours
[ "$(uname -m)" != x86_64 ] || packages="$packages gcc-aarch64-linux-gnu
libc6-dev-arm64-cross qemu-user"

missing=
for p in $packages; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' \
        || missing="$missing $p"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" != 0 ]; then
    echo "missing packages, as root: apt-get install$missing" >&2
    exit 1
fi

echo "installing$missing"
# a server that the package would start is not ours to run
policy=/usr/sbin/policy-rc.d
own=
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy" && own=1
fi
export DEBIAN_FRONTEND=noninteractive
rc=0
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends \
    $missing; } > /tmp/ngx_infer_apt.log 2>&1 || rc=$?
[ -z "$own" ] || rm -f "$policy"
[ "$rc" = 0 ] || { tail -20 /tmp/ngx_infer_apt.log >&2; exit "$rc"; }
