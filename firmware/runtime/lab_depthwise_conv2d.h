/* Depthwise convolution (one filter per channel), int8 NHWC, any stride and padding.
 * input [input_height][input_width][channels], weights [kernel_height][kernel_width][channels],
 * output [output_height][output_width][channels]; kernel_height * kernel_width <= LAB_DEPTHWISE_TAPS.
 * Scratch, 4-byte aligned, for P = (kernel_height + 1) / 2 pairs of rows that serve R = (2 P - kernel_height) /
 * stride_height + 1 rows of output, and X = (output_width - 1) * stride_width + kernel_width columns of four channels:
 * 16 * P * X bytes, 16 * (2 P - 1) * R * kernel_width bytes of weights and 64 more; at least `channels` bytes.
 * Input, output and scratch must not overlap. Stack: a table of LAB_DEPTHWISE_TAPS pointers. */
#ifndef LAB_DEPTHWISE_CONV2D_H
#define LAB_DEPTHWISE_CONV2D_H

#include <stdint.h>

#define LAB_DEPTHWISE_TAPS 64

typedef struct {
    const int8_t *weights;
    const int32_t *bias; /* with the input's zero point folded in */
    const int32_t *multiplier;
    const uint8_t *shift;
    int32_t input_height, input_width;
    int32_t output_height, output_width;
    int32_t channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
    int32_t input_zero_point;
    int32_t output_zero_point, output_minimum, output_maximum;
} lab_depthwise_conv2d_t;

void lab_depthwise_conv2d(const lab_depthwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch);

#endif
