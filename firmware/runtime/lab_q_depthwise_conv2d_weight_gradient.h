/* Gradient of a depthwise convolution's real weights from its int8 input, fp32.
 *
 * `input` int8 holds only channel_count channels from first_channel on, each value worth input_scale * (value -
 * input_zero_point); output_gradient is whole, the gradient of the real output. weight_gradient
 * [kernel_height][kernel_width] [channel_count]; every element is written. Each is input_scale times one float32 sum of
 * output_gradient * (value - zero point) over batch, output rows and output columns in that order. kernel_width <=
 * LAB_Q_DEPTHWISE_TAPS. No scratch, 3 KiB of stack. */
#ifndef LAB_Q_DEPTHWISE_CONV2D_WEIGHT_GRADIENT_H
#define LAB_Q_DEPTHWISE_CONV2D_WEIGHT_GRADIENT_H

#include "lab_f32_conv2d.h"

typedef struct {
    lab_f32_conv2d_t layer;
    int32_t first_channel, channel_count;
    float input_scale;
    int32_t input_zero_point;
} lab_q_depthwise_conv2d_weight_gradient_t;

void lab_q_depthwise_conv2d_weight_gradient(const lab_q_depthwise_conv2d_weight_gradient_t *gradient,
                                            const int8_t *input, const float *output_gradient,
                                            float *weight_gradient);

#endif
