/* SGD on the weights of lab_f32_blocks, with gradient and weight masks that follow the training, fp32.
 *
 * gradient [batch][rows] of the layer's output, input [batch][4 * inputs]; weights, blocks as in lab_f32_blocks, both
 * changed.
 *
 * Gradient mask: weights[row] -= rate_scale * learning_rate * gradient[row] * input, for each sample, in the rows whose
 * sum of |gradient[row]| over the samples is above *threshold alone. The threshold then grows or shrinks by a tenth, so
 * that about `changed` rows are above it; where `changed` is `rows` it stays as it is.
 *
 * Weight mask: in every step whose number `renewal.steps` divides, `renewal.rows` rows, the next in turn, give up the
 * block whose weights are the smallest, by the sum of magnitudes, for one at random that they have not, which begins at
 * zero. Where tasks are told apart (`renewal.task`) the last block of a row is a spare one: of random number, and zero,
 * when a task begins, it learns with the others for `expanded` steps, then the row gives up its weakest, and the
 * spare is zero until the next task; renewals lie between `expanded` and `settled`. A row keeps fewer blocks than there
 * are (`inputs`) where anything is renewed.
 *
 * Takes one step of state->random per renewal and per task. No scratch; nothing may overlap. */
#ifndef LAB_F32_BLOCKS_SGD_H
#define LAB_F32_BLOCKS_SGD_H

#include "lab_f32_blocks_masks.h"

typedef struct {
    int32_t batch, rows, kept, inputs; /* inputs: blocks of the input */
    int32_t changed;
    lab_f32_blocks_renewal_t renewal;
    float rate_scale;
} lab_f32_blocks_sgd_t;

void lab_f32_blocks_sgd(const lab_f32_blocks_sgd_t *layer, const float *gradient, const float *input, float *weights,
                        uint8_t *blocks, float *threshold, lab_training_state_t *state);

#endif
