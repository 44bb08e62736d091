/* Weights kept small: groups of bytes as numbers of entries in a codebook (product quantisation, Jegou et al. 2011, as in
 * Kwon et al. 2022, "YONO", section 2), written back as a kernel reads them. Networks that share a codebook are stored as
 * their numbers alone. Entries hold weights as they lie in memory, packed as lab_dense.h says: decoding copies. */
#ifndef LAB_WEIGHT_CODEC_H
#define LAB_WEIGHT_CODEC_H

#include <stdint.h>

typedef struct {
    const uint8_t *entries; /* [subspaces][words][width] */
    uint32_t subspaces;     /* codebooks that groups take in turn: any with a width of 4, 2 with one of 1 */
    uint32_t words;         /* entries of each, at most 2^index_bits; every number is below it */
    uint32_t width;         /* bytes of a group: 4 or 1 */
    uint32_t index_bits;    /* of a number: 8 with a width of 4; 4 or 2 with one of 1, the first in the lowest bits */
} lab_weight_codebook_t;

typedef struct {
    const lab_weight_codebook_t *codebook; /* null where `stored` holds the weights themselves */
    const uint8_t *stored;                 /* a number for each group */
    uint8_t *weights;                      /* `bytes` of them are written */
    uint32_t bytes;                        /* a multiple of four */
} lab_stored_weights_t;

/* Writes the weights of a layer. They must not overlap what is stored. */
void lab_weight_decode(const lab_stored_weights_t *layer);

#endif
