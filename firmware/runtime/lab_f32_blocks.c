#include "lab_f32_blocks.h"

#include "lab_f32_arithmetic.h"

#if LAB_F32_THUMB_FPU

#include "arm/lab_f32_blocks_arm.h"

#else

static inline float block_dot(const float *input, const float *weights, const uint8_t *blocks, int32_t kept)
{
    float sum = 0.0f;
    for (int32_t k = 0; k < kept; k++) {
        const float *const x = input + LAB_F32_BLOCK * (int32_t)blocks[k];
        sum = LAB_MULTIPLY_ADD(weights[0], x[0], sum);
        sum = LAB_MULTIPLY_ADD(weights[1], x[1], sum);
        sum = LAB_MULTIPLY_ADD(weights[2], x[2], sum);
        sum = LAB_MULTIPLY_ADD(weights[3], x[3], sum);
        weights += LAB_F32_BLOCK;
    }
    return sum;
}

#endif

void lab_f32_blocks(const lab_f32_blocks_t *layer, const float *input, const float *weights, const uint8_t *blocks,
                    const float *bias, float *output)
{
    for (int32_t sample = 0; sample < layer->batch; sample++) {
        const float *w = weights;
        const uint8_t *kept = blocks;
        for (int32_t row = 0; row < layer->rows; row++) {
            const float sum = block_dot(input, w, kept, layer->kept);
            kept += layer->kept;
            w += LAB_F32_BLOCK * layer->kept;
            output[row] = lab_f32_clamp(sum + (bias != 0 ? bias[row] : 0.0f), layer->minimum, layer->maximum);
        }
        input += layer->columns;
        output += layer->rows;
    }
}
