/* parameter -= rate_scale * learning rate * (gradient + weight_decay * parameter), as torch.optim.SGD without momentum.
 * The part of parameter that changes is rows of columns elements, stride apart, from first on; gradient
 * is dense, [rows][columns]. No scratch. */
#ifndef LAB_F32_SGD_H
#define LAB_F32_SGD_H

#include "lab_training.h"

typedef struct {
    int32_t first, rows, columns, stride;
    float rate_scale, weight_decay;
} lab_f32_sgd_t;

void lab_f32_sgd(const lab_f32_sgd_t *layer, float *parameter, const float *gradient, lab_training_state_t *state);

#endif
