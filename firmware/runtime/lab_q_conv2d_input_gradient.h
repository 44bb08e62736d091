/* Gradient of a convolution's input with int8 weights, fp32.
 *
 * output_gradient [batch][output_height][output_width][output_channels] and input_gradient as the input are gradients
 * of real values; weights are the packed rows of lab_dense.h, before packing [output_channels][kernel_height]
 * [kernel_width][input_channels / groups], each worth weight_scale[output] times its value. Every element of
 * input_gradient is written; each is one float32 sum over kernel rows, kernel columns and output channels in that order.
 * No scratch, 1 KiB of stack; input_gradient must not overlap output_gradient. */
#ifndef LAB_Q_CONV2D_INPUT_GRADIENT_H
#define LAB_Q_CONV2D_INPUT_GRADIENT_H

#include "lab_f32_conv2d.h"

typedef struct {
    lab_f32_conv2d_t layer;
    const float *weight_scale; /* [output_channels] */
} lab_q_conv2d_input_gradient_t;

void lab_q_conv2d_input_gradient(const lab_q_conv2d_input_gradient_t *gradient, const float *output_gradient,
                                 const int32_t *weights, float *input_gradient);

#endif
