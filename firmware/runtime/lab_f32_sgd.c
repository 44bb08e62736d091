#include "lab_f32_sgd.h"

void lab_f32_sgd(const lab_f32_sgd_t *layer, float *parameter, const float *gradient, lab_training_state_t *state)
{
    const float rate = layer->rate_scale * state->learning_rate, decay = layer->weight_decay;
    parameter += layer->first;
    for (int32_t row = 0; row < layer->rows; row++) {
        for (int32_t i = 0; i < layer->columns; i++)
            parameter[i] -= rate * (gradient[i] + decay * parameter[i]);
        parameter += layer->stride;
        gradient += layer->columns;
    }
}
