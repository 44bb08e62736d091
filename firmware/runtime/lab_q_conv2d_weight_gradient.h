/* Gradient of a convolution's real weights from its int8 input, fp32.
 *
 * `input` int8 holds only the channels of the slice, [batch][input_height][input_width][channel_count], each worth
 * input_scale * (value - input_zero_point); output_gradient is whole, the gradient of the real output. weight_gradient
 * [output_count][kernel_height][kernel_width][channel_count] (with groups [output_channels][KH][KW][input_channels /
 * groups], and the slice must be everything); every element is written. Each is input_scale times one float32 sum of
 * output_gradient * (value - zero point) over batch, output rows and output columns in that order. No scratch, 2 KiB
 * of stack. */
#ifndef LAB_Q_CONV2D_WEIGHT_GRADIENT_H
#define LAB_Q_CONV2D_WEIGHT_GRADIENT_H

#include "lab_f32_conv2d.h"

typedef struct {
    lab_f32_conv2d_t layer;
    int32_t channel_count;
    int32_t first_output, output_count;
    float input_scale;
    int32_t input_zero_point;
} lab_q_conv2d_weight_gradient_t;

void lab_q_conv2d_weight_gradient(const lab_q_conv2d_weight_gradient_t *gradient, const int8_t *input,
                                  const float *output_gradient, float *weight_gradient);

#endif
