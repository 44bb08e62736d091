/* torch.optim.Adam, or AdamW where decoupled: weight_decay is added to the gradient, or parameter is first multiplied by
 * 1 - rate * weight_decay. mean += (1 - beta1) * (g - mean); square = beta2 * square + (1 - beta2) * g^2;
 * parameter -= rate / c1 * mean / (sqrt(square) / sqrt(c2) + epsilon) with c = 1 - beta^step, which is computed as
 * -expm1(step * log(beta)) so that float suffices. rate is rate_scale * learning rate.
 * The part of parameter that changes is rows of columns elements, stride apart, from first on; gradient, mean and square
 * are dense, [rows][columns]. No scratch. */
#ifndef LAB_F32_ADAM_H
#define LAB_F32_ADAM_H

#include "lab_training.h"

typedef struct {
    int32_t first, rows, columns, stride, decoupled;
    float rate_scale, weight_decay, epsilon;
    float mean_gain, mean_log;                  /* 1 - beta1, log(beta1) */
    float square_keep, square_gain, square_log; /* beta2, 1 - beta2, log(beta2) */
} lab_f32_adam_t;

void lab_f32_adam(const lab_f32_adam_t *layer, float *parameter, const float *gradient, float *mean, float *square,
                  lab_training_state_t *state);

#endif
