/* crc.h - CRC-32C (Castagnoli), by the processor's instructions where it has them. Any thread. */
#ifndef VARVE_BASE_CRC_H
#define VARVE_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Checksum of len bytes, starting from seed (0 for a fresh one, or an earlier result to go on). */
uint32_t crc32c(uint32_t seed, const void *buf, size_t len);

/* The bit of len bytes that has to be flipped for their checksum to become another one, which
 * differs from the present one by difference (exclusive or): 8 times the byte's place and the
 * bit's. -1: there is none. A CRC is linear, so where the bit lies depends on the difference alone
 * (W. W. Peterson and D. T. Brown, Cyclic Codes for Error Detection, 1961). Takes a step for each
 * bit; len is at most 2^27. */
int64_t crc32c_flipped_bit(uint32_t difference, size_t len);

#endif
