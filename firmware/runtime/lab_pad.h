/* Zero padding (that is: zero points) around an int8 NHWC tensor, where no convolution could take it over.
 * input [input_height][input_width][input_channels], output [output_height][output_width][input_channels].
 * No scratch; input and output must not overlap. */
#ifndef LAB_PAD_H
#define LAB_PAD_H

#include <stdint.h>

typedef struct {
    int32_t input_height, input_width, input_channels;
    int32_t output_height, output_width;
    int32_t pad_top, pad_left;
    int32_t zero_point;
} lab_pad_t;

void lab_pad(const lab_pad_t *layer, const int8_t *input, int8_t *output);

#endif
