/* Average pooling, int8 NHWC; input and output share one quantisation.
 * The raw values of a window are summed and divided by their count, half away from zero (as in TFLite). Padding counts
 * as the zero point where `count_padding` is set, and not at all otherwise.
 * input [input_height][input_width][channels], output [output_height][output_width][channels].
 * No scratch; input and output must not overlap. */
#ifndef LAB_AVG_POOL2D_H
#define LAB_AVG_POOL2D_H

#include <stdint.h>

typedef struct {
    int32_t input_height, input_width;
    int32_t output_height, output_width;
    int32_t channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
    int32_t count_padding;
    int32_t zero_point;
} lab_avg_pool2d_t;

void lab_avg_pool2d(const lab_avg_pool2d_t *layer, const int8_t *input, int8_t *output);

#endif
