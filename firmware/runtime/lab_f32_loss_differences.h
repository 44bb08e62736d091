/* What a client of a federation uploads in place of a gradient, fp32: differences[pass] += rate * (losses[pass] -
 * loss[0]), with the rate of the state, 1 / n for the mean over n samples. Losses are those of
 * lab_f32_perturbed_passes with a held key. No scratch. */
#ifndef LAB_F32_LOSS_DIFFERENCES_H
#define LAB_F32_LOSS_DIFFERENCES_H

#include "lab_training.h"

typedef struct {
    uint32_t passes;
} lab_f32_loss_differences_t;

void lab_f32_loss_differences(const lab_f32_loss_differences_t *layer, const float *losses, const float *loss,
                              float *differences, const lab_training_state_t *state);

#endif
