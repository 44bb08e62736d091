/* Gradient of lab_f32_avg_pool2d with respect to its input: every output's gradient, over its divisor, is added to all that
 * its window covers. gradient [batch][output_height][output_width][channels], output (the input's gradient)
 * [batch][input_height][input_width][channels]. No scratch; the two must not overlap. */
#ifndef LAB_F32_AVG_POOL2D_GRADIENT_H
#define LAB_F32_AVG_POOL2D_GRADIENT_H

#include "lab_f32_avg_pool2d.h"

void lab_f32_avg_pool2d_gradient(const lab_f32_avg_pool2d_t *layer, const float *gradient, float *output);

#endif
