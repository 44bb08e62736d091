/* Normalisation by running statistics: y = (x - mean) / sqrt(variance + epsilon) * scale + shift, channel by channel.
 * input, output [positions][channels]; mean, variance [channels]; scale, shift [channels], each may be a null pointer.
 * No scratch; output may be input. */
#ifndef LAB_F32_RUNNING_NORM_H
#define LAB_F32_RUNNING_NORM_H

#include <stdint.h>

typedef struct {
    int32_t positions, channels;
    float epsilon;
} lab_f32_running_norm_t;

void lab_f32_running_norm(const lab_f32_running_norm_t *layer, const float *input, const float *mean,
                          const float *variance, const float *scale, const float *shift, float *output);

#endif
