/* Convolution over all input channels, int8 NHWC, any kernel, stride and padding (no dilation, one group).
 * input [input_height][input_width][input_channels],
 * weights packed as in lab_dense.h, inputs in the order [kernel_height][kernel_width][input_channels],
 * output [output_height][output_width][output_channels].
 * Scratch, 4-byte aligned, for K = kernel_height * kernel_width * input_channels rounded up to a multiple of four (four
 * expanded receptive fields; never more): 8 * K bytes, and one pixel of zero points behind them; or where the channels are
 * no multiple of four, 12 * K bytes.
 * Input, output and scratch must not overlap. */
#ifndef LAB_CONV2D_H
#define LAB_CONV2D_H

#include <stdint.h>

typedef struct {
    const int32_t *weights;
    const int32_t *bias; /* with the input's zero point plus 128 folded in */
    const int32_t *multiplier;
    const uint8_t *shift;
    int32_t input_height, input_width, input_channels;
    int32_t output_height, output_width, output_channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
    int32_t input_zero_point;
    int32_t output_zero_point, output_minimum, output_maximum;
} lab_conv2d_t;

void lab_conv2d(const lab_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch);

#endif
