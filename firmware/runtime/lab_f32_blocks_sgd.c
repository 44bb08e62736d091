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

/* How many rows change. Inlined, so that the loops over samples are gone where `batch` is 1. */
static inline __attribute__((always_inline)) int32_t update_rows(const lab_f32_blocks_sgd_t *layer, int32_t batch,
                                                                 int32_t awake, const float *gradient,
                                                                 const float *input, float *weights,
                                                                 const uint8_t *blocks, float least, float rate)
{
    int32_t changed = 0;
    for (int32_t row = 0; row < layer->rows; row++) {
        const int32_t first = row * layer->kept;
        float size = fabsf(gradient[row]);
        for (int32_t sample = 1; sample < batch; sample++)
            size += fabsf(gradient[sample * layer->rows + row]);
        /* Also true for what is not a number, which the next forward has to show. */
        if (!(size <= least)) {
            for (int32_t sample = 0; sample < batch; sample++)
                block_axpy(input + sample * LAB_F32_BLOCK * layer->inputs, weights + LAB_F32_BLOCK * first,
                           blocks + first, awake, -rate * gradient[sample * layer->rows + row]);
            changed++;
        }
    }
    return changed;
}

void lab_f32_blocks_sgd(const lab_f32_blocks_sgd_t *layer, const float *gradient, const float *input, float *weights,
                        uint8_t *blocks, float *threshold, lab_training_state_t *state)
{
    const float rate = state->learning_rate * layer->rate_scale;
    const int32_t awake = lab_f32_blocks_awake(&layer->renewal, layer->kept, state);
    const int32_t changed =
        layer->batch == 1
            ? update_rows(layer, 1, awake, gradient, input, weights, blocks, *threshold, rate)
            : update_rows(layer, layer->batch, awake, gradient, input, weights, blocks, *threshold, rate);
    if (layer->changed < layer->rows)
        lab_f32_blocks_follow(threshold, changed, layer->changed);
    lab_f32_blocks_renew(&layer->renewal, layer->rows, layer->kept, layer->inputs, weights, blocks, state);
}
