#include "lab_q_bias_sgd.h"

static int32_t rounded(float step)
{
    step += step < 0.0f ? -0.5f : 0.5f;
    /* Written so that a NaN ends at a limit: converting it to an integer would be undefined. */
    if (!(step < 1073741824.0f)) {
        step = 1073741824.0f;
    }
    if (!(step > -1073741824.0f)) {
        step = -1073741824.0f;
    }
    return (int32_t)step;
}

void lab_q_bias_sgd(const lab_q_bias_sgd_t *sgd, const float *gradient, int32_t *bias, lab_training_state_t *state)
{
    const float rate = state->learning_rate * sgd->rate_scale;
    for (int32_t channel = 0; channel < sgd->channels; channel++) {
        float sum = 0.0f;
        for (int32_t row = 0; row < sgd->rows; row++) {
            sum += gradient[row * sgd->channels + channel];
        }
        int32_t updated = bias[channel] - rounded(sum * (rate / sgd->bias_scale[channel]));
        if (updated > sgd->limit) {
            updated = sgd->limit;
        }
        bias[channel] = updated < -sgd->limit ? -sgd->limit : updated;
    }
}
