/* Gradient of an embedding and its SGD update in one: only the rows that were read are touched, and no gradient is stored.
 * table[indices[i]] -= rate_scale * learning rate * gradient[i], one i after the other; indices equal to ignored or out of
 * range are left out. gradient [count][columns], indices [count], table [rows][columns]. No scratch. */
#ifndef LAB_F32_EMBEDDING_SGD_H
#define LAB_F32_EMBEDDING_SGD_H

#include "lab_training.h"

typedef struct {
    int32_t count, rows, columns;
    int32_t ignored; /* -1: none */
    float rate_scale;
} lab_f32_embedding_sgd_t;

void lab_f32_embedding_sgd(const lab_f32_embedding_sgd_t *layer, const float *gradient, const int32_t *indices,
                           float *table, lab_training_state_t *state);

#endif
