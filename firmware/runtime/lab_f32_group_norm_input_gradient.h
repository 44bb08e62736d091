/* Gradient of lab_f32_group_norm with respect to its input; sizes, mean, deviation and scale as there.
 * With n = (x - mean) * deviation, h = gradient * scale and means over the group:
 * output = deviation * (h - mean(h) - n * mean(h * n)).
 * gradient, input, output [batch][positions][groups][channels]. No scratch; output may be gradient or input. */
#ifndef LAB_F32_GROUP_NORM_INPUT_GRADIENT_H
#define LAB_F32_GROUP_NORM_INPUT_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t batch, positions, groups, channels;
} lab_f32_group_norm_input_gradient_t;

void lab_f32_group_norm_input_gradient(const lab_f32_group_norm_input_gradient_t *layer, const float *gradient,
                                       const float *input, const float *mean, const float *deviation,
                                       const float *scale, float *output);

#endif
