/* Frames of docs/wire.md: COBS(payload || crc32) 00. */
#ifndef LAB_WIRE_H
#define LAB_WIRE_H

#include "cbor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION 1u
/* Payload of the longest frame; where a line loses nothing and memory is plenty, the build says more. */
#ifndef WIRE_MTU
#define WIRE_MTU 1024u
#endif
#define WIRE_CRC_BYTES 4u
/* COBS adds one byte per 254 and one, the frame ends with a zero. */
#define WIRE_ENCODED_BYTES (WIRE_MTU + WIRE_CRC_BYTES + (WIRE_MTU + WIRE_CRC_BYTES) / 254u + 2u)

/* ---- receiving ---- */

typedef struct {
    uint8_t bytes[WIRE_MTU + WIRE_CRC_BYTES];
    size_t length;
    uint32_t raw_bytes;  /* bytes of the current frame as received */
    uint8_t block;       /* data bytes left in the current COBS block */
    bool zero_due;       /* the block that ends next is followed by an implied zero */
    bool broken;         /* the current frame cannot become valid any more */
    uint32_t garbage_frames;
    uint32_t garbage_bytes;
} wire_receiver_t;

/* Takes one byte. True when it completed a valid frame: `map` then views the receiver's buffer until the next call. */
bool wire_receive(wire_receiver_t *receiver, uint8_t byte, cbor_map_t *map);

/* ---- sending ---- */

typedef struct {
    uint8_t payload[WIRE_MTU + WIRE_CRC_BYTES];
    cbor_writer_t writer;
    uint32_t entries;
} wire_frame_t;

void wire_begin(wire_frame_t *frame);
void wire_add_uint(wire_frame_t *frame, const char *key, uint64_t value);
void wire_add_text(wire_frame_t *frame, const char *key, const char *text);
void wire_add_bytes(wire_frame_t *frame, const char *key, const uint8_t *bytes, size_t count);
void wire_add_float(wire_frame_t *frame, const char *key, float value);

/* Adds a map of registers or the like: `count` names and values. */
void wire_add_uint_map(wire_frame_t *frame, const char *key, const char *const *names, const uint32_t *values,
                       uint32_t count);

/* Encodes a payload of at most WIRE_MTU bytes; there must be room for WIRE_CRC_BYTES behind it. */
size_t wire_encode(uint8_t *payload, size_t count, uint8_t encoded[WIRE_ENCODED_BYTES]);

/* Closes the frame and encodes it; returns the bytes written to `encoded`, 0 if the payload did not fit. */
size_t wire_finish(wire_frame_t *frame, uint8_t encoded[WIRE_ENCODED_BYTES]);

#endif
