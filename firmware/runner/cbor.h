/* The part of CBOR (RFC 8949) the wire protocol needs: definite-length items, text keys, no allocation. */
#ifndef LAB_CBOR_H
#define LAB_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- reading ---- */

/* A map whose bytes cbor_map_open() found well-formed. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
} cbor_map_t;

/* Text or bytes inside a map; not terminated. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
} cbor_span_t;

/* True if `bytes` hold exactly one well-formed map with text keys and no indefinite lengths. */
bool cbor_map_open(cbor_map_t *map, const uint8_t *bytes, size_t length);

/* Each looks `key` up and returns false if it is absent or of another type; the first of equal keys counts. */
bool cbor_get_uint(const cbor_map_t *map, const char *key, uint64_t *value);
bool cbor_get_text(const cbor_map_t *map, const char *key, cbor_span_t *text);
bool cbor_get_bytes(const cbor_map_t *map, const char *key, cbor_span_t *bytes);

/* An unsigned integer, float32 or float64, rounded to float. */
bool cbor_get_float(const cbor_map_t *map, const char *key, float *value);

bool cbor_text_is(const cbor_span_t *text, const char *expected);

/* ---- writing ---- */

/* Writes into a caller's buffer; once something does not fit, `overflow` stays set and nothing more is written. */
typedef struct {
    uint8_t *bytes;
    size_t capacity;
    size_t length;
    bool overflow;
} cbor_writer_t;

/* Opens a map of at most 23 entries; returns the place of its header for cbor_close_map(). */
size_t cbor_open_map(cbor_writer_t *writer);
void cbor_close_map(cbor_writer_t *writer, size_t header, uint32_t entries);

void cbor_put_uint(cbor_writer_t *writer, uint64_t value);
void cbor_put_text(cbor_writer_t *writer, const char *text);
void cbor_put_bytes(cbor_writer_t *writer, const uint8_t *bytes, size_t count);
void cbor_put_float(cbor_writer_t *writer, float value);

#endif
