/* The update of training without a backward pass, fp32: by Stein's identity the gradient is the mean over the passes of
 * (losses[pass] - loss[0]) / sigma times the signs of the pass's perturbation, and the variables descend it. Signs are
 * made again from the key that lab_f32_perturbed_passes left in the state; no more of the gradient exists at a time than
 * the LAB_PERTURBATION_WORD elements that share a word, on the stack. No scratch. */
#ifndef LAB_F32_STEIN_UPDATE_H
#define LAB_F32_STEIN_UPDATE_H

#include "lab_perturbation.h"
#include "lab_training.h"

typedef struct {
    lab_perturbation_t perturbation;
} lab_f32_stein_update_t;

void lab_f32_stein_update(const lab_f32_stein_update_t *layer, const float *losses, const float *loss,
                          const lab_training_state_t *state);

#endif
