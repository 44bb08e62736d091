/* Gradient of a depthwise convolution's input with int8 weights, fp32.
 *
 * output_gradient as the output and input_gradient as the input are gradients of real values; weights int8
 * [kernel_height] [kernel_width][channels], each worth weight_scale[channel] times its value. Every element of
 * input_gradient is written; each is a float32 sum over kernel rows and kernel columns in that order (with more than
 * LAB_Q_TAPS taps in pieces of kernel rows). kernel_width <= LAB_Q_TAPS. No scratch, 1.6 KiB of stack; input_gradient
 * must not overlap output_gradient. */
#ifndef LAB_Q_DEPTHWISE_CONV2D_INPUT_GRADIENT_H
#define LAB_Q_DEPTHWISE_CONV2D_INPUT_GRADIENT_H

#include "lab_f32_conv2d.h"

#define LAB_Q_TAPS 25

typedef struct {
    lab_f32_conv2d_t layer;
    const float *weight_scale; /* [channels] */
} lab_q_depthwise_conv2d_input_gradient_t;

void lab_q_depthwise_conv2d_input_gradient(const lab_q_depthwise_conv2d_input_gradient_t *gradient,
                                           const float *output_gradient, const int8_t *weights, float *input_gradient);

#endif
