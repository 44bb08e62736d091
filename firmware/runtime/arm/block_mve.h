/* arm/block.h with Helium. Included by lab_dense.c alone.
 *
 * A block lies in scratch as four rows of int16, input + 128 in the order of the packed weights: 14 instructions for 64
 * multiply-accumulates. */
#include "block.h"
#include "requantize_mve.h"
#include "row_mve.h"

int32_t lab_dense_fast(const lab_dense_t *dense)
{
    (void)dense;
    return 1;
}

void lab_block_append(lab_block_t *block, const int8_t *const rows[4], int32_t count)
{
    int16_t *to = (int16_t *)(void *)block->next;
    for (int32_t row = 0; row < 4; row++) {
        block->total[row] += (uint32_t)lab_mve_expand(rows[row], count, to);
        to += block->inputs;
    }
    block->next += lab_dense_padded(count) / 2;
}

/* Four rows of outputs for one output each. */
static void finish(const lab_dense_t *dense, int32_t output, int32x4_t sums, int8_t *to)
{
    const int32x4_t scaled =
        lab_mve_requantize(vaddq_n_s32(sums, dense->bias[output]), vdupq_n_s32(dense->multiplier[output]),
                           vdupq_n_s32(dense->shift[output]), dense->output_zero_point, dense->output_minimum,
                           dense->output_maximum);
    const uint32x4_t rows = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)dense->outputs);
    vstrbq_scatter_offset_s32(to + output, rows, scaled);
}

void lab_block_multiply(const lab_dense_t *dense, const lab_block_t *block, const uint32_t *values, int8_t *output)
{
    const int32_t inputs = block->inputs;
    const int16_t *w = (const int16_t *)(const void *)dense->weights;
    const uint32x4_t offset = vmulq_n_u32(vldrwq_u32(block->total), 128);
    for (int32_t o = 0; o < dense->outputs; o += 2) {
        const int16_t *x = (const int16_t *)(const void *)values;
        int32_t both0 = 0, both1 = 0, both2 = 0, both3 = 0;
        int32_t second0 = 0, second1 = 0, second2 = 0, second3 = 0;
        for (int32_t left = inputs; left > 0; left -= 8) {
            const mve_pred16_t there = vctp16q((uint32_t)left);
            const int16x8_t pair = vldrhq_z_s16(w, there);
            const int16x8_t high = vshrq_n_s16(pair, 8);
            /* Behind a row lies the next one, or other scratch: without weights it counts nothing. The last is read no
             * further than it reaches. */
            const int16x8_t row0 = vldrhq_s16(x);
            const int16x8_t row1 = vldrhq_s16(x + inputs);
            const int16x8_t row2 = vldrhq_s16(x + 2 * inputs);
            const int16x8_t row3 = vldrhq_z_s16(x + 3 * inputs, there);
            both0 = vmladavaq_s16(both0, pair, row0);
            second0 = vmladavaq_s16(second0, high, row0);
            both1 = vmladavaq_s16(both1, pair, row1);
            second1 = vmladavaq_s16(second1, high, row1);
            both2 = vmladavaq_s16(both2, pair, row2);
            second2 = vmladavaq_s16(second2, high, row2);
            both3 = vmladavaq_s16(both3, pair, row3);
            second3 = vmladavaq_s16(second3, high, row3);
            w += left < 8 ? left : 8;
            x += 8;
        }
        const int32x4_t both = {both0, both1, both2, both3};
        const int32x4_t second = {second0, second1, second2, second3};
        finish(dense, o, vsubq_s32(vsubq_s32(both, vshlq_n_s32(second, 8)), (int32x4_t)offset), output);
        if (o + 1 < dense->outputs) {
            finish(dense, o + 1, second, output);
        }
    }
}
