#include "lab_q_bias_sgd.h"

#include "lab_random.h"

static int32_t rounded_down(float step)
{
    /* Written so that a NaN ends at a limit: converting it to an integer would be undefined. */
    if (!(step < 1073741824.0f)) {
        step = 1073741824.0f;
    }
    if (!(step > -1073741824.0f)) {
        step = -1073741824.0f;
    }
    const int32_t whole = (int32_t)step;
    return whole - (step < (float)whole);
}

void lab_q_bias_sgd(const lab_q_bias_sgd_t *sgd, const float *gradient, int32_t *bias, lab_training_state_t *state)
{
    const float rate = state->learning_rate * sgd->rate_scale;
    const uint32_t key = lab_random_step(&state->random);
    for (int32_t channel = 0; channel < sgd->channels; channel++) {
        float sum = 0.0f;
        for (int32_t row = 0; row < sgd->rows; row++) {
            sum += gradient[row * sgd->channels + channel];
        }
        const float step = sum * (rate / sgd->bias_scale[channel]);
        const float random = (float)lab_random_at(key, (uint32_t)channel) * (1.0f / (float)(1 << LAB_RANDOM_BITS));
        int32_t updated = bias[channel] - rounded_down(step + random);
        if (updated > sgd->limit) {
            updated = sgd->limit;
        }
        bias[channel] = updated < -sgd->limit ? -sgd->limit : updated;
    }
}
