/* A parameter takes its next values, parameter[i] = next[i] of `count`, in every step whose number `steps` divides; fp32.
 * No scratch; they must not overlap. */
#ifndef LAB_F32_COMMIT_H
#define LAB_F32_COMMIT_H

#include "lab_training.h"

typedef struct {
    int32_t count, steps;
} lab_f32_commit_t;

void lab_f32_commit(const lab_f32_commit_t *layer, const float *next, float *parameter,
                    const lab_training_state_t *state);

#endif
