/* Gradient of an int32 bias with the update at once.
 *
 * bias[c] is worth bias_scale[c] * bias[c]. With g the float32 sum of gradient[rows][channels] over rows from first to
 * last and d = g * (rate / bias_scale[c]), rate = learning_rate * rate_scale, each operation in float32, the bias loses
 * floor(d + u), u = lab_random_at(key, c) / 2^24, so that steps below one level count in the mean, and is limited to
 * +-limit. What is folded into the bias (the input's zero point) does not matter. No scratch. */
#ifndef LAB_Q_BIAS_SGD_H
#define LAB_Q_BIAS_SGD_H

#include "lab_training.h"

typedef struct {
    int32_t rows, channels;
    const float *bias_scale; /* [channels]: weight scale * input scale */
    float rate_scale;
    int32_t limit; /* below 2^30: what the int8 kernel's accumulators allow */
} lab_q_bias_sgd_t;

void lab_q_bias_sgd(const lab_q_bias_sgd_t *sgd, const float *gradient, int32_t *bias, lab_training_state_t *state);

#endif
