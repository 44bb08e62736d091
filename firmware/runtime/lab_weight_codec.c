#include "lab_weight_codec.h"

#include <stddef.h>
#include <string.h>

/* Copies of what the pointers lead to: for all that the compiler knows, weights may lie over it. */
static void decode_4_bits(const lab_stored_weights_t *layer)
{
    const lab_stored_weights_t own = *layer;
    const uint8_t *even = own.codebook->entries;
    const uint8_t *odd = even + own.codebook->words;
    for (uint32_t i = 0; i < own.bytes / 2u; i++) {
        uint32_t numbers = own.stored[i];
        own.weights[2u * i] = even[numbers & 15u];
        own.weights[2u * i + 1u] = odd[numbers >> 4];
    }
}

static void decode_2_bits(const lab_stored_weights_t *layer)
{
    const lab_stored_weights_t own = *layer;
    const uint8_t *even = own.codebook->entries;
    const uint8_t *odd = even + own.codebook->words;
    for (uint32_t i = 0; i < own.bytes / 4u; i++) {
        uint32_t numbers = own.stored[i];
        own.weights[4u * i] = even[numbers & 3u];
        own.weights[4u * i + 1u] = odd[numbers >> 2 & 3u];
        own.weights[4u * i + 2u] = even[numbers >> 4 & 3u];
        own.weights[4u * i + 3u] = odd[numbers >> 6];
    }
}

static void decode_8_bits(const lab_stored_weights_t *layer)
{
    const lab_weight_codebook_t book = *layer->codebook;
    const lab_stored_weights_t own = *layer;
    uint32_t step = book.words * 4u;
    uint32_t end = book.subspaces * step;
    uint32_t from = 0;
    for (uint32_t i = 0; i < own.bytes / 4u; i++) {
        memcpy(own.weights + (size_t)i * 4u, book.entries + from + own.stored[i] * 4u, 4u);
        from = from + step == end ? 0 : from + step;
    }
}

void lab_weight_decode(const lab_stored_weights_t *layer)
{
    if (layer->codebook == NULL)
        memcpy(layer->weights, layer->stored, layer->bytes);
    else if (layer->codebook->index_bits == 8u)
        decode_8_bits(layer);
    else if (layer->codebook->index_bits == 4u)
        decode_4_bits(layer);
    else
        decode_2_bits(layer);
}
