#include "lab_f32_commit.h"

#include <string.h>

void lab_f32_commit(const lab_f32_commit_t *layer, const float *next, float *parameter,
                    const lab_training_state_t *state)
{
    if (state->step % (uint32_t)layer->steps == 0u)
        memcpy(parameter, next, (size_t)layer->count * sizeof *parameter);
}
