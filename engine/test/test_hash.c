/*
 * test_hash.c: SipHash-2-4 of 128 bits against its authors' vectors, which
 * `openssl mac -macopt size:16 SIPHASH` gives too: key 00 01 .. 0f, data
 * 00 01 .. of some lengths.
 */

#include <string.h>

#include "ipc/hash.h"
#include "tap.h"

static const struct {
    size_t       len;
    const char  *hash;
} vector[] = {
    { 0, "a3817f04ba25a8e66df67214c7550293" },
    { 1, "da87c1d86b99af44347659119b22fc45" },
    { 3, "9c70b60c5267a94e5f33b6b02985ed51" },
    { 8, "3b62a9ba6258f5610f83e264f31497b4" },
    { 15, "5493e99933b0a8117e08ec0f97cfc3d9" }
};


int
main(void)
{
    char     hex[33];
    size_t   i, k;
    uint8_t  key[16], data[16], out[16], other[16];

    for (i = 0; i < 16; i++) {
        key[i] = data[i] = (uint8_t) i;
    }

    for (i = 0; i < sizeof(vector) / sizeof(vector[0]); i++) {
        infer_hash(key, data, vector[i].len, out);
        for (k = 0; k < 16; k++) {
            snprintf(hex + 2 * k, 3, "%02x", out[k]);
        }
        ok(strcmp(hex, vector[i].hash) == 0, "%zu bytes: %s", vector[i].len,
           hex);
    }

    key[15] ^= 1;
    infer_hash(key, data, 15, other);
    ok(memcmp(out, other, 16) != 0, "the key matters");

    return tap_done();
}
