/* Average pooling, NHWC. input [batch][input_height][input_width][channels], output [batch][output_height][output_width]
 * [channels]. A window covers [index * stride - pad, + kernel), or where adaptive [floor(index * input / output),
 * ceil((index + 1) * input / output)). No scratch; input and output must not overlap. */
#ifndef LAB_F32_AVG_POOL2D_H
#define LAB_F32_AVG_POOL2D_H

#include <stdint.h>

typedef struct {
    int32_t batch, input_height, input_width, output_height, output_width, channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t pad_top, pad_left;
    int32_t adaptive;
    int32_t count_padding; /* 1: the divisor counts the padding a window covers */
    int32_t divisor;       /* 0: the number of elements */
} lab_f32_avg_pool2d_t;

void lab_f32_avg_pool2d(const lab_f32_avg_pool2d_t *layer, const float *input, float *output);

#endif
