#include "lab_f32_replay.h"

#include <string.h>

#include "lab_random.h"

#define TURNS 3u

static void of_sample(const lab_f32_replay_t *layer, uint32_t number, const float *gradient, const float *logits,
                      float *kept, float *output)
{
    const uint32_t group = number / (TURNS * layer->batch), place = number % (TURNS * layer->batch);
    const uint32_t drawn = lab_random_at(layer->seed, number + 1u);
    const uint32_t seen = group * layer->batch + place;
    const size_t bytes = (size_t)layer->classes * sizeof *kept;
    if (place < layer->batch) {
        const uint32_t slot = seen < layer->slots ? seen : drawn % (seen + 1u);
        if (slot < layer->slots)
            memcpy(kept + (size_t)slot * (size_t)layer->classes, logits, bytes);
        memcpy(output, gradient, bytes);
    } else if (place < 2u * layer->batch) {
        const uint32_t came = (group + 1u) * layer->batch;
        const uint32_t slot = drawn % (came < layer->slots ? came : layer->slots);
        const float *const stored = kept + (size_t)slot * (size_t)layer->classes;
        for (int32_t i = 0; i < layer->classes; i++)
            output[i] = layer->distil * (logits[i] - stored[i]);
    } else {
        for (int32_t i = 0; i < layer->classes; i++)
            output[i] = layer->rehearse * gradient[i];
    }
}

void lab_f32_replay(const lab_f32_replay_t *layer, const float *gradient, const float *logits, float *kept,
                    float *output, const lab_training_state_t *state)
{
    for (uint32_t row = 0; row < layer->rows; row++) {
        const size_t first = (size_t)row * (size_t)layer->classes;
        const uint32_t number = (state->step - 1u) * layer->rows + row;
        of_sample(layer, number, gradient + first, logits + first, kept, output + first);
    }
}
