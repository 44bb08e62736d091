/* 1x1 convolution without padding, int8 NHWC, any stride.
 * input [input_height][input_width][input_channels], weights [output_channels][input_channels],
 * output [output_height][output_width][output_channels]. No scratch; input and output must not overlap. */
#ifndef LAB_POINTWISE_CONV2D_H
#define LAB_POINTWISE_CONV2D_H

#include <stdint.h>

typedef struct {
    const int8_t *weights;
    const int32_t *bias; /* with the input's zero point folded in */
    const int32_t *multiplier;
    const uint8_t *shift;
    int32_t input_height, input_width, input_channels;
    int32_t output_height, output_width, output_channels;
    int32_t stride_height, stride_width;
    int32_t output_zero_point, output_minimum, output_maximum;
} lab_pointwise_conv2d_t;

void lab_pointwise_conv2d(const lab_pointwise_conv2d_t *layer, const int8_t *input, int8_t *output);

#endif
