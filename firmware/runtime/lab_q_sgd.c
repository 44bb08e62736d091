#include "lab_q_sgd.h"

#include "lab_q_update.h"

void lab_q_sgd(const lab_q_sgd_t *sgd, const float *gradient, int8_t *weights, lab_training_state_t *state)
{
    const uint32_t key = lab_random_step(&state->random);
    const float rate = state->learning_rate * sgd->rate_scale;
    uint32_t index = 0;
    for (int32_t outer = 0; outer < sgd->outer; outer++) {
        for (int32_t channel = 0; channel < sgd->channels; channel++) {
            const float factor = lab_q_factor(rate, sgd->weight_scale[channel]);
            for (int32_t i = 0; i < sgd->inner; i++) {
                weights[index] = lab_q_updated(weights[index], gradient[index], factor, lab_random_at(key, index));
                index++;
            }
        }
    }
}
