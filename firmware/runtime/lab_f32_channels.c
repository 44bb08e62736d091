#include "lab_f32_channels.h"

#include "lab_f32_arithmetic.h"

void lab_f32_channels(const lab_f32_channels_t *walk, const float *a, const float *b, int32_t channels, float *sums)
{
    for (int32_t outer = 0; outer < walk->outer; outer++) {
        for (int32_t inner = 0; inner < walk->inner; inner++) {
            const float *const left = a + outer * walk->a_outer + inner * walk->a_inner;
            const float *const right = b + outer * walk->b_outer + inner * walk->b_inner;
            for (int32_t c = 0; c < channels; c++) {
                sums[c] = LAB_MULTIPLY_ADD(left[c], right[c], sums[c]);
            }
        }
    }
}
