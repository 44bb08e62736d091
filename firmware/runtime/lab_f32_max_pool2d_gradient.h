/* Gradient of max pooling with respect to its input: every output's gradient is added where the maximum was found.
 * gradient [batch][output_height][output_width][channels], places as lab_f32_max_pool2d_places wrote them, output
 * [batch][input_height][input_width][channels]. No scratch; nothing may overlap. */
#ifndef LAB_F32_MAX_POOL2D_GRADIENT_H
#define LAB_F32_MAX_POOL2D_GRADIENT_H

#include "lab_f32_max_pool2d.h"

void lab_f32_max_pool2d_gradient(const lab_f32_max_pool2d_t *layer, const float *gradient, const void *places,
                                 float *output);

#endif
