/* cache/checksum.h: CRC-32C, which finds every flipped byte and every burst of up to 32 bits in an entry. */
#ifndef TD_CACHE_CHECKSUM_H
#define TD_CACHE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of what `crc` is the checksum of, and of these bytes after it. It begins with 0. */
uint32_t td_checksum(uint32_t crc, const void *data, size_t bytes);

/* The same without the processor's instruction. */
uint32_t td__checksum_portable(uint32_t crc, const void *data, size_t bytes);

#endif
