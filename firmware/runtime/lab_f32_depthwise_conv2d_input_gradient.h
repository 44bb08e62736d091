/* Gradient of a depthwise convolution's input, fp32; the descriptor of the forward pass.
 *
 * output_gradient as the output, weights as in lab_f32_depthwise_conv2d, input_gradient as the input; every element of
 * it is written. Each is one float32 sum over kernel rows and kernel columns in that order. No scratch; input_gradient
 * must not overlap output_gradient. */
#ifndef LAB_F32_DEPTHWISE_CONV2D_INPUT_GRADIENT_H
#define LAB_F32_DEPTHWISE_CONV2D_INPUT_GRADIENT_H

#include "lab_f32_conv2d.h"

typedef lab_f32_conv2d_t lab_f32_depthwise_conv2d_input_gradient_t;

void lab_f32_depthwise_conv2d_input_gradient(const lab_f32_depthwise_conv2d_input_gradient_t *layer,
                                             const float *output_gradient, const float *weights, float *input_gradient);

#endif
