/* Rehearsal with stored logits (DER++: Buzzega et al. 2020), fp32: what a step makes of its sample.
 *
 * A step has `rows` samples, one or `batch`, which count one by one, in groups of 3 * batch. The first `batch` are new
 * samples: output = gradient, and logits [classes] are stored in a slot of kept [slots][classes], so that these are a
 * uniform sample of all that came (Vitter 1985, algorithm R). For each of the next `batch` a slot is drawn: output =
 * distil * (logits - kept[slot]). For the last output = rehearse * gradient. Every number that is drawn is
 * lab_random_at(seed, number of the sample), so that a host knows it.
 *
 * gradient, of the cross entropy, logits, output: [rows][classes]. No scratch; output must not overlap gradient or
 * logits. */
#ifndef LAB_F32_REPLAY_H
#define LAB_F32_REPLAY_H

#include "lab_training.h"

typedef struct {
    int32_t classes;
    uint32_t rows, slots, batch, seed; /* slots and batch are at least 1 */
    float distil, rehearse;
} lab_f32_replay_t;

void lab_f32_replay(const lab_f32_replay_t *layer, const float *gradient, const float *logits, float *kept,
                    float *output, const lab_training_state_t *state);

#endif
