/* Gradient of a bias with the update at once, fp32. gradient [rows][channels]; bias[channels] -= rate_scale *
 * learning_rate * (sum over rows + weight_decay * bias), summed as in lab_f32_channel_sum. No scratch. */
#ifndef LAB_F32_CHANNEL_SUM_SGD_H
#define LAB_F32_CHANNEL_SUM_SGD_H

#include "lab_training.h"

typedef struct {
    int32_t rows, channels;
    float weight_decay, rate_scale;
} lab_f32_channel_sum_sgd_t;

void lab_f32_channel_sum_sgd(const lab_f32_channel_sum_sgd_t *layer, const float *gradient, float *bias,
                             lab_training_state_t *state);

#endif
