/* Weight gradient of a depthwise convolution from its int8 input, with the update of the int8 weights at once.
 *
 * The gradient of lab_q_depthwise_conv2d_weight_gradient, never stored; the update of lab_q_update.h with rate =
 * learning_rate * rate_scale. weights int8 and bias are whole; only channel_count channels from first_channel on change;
 * what is folded into the bias moves along.
 * kernel_width <= LAB_Q_DEPTHWISE_TAPS. No scratch, 3 KiB of stack. */
#ifndef LAB_Q_DEPTHWISE_CONV2D_WEIGHT_SGD_H
#define LAB_Q_DEPTHWISE_CONV2D_WEIGHT_SGD_H

#include "lab_f32_conv2d.h"
#include "lab_training.h"

typedef struct {
    lab_f32_conv2d_t layer;
    int32_t first_channel, channel_count;
    const float *weight_scale; /* [channels] */
    float input_scale;
    int32_t input_zero_point;
    int32_t bias_offset; /* bias holds the real one less this times the sum of the channel's weights */
    float rate_scale;
} lab_q_depthwise_conv2d_weight_sgd_t;

void lab_q_depthwise_conv2d_weight_sgd(const lab_q_depthwise_conv2d_weight_sgd_t *sgd, const int8_t *input,
                                       const float *output_gradient, int8_t *weights, int32_t *bias,
                                       lab_training_state_t *state);

#endif
