/* Named blobs in the board's blob store: model data and samples that the host puts before a job. */
#ifndef LAB_BLOB_H
#define LAB_BLOB_H

#include "cbor.h"

#include <stdbool.h>
#include <stdint.h>

#define BLOB_NAME_BYTES 32u
#define BLOB_MAX 8u
#define BLOB_ALIGNMENT 16u

typedef struct {
    char name[BLOB_NAME_BYTES];
    uint32_t name_length; /* 0: this entry is free */
    uint32_t start;       /* offset in the store, multiple of BLOB_ALIGNMENT */
    uint32_t total;
    uint32_t received;
} blob_t;

typedef enum { BLOB_OK, BLOB_SIZE, BLOB_CHECKSUM } blob_status_t;

/* The store for `bytes` at `store`; forgets every blob. */
void blob_init(uint8_t *store, uint32_t bytes, uint32_t address);

/* Takes a chunk. A chunk at offset 0 starts the blob anew; BLOB_SIZE if it does not fit or continues nothing. */
blob_status_t blob_put(const cbor_span_t *name, uint64_t total, uint64_t offset, const cbor_span_t *chunk);

/* Adopts a blob that a memory port placed at `address`; blobs it overlaps are forgotten, it has overwritten them. */
blob_status_t blob_adopt(const cbor_span_t *name, uint64_t total, uint64_t address, uint64_t crc);

/* The complete blob of this name, or NULL. */
const blob_t *blob_find(const cbor_span_t *name);

const uint8_t *blob_data(const blob_t *blob);

#endif
