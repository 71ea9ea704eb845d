/* checksum.h - the checksum of a page or a table node at its place in the log. Any thread.
 *
 * Not a CRC: the CRC of anything that ends in its own CRC is a constant, so that pages which carry
 * one (those of ext4's metadata do) could stand for each other unnoticed. XXH3 (Y. Collet) is keyed
 * with the address instead, so bytes found elsewhere do not validate either. */
#ifndef VARVE_BASE_CHECKSUM_H
#define VARVE_BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The low half of XXH3-64 of len bytes with the address as its seed. */
uint32_t checksum_at(uint64_t address, const void *buf, size_t len);

#endif
