#include "lab_f32_stein_update.h"

/* Adds up what the passes say of the elements of one word. */
static void descend(const lab_perturbation_t *perturbation, const float *losses, float loss, float factor, uint32_t key,
                    uint32_t word, float *steps, uint32_t span)
{
    for (uint32_t i = 0; i < span; i++)
        steps[i] = 0.0f;
    for (uint32_t pass = 0; pass < perturbation->passes; pass++) {
        const float step = (losses[pass] - loss) * factor;
        uint32_t signs = lab_perturbation_signs(perturbation, key, pass, word);
        for (uint32_t i = 0; i < span; i++, signs >>= 1)
            steps[i] += signs & 1u ? step : -step;
    }
}

void lab_f32_stein_update(const lab_f32_stein_update_t *layer, const float *losses, const float *loss,
                          const lab_training_state_t *state)
{
    const lab_perturbation_t *perturbation = &layer->perturbation;
    const float factor = state->learning_rate / ((float)perturbation->passes * perturbation->sigma);
    uint32_t word = 0;
    for (uint32_t n = 0; n < perturbation->part_count; n++) {
        const lab_part_t *part = &perturbation->parts[n];
        for (uint32_t first = 0; first < part->count; first += LAB_PERTURBATION_WORD, word++) {
            float steps[LAB_PERTURBATION_WORD];
            const uint32_t span = lab_perturbation_span(part, first);
            descend(perturbation, losses, loss[0], factor, state->random, word, steps, span);
            for (uint32_t i = 0; i < span; i++)
                part->values[first + i] -= steps[i];
        }
    }
}
