#include "lab_f32_class_mean.h"

#include "lab_f32_arithmetic.h"

void lab_f32_class_mean(const lab_f32_class_mean_t *layer, float *means, const float *features, const int32_t *labels,
                        const lab_training_state_t *state)
{
    const int32_t depth = layer->depth;
    for (int32_t row = 0; row < layer->rows; row++) {
        if (labels[row] < 0 || labels[row] >= layer->classes)
            continue;
        float *mean = means + labels[row] * depth;
        const float *feature = features + row * depth;
        const uint32_t seen = (state->step - 1u) * (uint32_t)layer->rows + (uint32_t)row;
        const uint32_t turn = seen / (uint32_t)layer->round + 1u;
        const float gain = turn <= (uint32_t)layer->rounds ? 1.0f / (float)turn : layer->gain;
        for (int32_t i = 0; i < depth; i++)
            mean[i] = LAB_MULTIPLY_ADD(gain, feature[i] - mean[i], mean[i]);
    }
}
