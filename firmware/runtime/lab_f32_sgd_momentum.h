/* torch.optim.SGD with momentum: g = gradient + weight_decay * parameter; velocity = momentum * velocity + gain * g, or g
 * in step 1; parameter -= rate * (nesterov ? g + momentum * velocity : velocity). rate is rate_scale * learning rate.
 * The part of parameter
 * that changes is rows of columns elements, stride apart, from first on; gradient and velocity are dense,
 * [rows][columns]. No scratch. */
#ifndef LAB_F32_SGD_MOMENTUM_H
#define LAB_F32_SGD_MOMENTUM_H

#include "lab_training.h"

typedef struct {
    int32_t first, rows, columns, stride, nesterov;
    float rate_scale, weight_decay, momentum, gain; /* gain is 1 - dampening */
} lab_f32_sgd_momentum_t;

void lab_f32_sgd_momentum(const lab_f32_sgd_momentum_t *layer, float *parameter, const float *gradient, float *velocity,
                          lab_training_state_t *state);

#endif
