/* CRC-32 (IEEE 802.3, reflected, as zlib.crc32). */
#ifndef LAB_CRC32_H
#define LAB_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` (0 to start) over `count` bytes. */
uint32_t crc32_update(uint32_t crc, const uint8_t *bytes, size_t count);

#endif
