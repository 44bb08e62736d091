#include "lab_f32_blocks_sgd.h"

#include "lab_f32_arithmetic.h"

#if LAB_F32_THUMB_FPU

#include "arm/lab_f32_blocks_arm.h"

#else

static inline void block_axpy(const float *input, float *weights, const uint8_t *blocks, int32_t kept, float scale)
{
    for (int32_t k = 0; k < kept; k++) {
        const float *const x = input + LAB_F32_BLOCK * (int32_t)blocks[k];
        weights[0] = LAB_MULTIPLY_ADD(scale, x[0], weights[0]);
        weights[1] = LAB_MULTIPLY_ADD(scale, x[1], weights[1]);
        weights[2] = LAB_MULTIPLY_ADD(scale, x[2], weights[2]);
        weights[3] = LAB_MULTIPLY_ADD(scale, x[3], weights[3]);
        weights += LAB_F32_BLOCK;
    }
}

#endif

void lab_f32_blocks_sgd(const lab_f32_blocks_sgd_t *layer, const float *gradient, const float *input, float *weights,
                        uint8_t *blocks, float *threshold, lab_training_state_t *state)
{
    const float rate = state->learning_rate * layer->rate_scale;
    const float least = *threshold;
    const int32_t awake = lab_f32_blocks_awake(&layer->renewal, layer->kept, state);
    int32_t changed = 0;
    for (int32_t row = 0; row < layer->rows; row++) {
        const int32_t first = row * layer->kept;
        /* Also true for what is not a number, which the next forward has to show. */
        if (!(fabsf(gradient[row]) <= least)) {
            block_axpy(input, weights + LAB_F32_BLOCK * first, blocks + first, awake, -rate * gradient[row]);
            changed++;
        }
    }
    if (layer->changed < layer->rows)
        lab_f32_blocks_follow(threshold, changed, layer->changed);
    lab_f32_blocks_renew(&layer->renewal, layer->rows, layer->kept, layer->inputs, weights, blocks, state);
}
