/* Gradient of the input of lab_f32_blocks_conv2d, fp32: gradient of its output; weights, blocks as there; output as its
 * input. No scratch; output must not overlap. */
#ifndef LAB_F32_BLOCKS_CONV2D_INPUT_GRADIENT_H
#define LAB_F32_BLOCKS_CONV2D_INPUT_GRADIENT_H

#include "lab_f32_blocks_conv2d.h"

void lab_f32_blocks_conv2d_input_gradient(const lab_f32_blocks_conv2d_t *sparse, const float *gradient,
                                          const float *weights, const uint8_t *blocks, float *output);

#endif
