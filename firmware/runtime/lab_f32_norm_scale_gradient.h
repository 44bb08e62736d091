/* Gradient of a normalisation with respect to its scale: the sum over batch and positions of
 * gradient * (input - mean) * deviation. gradient, input [batch][positions][groups][channels]; mean, deviation
 * [batch][groups]; output [groups][channels]. Serves lab_f32_group_norm and, with batch = channels = 1,
 * lab_f32_batch_norm. No scratch. */
#ifndef LAB_F32_NORM_SCALE_GRADIENT_H
#define LAB_F32_NORM_SCALE_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t batch, positions, groups, channels;
} lab_f32_norm_scale_gradient_t;

void lab_f32_norm_scale_gradient(const lab_f32_norm_scale_gradient_t *layer, const float *gradient, const float *input,
                                 const float *mean, const float *deviation, float *output);

#endif
