#include "lab_f32_sgd_momentum.h"

void lab_f32_sgd_momentum(const lab_f32_sgd_momentum_t *layer, float *parameter, const float *gradient, float *velocity,
                          lab_training_state_t *state)
{
    const float rate = layer->rate_scale * state->learning_rate, decay = layer->weight_decay;
    const float momentum = layer->momentum;
    /* PyTorch takes the first gradient whole, without dampening. */
    const float kept = state->step == 1u ? 0.0f : momentum, gain = state->step == 1u ? 1.0f : layer->gain;
    parameter += layer->first;
    for (int32_t row = 0; row < layer->rows; row++) {
        for (int32_t i = 0; i < layer->columns; i++) {
            const float g = gradient[i] + decay * parameter[i];
            const float v = kept * velocity[i] + gain * g;
            velocity[i] = v;
            parameter[i] -= rate * (layer->nesterov ? g + momentum * v : v);
        }
        parameter += layer->stride;
        gradient += layer->columns;
        velocity += layer->columns;
    }
}
