/* 1x1 convolution without padding, int8 NHWC, any stride.
 * input [input_height][input_width][input_channels], weights packed as in lab_dense.h,
 * output [output_height][output_width][output_channels].
 * Scratch: 8 * input_channels bytes, the channels rounded up to a multiple of four; 4-byte aligned.
 * Input, output and scratch must not overlap. */
#ifndef LAB_POINTWISE_CONV2D_H
#define LAB_POINTWISE_CONV2D_H

#include <stdint.h>

typedef struct {
    const int32_t *weights;
    const int32_t *bias; /* with the input's zero point plus 128 folded in */
    const int32_t *multiplier;
    const uint8_t *shift;
    int32_t input_height, input_width, input_channels;
    int32_t output_height, output_width, output_channels;
    int32_t stride_height, stride_width;
    int32_t output_zero_point, output_minimum, output_maximum;
} lab_pointwise_conv2d_t;

void lab_pointwise_conv2d(const lab_pointwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch);

#endif
