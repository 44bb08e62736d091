#include "lab_latent_codec.h"

#include <stddef.h>
#include <string.h>

static uint32_t bitmap_bytes(const lab_latent_codec_t *codec)
{
    return codec->is_sparse ? (codec->elements + 7u) / 8u : 0;
}

static uint32_t group_bytes(const lab_latent_codec_t *codec)
{
    return codec->codebook != NULL ? 1u : codec->value_bytes;
}

static float real(const lab_latent_codec_t *codec, int32_t value)
{
    return codec->scale * (float)(value - codec->zero_point);
}

static int32_t distance(const int8_t *first, const int8_t *second, uint32_t count)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        int32_t apart = first[i] - second[i];
        sum += apart * apart;
    }
    return sum;
}

static uint8_t nearest(const lab_latent_codec_t *codec, const int8_t *group)
{
    uint32_t found = 0;
    int32_t least = distance(codec->codebook, group, codec->dimension);
    for (uint32_t i = 1; i < codec->centroids; i++) {
        int32_t sum = distance(codec->codebook + (size_t)i * codec->dimension, group, codec->dimension);
        if (sum < least) {
            least = sum;
            found = i;
        }
    }
    return (uint8_t)found;
}

static void put_group(const lab_latent_codec_t *codec, const int8_t *group, uint8_t *packed)
{
    if (codec->codebook != NULL) {
        *packed = nearest(codec, group);
    } else if (codec->value_bytes == 1) {
        memcpy(packed, group, 1);
    } else {
        float value = real(codec, group[0]);
        memcpy(packed, &value, sizeof value);
    }
}

static float value_of(const lab_latent_codec_t *codec, const uint8_t *groups, uint32_t place)
{
    if (codec->codebook != NULL) {
        const int8_t *group = codec->codebook + (size_t)groups[place / codec->dimension] * codec->dimension;
        return real(codec, group[place % codec->dimension]);
    }
    if (codec->value_bytes == 1)
        return real(codec, (int8_t)groups[place]);
    float value;
    memcpy(&value, groups + (size_t)place * sizeof value, sizeof value);
    return value;
}

uint32_t lab_latent_packed_bytes(const lab_latent_codec_t *codec, const int8_t *latent)
{
    uint32_t values = 0;
    for (uint32_t i = 0; i < codec->elements; i++)
        values += !codec->is_sparse || latent[i] != codec->zero_point;
    uint32_t groups = (values + codec->dimension - 1u) / codec->dimension;
    return bitmap_bytes(codec) + groups * group_bytes(codec);
}

uint32_t lab_latent_encode(const lab_latent_codec_t *codec, const int8_t *latent, uint8_t *packed)
{
    int8_t group[LAB_LATENT_MOST_DIMENSION];
    uint8_t *out = packed + bitmap_bytes(codec);
    uint32_t filled = 0;
    memset(packed, 0, bitmap_bytes(codec));
    for (uint32_t i = 0; i < codec->elements; i++) {
        if (codec->is_sparse) {
            if (latent[i] == codec->zero_point)
                continue;
            packed[i / 8u] |= (uint8_t)(1u << i % 8u);
        }
        group[filled++] = latent[i];
        if (filled == codec->dimension) {
            put_group(codec, group, out);
            out += group_bytes(codec);
            filled = 0;
        }
    }
    if (filled > 0) {
        memset(group + filled, codec->zero_point, codec->dimension - filled);
        put_group(codec, group, out);
        out += group_bytes(codec);
    }
    return (uint32_t)(out - packed);
}

void lab_latent_decode(const lab_latent_codec_t *codec, const uint8_t *packed, float *latent)
{
    const uint8_t *groups = packed + bitmap_bytes(codec);
    uint32_t place = 0;
    for (uint32_t i = 0; i < codec->elements; i++) {
        if (codec->is_sparse && !(packed[i / 8u] >> i % 8u & 1u))
            latent[i] = 0.0f;
        else
            latent[i] = value_of(codec, groups, place++);
    }
}

void lab_latent_widen(const lab_latent_codec_t *codec, const int8_t *latent, float *wide)
{
    for (uint32_t i = 0; i < codec->elements; i++)
        wide[i] = real(codec, latent[i]);
}
