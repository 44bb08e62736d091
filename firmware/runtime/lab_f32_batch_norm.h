/* Normalisation by given statistics: y = (x - mean) * deviation * scale + shift, channel by channel.
 * input, output [positions][channels]; mean, deviation (1 / sqrt(variance + epsilon)) [channels]; scale, shift [channels],
 * each may be a null pointer. No scratch; output may be input. */
#ifndef LAB_F32_BATCH_NORM_H
#define LAB_F32_BATCH_NORM_H

#include <stdint.h>

typedef struct {
    int32_t positions, channels;
} lab_f32_batch_norm_t;

void lab_f32_batch_norm(const lab_f32_batch_norm_t *layer, const float *input, const float *mean, const float *deviation,
                        const float *scale, const float *shift, float *output);

#endif
