/* The forward half of training without a backward pass, fp32: the model runs once with each perturbation of its
 * variables, and what is kept of a pass is its loss. Takes the next key from the state, which lab_f32_stein_update
 * finds there; or, where the key is held, what the state has, so that all samples of a job meet the same
 * perturbations. Afterwards the variables are what they were but for the rounding of adding and subtracting sigma.
 * losses [passes]; `output` has the outputs of the last pass. `forward` must leave `losses` alone. No scratch. */
#ifndef LAB_F32_PERTURBED_PASSES_H
#define LAB_F32_PERTURBED_PASSES_H

#include "lab_perturbation.h"
#include "lab_training.h"

typedef struct {
    lab_perturbation_t perturbation;
    uint32_t holds_key; /* 0: each step has a key of its own */
    float (*forward)(const void *sample, const void *target, void *output, uint8_t *arena); /* yields the loss */
} lab_f32_perturbed_passes_t;

void lab_f32_perturbed_passes(const lab_f32_perturbed_passes_t *layer, const void *sample, const void *target,
                              float *losses, void *output, uint8_t *arena, lab_training_state_t *state);

#endif
