/* Depthwise convolution (one filter per channel), fp32, NHWC with batch; groups == input_channels == output_channels.
 *
 * As lab_f32_conv2d, but weights [kernel_height][kernel_width][channels]. Each output is one float32 sum over kernel
 * rows and kernel columns in that order, then the bias. No scratch; input and output must not overlap. */
#ifndef LAB_F32_DEPTHWISE_CONV2D_H
#define LAB_F32_DEPTHWISE_CONV2D_H

#include "lab_f32_conv2d.h"

typedef lab_f32_conv2d_t lab_f32_depthwise_conv2d_t;

void lab_f32_depthwise_conv2d(const lab_f32_depthwise_conv2d_t *layer, const float *input, const float *weights,
                              const float *bias, float *output);

#endif
