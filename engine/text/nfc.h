/*
 * nfc.h: Unicode's normalization form C, for tokenizers that were trained on
 * it. Pure, any thread.
 */

#ifndef INFER_TEXT_NFC_H
#define INFER_TEXT_NFC_H

#include "infer.h"

/* The form of s[0..len), which is valid UTF-8. *out is malloc'd and the
 * caller's, or NULL: s has that form already, which costs no memory and for
 * Latin letters one look at each byte. O(len log len). NOMEM is the only
 * error. */
int infer_nfc(const char *s, size_t len, char **out, size_t *out_len);

#endif
