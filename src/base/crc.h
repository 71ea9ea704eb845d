/* crc.h - CRC-32C (Castagnoli), by the processor's instructions where it has them. Any thread. */
#ifndef VARVE_BASE_CRC_H
#define VARVE_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* Checksum of len bytes, starting from seed (0 for a fresh one, or an earlier result to go on). */
uint32_t crc32c(uint32_t seed, const void *buf, size_t len);

#endif
