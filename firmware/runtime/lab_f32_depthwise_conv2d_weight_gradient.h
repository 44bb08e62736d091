/* Gradient of a depthwise convolution's weights, fp32; the descriptor of the forward pass.
 *
 * input and output_gradient as the forward pass's input and output, weight_gradient
 * [kernel_height][kernel_width][channels]; every element is written. Each is one float32 sum over batch, output rows
 * and output columns in that order. No scratch. */
#ifndef LAB_F32_DEPTHWISE_CONV2D_WEIGHT_GRADIENT_H
#define LAB_F32_DEPTHWISE_CONV2D_WEIGHT_GRADIENT_H

#include "lab_f32_conv2d.h"

typedef lab_f32_conv2d_t lab_f32_depthwise_conv2d_weight_gradient_t;

void lab_f32_depthwise_conv2d_weight_gradient(const lab_f32_depthwise_conv2d_weight_gradient_t *layer,
                                              const float *input, const float *output_gradient,
                                              float *weight_gradient);

#endif
