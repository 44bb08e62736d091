/* Weight gradient of a depthwise convolution with the update at once, fp32; the gradient is never stored.
 *
 * weights -= rate_scale * learning_rate * (gradient + weight_decay * weights) for channel_count channels from
 * first_channel on; the others are left alone. `input` holds only these channels; output_gradient and weights are
 * whole. The gradient is summed as in lab_f32_depthwise_conv2d_weight_gradient. No scratch. */
#ifndef LAB_F32_DEPTHWISE_CONV2D_WEIGHT_SGD_H
#define LAB_F32_DEPTHWISE_CONV2D_WEIGHT_SGD_H

#include "lab_f32_conv2d.h"
#include "lab_training.h"

typedef struct {
    lab_f32_conv2d_t layer;
    float weight_decay, rate_scale;
    int32_t first_channel, channel_count;
} lab_f32_depthwise_conv2d_weight_sgd_t;

void lab_f32_depthwise_conv2d_weight_sgd(const lab_f32_depthwise_conv2d_weight_sgd_t *sgd, const float *input,
                                         const float *output_gradient, float *weights, lab_training_state_t *state);

#endif
