/* Convolution, fp32, NHWC with batch, any groups, stride, padding and dilation.
 *
 * input [batch][input_height][input_width][input_channels], weights [output_channels][kernel_height][kernel_width]
 * [input_channels / groups], bias [output_channels] or a null pointer, output [batch][output_height][output_width]
 * [output_channels], clamped to [minimum, maximum]. Padding at the bottom and right follows from the output's size.
 * Each output is one float32 sum over kernel rows, kernel columns and input channels in that order, then the bias.
 * No scratch; input and output must not overlap. */
#ifndef LAB_F32_CONV2D_H
#define LAB_F32_CONV2D_H

#include <stdint.h>

/* The geometry that all convolution kernels of training share. */
typedef struct {
    int32_t batch;
    int32_t input_height, input_width, input_channels;
    int32_t output_height, output_width, output_channels;
    int32_t groups;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
    int32_t dilation_height, dilation_width;
    float minimum, maximum; /* of the output; the gradients do not read them */
} lab_f32_conv2d_t;

void lab_f32_conv2d(const lab_f32_conv2d_t *layer, const float *input, const float *weights, const float *bias,
                    float *output);

#endif
