/* Convolution without the bounds of the fast kernels: groups, channel multipliers, dilation, multipliers above one and
 * sums up to 2^31. One loop per dimension; for the rare layer of an imported model that no fast kernel takes.
 * input [input_height][input_width][input_channels],
 * weights [output_channels][kernel_height][kernel_width][input_channels / groups],
 * output [output_height][output_width][output_channels]. A fully connected layer is the 1x1 case.
 * No scratch; input and output must not overlap. */
#ifndef LAB_GENERAL_CONV2D_H
#define LAB_GENERAL_CONV2D_H

#include <stdint.h>

typedef struct {
    const int8_t *weights;
    const int32_t *bias;
    const int32_t *multiplier; /* Q31 */
    const int8_t *shift;       /* to the right, negative to the left */
    int32_t input_height, input_width, input_channels;
    int32_t output_height, output_width, output_channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
    int32_t dilation_height, dilation_width;
    int32_t groups;
    int32_t input_zero_point;
    int32_t output_zero_point, output_minimum, output_maximum;
} lab_general_conv2d_t;

void lab_general_conv2d(const lab_general_conv2d_t *layer, const int8_t *input, int8_t *output);

#endif
