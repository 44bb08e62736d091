#include "blob.h"

#include "crc32.h"

#include <stddef.h>
#include <string.h>

static uint8_t *store_bytes;
static uint32_t store_size;
static uint32_t store_address;
static blob_t blobs[BLOB_MAX];

void blob_init(uint8_t *store, uint32_t bytes, uint32_t address)
{
    store_bytes = store;
    store_size = bytes;
    store_address = address;
    memset(blobs, 0, sizeof blobs);
}

static blob_t *lookup(const cbor_span_t *name)
{
    for (uint32_t i = 0; i < BLOB_MAX; i++)
        if (name->length > 0 && blobs[i].name_length == name->length &&
            memcmp(blobs[i].name, name->bytes, name->length) == 0)
            return &blobs[i];
    return NULL;
}

static bool overlaps(const blob_t *blob, uint32_t start, uint32_t size)
{
    return blob->name_length > 0 && blob->start < start + size && start < blob->start + blob->total;
}

/* Moves *start behind the blob it collides with; false when it collides with none. */
static bool collides(uint32_t *start, uint32_t size)
{
    for (uint32_t i = 0; i < BLOB_MAX; i++) {
        if (overlaps(&blobs[i], *start, size)) {
            *start = (blobs[i].start + blobs[i].total + BLOB_ALIGNMENT - 1u) & ~(BLOB_ALIGNMENT - 1u);
            return true;
        }
    }
    return false;
}

/* First fit. Sizes are checked before, so that no sum below wraps. */
static bool find_room(uint32_t size, uint32_t *start)
{
    *start = 0;
    while (*start <= store_size && size <= store_size - *start)
        if (!collides(start, size))
            return true;
    return false;
}

/* A fresh entry of this name; forgets an older one. NULL if the name is too long or the table is full. */
static blob_t *renew(const cbor_span_t *name)
{
    if (name->length == 0 || name->length > BLOB_NAME_BYTES)
        return NULL;
    blob_t *blob = lookup(name);
    for (uint32_t i = 0; blob == NULL && i < BLOB_MAX; i++)
        if (blobs[i].name_length == 0)
            blob = &blobs[i];
    if (blob != NULL)
        blob->name_length = 0;
    return blob;
}

static void claim(blob_t *blob, const cbor_span_t *name, uint32_t start, uint32_t total, uint32_t received)
{
    memcpy(blob->name, name->bytes, name->length);
    blob->name_length = (uint32_t)name->length;
    blob->start = start;
    blob->total = total;
    blob->received = received;
}

blob_status_t blob_put(const cbor_span_t *name, uint64_t total, uint64_t offset, const cbor_span_t *chunk)
{
    if (total > store_size || offset > total || chunk->length > total - offset)
        return BLOB_SIZE;
    blob_t *blob = lookup(name);
    if (offset == 0) {
        uint32_t start;
        blob = renew(name);
        if (blob == NULL || !find_room((uint32_t)total, &start))
            return BLOB_SIZE;
        claim(blob, name, start, (uint32_t)total, 0);
    }
    if (blob == NULL || blob->total != total || blob->received != offset)
        return BLOB_SIZE;
    if (chunk->length > 0)
        memcpy(store_bytes + blob->start + blob->received, chunk->bytes, chunk->length);
    blob->received += (uint32_t)chunk->length;
    return BLOB_OK;
}

blob_status_t blob_adopt(const cbor_span_t *name, uint64_t total, uint64_t address, uint64_t crc)
{
    if (store_address == 0 || address < store_address || total > store_size ||
        address - store_address > store_size - total || (address - store_address) % BLOB_ALIGNMENT != 0)
        return BLOB_SIZE;
    uint32_t start = (uint32_t)(address - store_address);
    if (crc32_update(0, store_bytes + start, (size_t)total) != crc)
        return BLOB_CHECKSUM;
    for (uint32_t i = 0; i < BLOB_MAX; i++)
        if (overlaps(&blobs[i], start, (uint32_t)total))
            blobs[i].name_length = 0;
    blob_t *blob = renew(name);
    if (blob == NULL)
        return BLOB_SIZE;
    claim(blob, name, start, (uint32_t)total, (uint32_t)total);
    return BLOB_OK;
}

const blob_t *blob_find(const cbor_span_t *name)
{
    const blob_t *blob = lookup(name);
    return blob != NULL && blob->received == blob->total ? blob : NULL;
}

const uint8_t *blob_data(const blob_t *blob)
{
    return store_bytes + blob->start;
}
