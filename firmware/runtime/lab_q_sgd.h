/* Update of int8 weights from a stored gradient; see lab_q_update.h. weights and gradient [outer][channels][inner],
 * weight_scale [channels]: a convolution's weights are [1][output_channels][kernel_height * kernel_width *
 * input_channels], a depthwise one's [kernel_height * kernel_width][channels] [1]. The gradient is that of the real
 * weights. No scratch. */
#ifndef LAB_Q_SGD_H
#define LAB_Q_SGD_H

#include "lab_training.h"

typedef struct {
    int32_t outer, channels, inner;
    const float *weight_scale;
    float rate_scale;
} lab_q_sgd_t;

void lab_q_sgd(const lab_q_sgd_t *sgd, const float *gradient, int8_t *weights, lab_training_state_t *state);

#endif
