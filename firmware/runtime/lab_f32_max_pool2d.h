/* Max pooling, NHWC; padding never wins; NaN does. input [batch][input_height][input_width][channels], output
 * [batch][output_height][output_width][channels]. No scratch; input and output must not overlap. */
#ifndef LAB_F32_MAX_POOL2D_H
#define LAB_F32_MAX_POOL2D_H

#include <stdint.h>

typedef struct {
    int32_t batch, input_height, input_width, output_height, output_width, channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
    int32_t dilation_height, dilation_width;
} lab_f32_max_pool2d_t;

void lab_f32_max_pool2d(const lab_f32_max_pool2d_t *layer, const float *input, float *output);

#endif
