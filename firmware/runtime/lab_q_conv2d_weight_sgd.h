/* Weight gradient of a convolution from its int8 input, with the update of the int8 weights at once.
 *
 * The gradient of lab_q_conv2d_weight_gradient, never stored; the update of lab_q_update.h with rate = learning_rate *
 * rate_scale. weights (packed rows, lab_dense.h) and bias are whole; only the slice of channel_count input channels and
 * output_count outputs changes; what is folded into the bias moves along. With groups the slice must be everything. No
 * scratch, 2 KiB of stack. */
#ifndef LAB_Q_CONV2D_WEIGHT_SGD_H
#define LAB_Q_CONV2D_WEIGHT_SGD_H

#include "lab_f32_conv2d.h"
#include "lab_training.h"

typedef struct {
    lab_f32_conv2d_t layer;
    int32_t first_channel, channel_count;
    int32_t first_output, output_count;
    const float *weight_scale; /* [output_channels] */
    float input_scale;
    int32_t input_zero_point;
    int32_t bias_offset; /* bias holds the real one less this times the sum of the output's weights */
    float rate_scale;
} lab_q_conv2d_weight_sgd_t;

void lab_q_conv2d_weight_sgd(const lab_q_conv2d_weight_sgd_t *sgd, const int8_t *input, const float *output_gradient,
                             int32_t *weights, int32_t *bias, lab_training_state_t *state);

#endif
