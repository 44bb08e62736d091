#include "lab_f32_fisher.h"

#include "lab_f32_arithmetic.h"

void lab_f32_fisher(const lab_f32_fisher_t *layer, float *potential, const float *gradient, const float *activation,
                    const lab_training_state_t *state)
{
    const int32_t channels = layer->channels;
    const float half = 0.5f * state->learning_rate;
    for (int32_t b = 0; b < layer->batch; b++) {
        const int32_t start = b * layer->positions * channels;
        for (int32_t channel = 0; channel < channels; channel++) {
            float sum = 0.0f;
            for (int32_t p = 0; p < layer->positions; p++) {
                const int32_t at = start + p * channels + channel;
                sum = LAB_MULTIPLY_ADD(activation[at], gradient[at], sum);
            }
            potential[channel] = LAB_MULTIPLY_ADD(half * sum, sum, potential[channel]);
        }
    }
}
