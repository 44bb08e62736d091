/* Latents kept small: what is not zero, found again by one bit for each element, and groups of values as the number of
 * their nearest neighbour in a codebook (Kwon et al. 2023, "LifeLearner", sections 3.3 and 3.4). Each of the two can be
 * left out. A packed latent: the bits, first element in the lowest bit of the first byte, where it is sparse; then one
 * byte for each group of `dimension` values, the last filled up with zeros, or the values themselves. */
#ifndef LAB_LATENT_CODEC_H
#define LAB_LATENT_CODEC_H

#include <stdint.h>

/* Values in a group, at most. */
#define LAB_LATENT_MOST_DIMENSION 32u

typedef struct {
    const int8_t *codebook; /* [centroids][dimension], centroids at most 256; null where values are kept */
    uint32_t elements;      /* of a latent */
    uint32_t dimension;     /* values in a group; 1 without a codebook */
    uint32_t centroids;
    uint32_t value_bytes; /* of a value without a codebook: 1 for int8, 4 for float32 */
    uint32_t is_sparse;
    int32_t zero_point; /* real value = scale * (value - zero_point) */
    float scale;
} lab_latent_codec_t;

/* Bytes of a latent int8 [elements], packed. */
uint32_t lab_latent_packed_bytes(const lab_latent_codec_t *codec, const int8_t *latent);

/* Packs a latent int8 [elements] and yields how many bytes it took. Nearest is by the sum of squared differences in
 * integers, the first of equals. They must not overlap. */
uint32_t lab_latent_encode(const lab_latent_codec_t *codec, const int8_t *latent, uint8_t *packed);

/* The real values, fp32 [elements], of a packed latent. */
void lab_latent_decode(const lab_latent_codec_t *codec, const uint8_t *packed, float *latent);

/* The real values, fp32 [elements], of a latent int8 [elements]. */
void lab_latent_widen(const lab_latent_codec_t *codec, const int8_t *latent, float *wide);

#endif
