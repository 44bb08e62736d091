#include "lab_f32_adam.h"

#include <math.h>

void lab_f32_adam(const lab_f32_adam_t *layer, float *parameter, const float *gradient, float *mean, float *square,
                  lab_training_state_t *state)
{
    const float step = (float)state->step;
    const float rate = layer->rate_scale * state->learning_rate;
    const float step_size = rate / -expm1f(step * layer->mean_log);
    const float square_root = sqrtf(-expm1f(step * layer->square_log));
    const float added = layer->decoupled ? 0.0f : layer->weight_decay;
    const float kept = layer->decoupled ? 1.0f - rate * layer->weight_decay : 1.0f;
    parameter += layer->first;
    for (int32_t row = 0; row < layer->rows; row++) {
        for (int32_t i = 0; i < layer->columns; i++) {
            const float p = kept * parameter[i];
            const float g = gradient[i] + added * p;
            const float m = mean[i] + layer->mean_gain * (g - mean[i]);
            const float s = layer->square_keep * square[i] + layer->square_gain * g * g;
            mean[i] = m;
            square[i] = s;
            parameter[i] = p - step_size * m / (sqrtf(s) / square_root + layer->epsilon);
        }
        parameter += layer->stride;
        gradient += layer->columns;
        mean += layer->columns;
        square += layer->columns;
    }
}
