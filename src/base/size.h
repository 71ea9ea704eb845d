/* size.h - sizes in bytes as people write them. Any thread. */
#ifndef VARVE_BASE_SIZE_H
#define VARVE_BASE_SIZE_H

#include <stdint.h>

#define SIZE_TEXT_CHARS 24

/* Read "4096", "512M", "10G", "1.5T", "64KiB": a decimal number and a unit of K, M, G, T, P or E
 * (powers of 1024; "B" and "iB" may follow, case does not matter). A fraction is allowed with a
 * unit when it comes out as whole bytes. Nothing else may stand in text. Returns 0, -EINVAL (not
 * such a text), -ERANGE (2^64 bytes or more). */
int size_parse(const char *text, uint64_t *ret_bytes);

/* Read a plain decimal number of bytes: what the control API carries. -EINVAL, -ERANGE. */
int size_parse_decimal(const char *text, uint64_t *ret_bytes);

/* Write bytes with at most three digits and one unit ("1.5G", "512M", "0"); rounds to nearest.
 * Returns out. */
const char *size_format(uint64_t bytes, char out[SIZE_TEXT_CHARS]);

#endif
