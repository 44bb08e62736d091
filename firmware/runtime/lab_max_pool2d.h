/* Max pooling, int8 NHWC; input and output share one quantisation; padding never wins.
 * input [input_height][input_width][channels], output [output_height][output_width][channels].
 * No scratch; input and output must not overlap. */
#ifndef LAB_MAX_POOL2D_H
#define LAB_MAX_POOL2D_H

#include <stdint.h>

typedef struct {
    int32_t input_height, input_width;
    int32_t output_height, output_width;
    int32_t channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
} lab_max_pool2d_t;

void lab_max_pool2d(const lab_max_pool2d_t *layer, const int8_t *input, int8_t *output);

#endif
