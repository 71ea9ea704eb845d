/* address.h - the name of a page or a table node in the log. Any thread.
 *
 * An address is (log, segment, slot) and stays what it is for as long as the page lives, wherever
 * cleaning moves the bytes. A segment has up to 65,536 slots: of 4,096 bytes in a data segment, of
 * 64 bytes in a table segment, where a node takes as many slots in a row as it needs. */
#ifndef VARVE_LOG_ADDRESS_H
#define VARVE_LOG_ADDRESS_H

#include <stdint.h>

static inline uint64_t address_make(uint16_t log, uint32_t segment, uint16_t slot)
{
    return (uint64_t)log << 48 | (uint64_t)segment << 16 | slot;
}

static inline uint16_t address_log(uint64_t address)
{
    return address >> 48;
}

static inline uint32_t address_segment(uint64_t address)
{
    return (uint32_t)(address >> 16);
}

static inline uint16_t address_slot(uint64_t address)
{
    return (uint16_t)address;
}

#endif
