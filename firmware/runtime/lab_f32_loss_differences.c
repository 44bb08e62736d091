#include "lab_f32_loss_differences.h"

void lab_f32_loss_differences(const lab_f32_loss_differences_t *layer, const float *losses, const float *loss,
                              float *differences, const lab_training_state_t *state)
{
    for (uint32_t pass = 0; pass < layer->passes; pass++)
        differences[pass] += state->learning_rate * (losses[pass] - loss[0]);
}
