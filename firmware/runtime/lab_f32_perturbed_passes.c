#include "lab_f32_perturbed_passes.h"

static void move(const lab_perturbation_t *perturbation, uint32_t key, uint32_t pass, float distance)
{
    uint32_t word = 0;
    for (uint32_t n = 0; n < perturbation->part_count; n++) {
        const lab_part_t *part = &perturbation->parts[n];
        for (uint32_t first = 0; first < part->count; first += LAB_PERTURBATION_WORD, word++) {
            uint32_t signs = lab_perturbation_signs(perturbation, key, pass, word);
            const uint32_t span = lab_perturbation_span(part, first);
            for (uint32_t i = 0; i < span; i++, signs >>= 1)
                part->values[first + i] += signs & 1u ? distance : -distance;
        }
    }
}

void lab_f32_perturbed_passes(const lab_f32_perturbed_passes_t *layer, const void *sample, const void *target,
                              float *losses, void *output, uint8_t *arena, lab_training_state_t *state)
{
    const lab_perturbation_t *perturbation = &layer->perturbation;
    const uint32_t key = layer->holds_key != 0 ? state->random : lab_random_step(&state->random);
    for (uint32_t pass = 0; pass < perturbation->passes; pass++) {
        move(perturbation, key, pass, perturbation->sigma);
        losses[pass] = layer->forward(sample, target, output, arena);
        move(perturbation, key, pass, -perturbation->sigma);
    }
}
