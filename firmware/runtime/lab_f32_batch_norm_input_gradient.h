/* Gradient of lab_f32_batch_norm with respect to its input: gradient * deviation * scale, channel by channel.
 * gradient, output [positions][channels]; deviation, scale [channels], scale may be a null pointer.
 * No scratch; output may be gradient. */
#ifndef LAB_F32_BATCH_NORM_INPUT_GRADIENT_H
#define LAB_F32_BATCH_NORM_INPUT_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t positions, channels;
} lab_f32_batch_norm_input_gradient_t;

void lab_f32_batch_norm_input_gradient(const lab_f32_batch_norm_input_gradient_t *layer, const float *gradient,
                                       const float *deviation, const float *scale, float *output);

#endif
