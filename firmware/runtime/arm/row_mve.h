/* lab_dot.h with Helium: eight inputs of both outputs of a pair in seven instructions. */
#ifndef LAB_ARM_ROW_MVE_H
#define LAB_ARM_ROW_MVE_H

#include <stdint.h>

#include <arm_mve.h>

#include "../lab_dense.h"

typedef struct {
    const int16_t *values; /* input + 128: k, k+2, k+1, k+3, … */
    int32_t padded;
    int32_t total; /* of all values */
} lab_row_t;

/* Expand `count` inputs to padded as many values at `to`; returns their total. */
static inline int32_t lab_mve_expand(const int8_t *from, int32_t count, int16_t *to)
{
    static const uint16_t places[8] = {0, 2, 1, 3, 4, 6, 5, 7};
    const uint16x8_t order = vldrhq_u16(places);
    int32_t total = 0;
    for (; count > 0; count -= 8) {
        const mve_pred16_t there = vcmpltq_n_s16((int16x8_t)order, (int16_t)(count < 8 ? count : 8));
        const int16x8_t bytes = vldrbq_gather_offset_z_s16(from, order, there);
        const int16x8_t values = vaddq_m_n_s16(bytes, bytes, 128, there);
        total = vaddvaq_s16(total, values);
        vstrhq_p_s16(to, values, vctp16q((uint32_t)lab_dense_padded(count)));
        from += 8;
        to += 8;
    }
    return total;
}

static inline lab_row_t lab_row(const int8_t *values, int32_t inputs, int8_t *scratch)
{
    int16_t *const to = (int16_t *)(void *)scratch;
    const lab_row_t row = {to, lab_dense_padded(inputs), lab_mve_expand(values, inputs, to)};
    return row;
}

static inline void lab_row_dot(const lab_row_t *row, const int32_t *weights, int32_t sums[2])
{
    const int16_t *x = row->values;
    const int16_t *w = (const int16_t *)(const void *)weights;
    int32_t both = 0; /* 256 * second + first + 128 * total */
    int32_t second = 0;
    for (int32_t left = row->padded >> 3; left != 0; left--) {
        const int16x8_t pair = vldrhq_s16(w);
        const int16x8_t values = vldrhq_s16(x);
        both = vmladavaq_s16(both, pair, values);
        second = vmladavaq_s16(second, vshrq_n_s16(pair, 8), values);
        w += 8;
        x += 8;
    }
    if (row->padded & 4) {
        const mve_pred16_t there = vctp16q(4);
        const int16x8_t pair = vldrhq_z_s16(w, there);
        const int16x8_t values = vldrhq_z_s16(x, there);
        both = vmladavaq_s16(both, pair, values);
        second = vmladavaq_s16(second, vshrq_n_s16(pair, 8), values);
    }
    /* Unsigned: sums near the end of int32 may pass it on their way. */
    sums[0] = (int32_t)((uint32_t)sums[0] + (uint32_t)both - ((uint32_t)second << 8) - 128u * (uint32_t)row->total);
    sums[1] = (int32_t)((uint32_t)sums[1] + (uint32_t)second);
}

#endif
