#!/bin/sh
# Prints infer_build_id.h: what the module, the engine and its plugins must
# share is what they touch together, so the id is a digest of those sources.
cd "$(dirname "$0")/.." || exit 1
id=$(LC_ALL=C; cat infer.h ipc/*.h ipc/*.c text/*.h text/*.c \
     ../kernels/kern.h ../kernels/kern_plugin.h | sha256sum | cut -c1-32)
printf '#define INFER_BUILD_ID "%s"\n' "$id"
