/* Weight gradient of a linear layer with the update at once, fp32; the gradient is never stored.
 *
 * weights[rows][columns] -= rate_scale * learning_rate * (a . b + weight_decay * weights); a and b as in lab_f32_matmul
 * without a batch. Each gradient is one float32 sum over depth from first to last. No scratch; weights must not overlap
 * a, b. */
#ifndef LAB_F32_MATMUL_SGD_H
#define LAB_F32_MATMUL_SGD_H

#include "lab_training.h"

typedef struct {
    int32_t rows, columns, depth;
    int32_t transpose_a, transpose_b;
    float weight_decay, rate_scale;
} lab_f32_matmul_sgd_t;

void lab_f32_matmul_sgd(const lab_f32_matmul_sgd_t *layer, const float *a, const float *b, float *weights,
                        lab_training_state_t *state);

#endif
