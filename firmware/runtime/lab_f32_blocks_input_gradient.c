#include "lab_f32_blocks_input_gradient.h"

#include <string.h>

#include "lab_f32_arithmetic.h"
#include "lab_f32_blocks.h"

static void of_sample(const lab_f32_blocks_input_gradient_t *layer, const float *gradient, const float *weights,
                      const uint8_t *blocks, float *output)
{
    memset(output, 0, (size_t)layer->columns * sizeof *output);
    for (int32_t row = 0; row < layer->rows; row++) {
        const float g = gradient[row];
        const float *w = weights + row * layer->kept * LAB_F32_BLOCK;
        const uint8_t *const kept = blocks + row * layer->kept;
        if (g == 0.0f)
            continue;
        for (int32_t k = 0; k < layer->kept; k++) {
            float *const y = output + LAB_F32_BLOCK * (int32_t)kept[k];
            y[0] = LAB_MULTIPLY_ADD(g, w[0], y[0]);
            y[1] = LAB_MULTIPLY_ADD(g, w[1], y[1]);
            y[2] = LAB_MULTIPLY_ADD(g, w[2], y[2]);
            y[3] = LAB_MULTIPLY_ADD(g, w[3], y[3]);
            w += LAB_F32_BLOCK;
        }
    }
}

void lab_f32_blocks_input_gradient(const lab_f32_blocks_input_gradient_t *layer, const float *gradient,
                                   const float *weights, const uint8_t *blocks, float *output)
{
    for (int32_t sample = 0; sample < layer->batch; sample++)
        of_sample(layer, gradient + sample * layer->rows, weights, blocks, output + sample * layer->columns);
}
