/* One row times one pair of packed outputs (lab_dense.h). */
#ifndef LAB_DOT_H
#define LAB_DOT_H

#include <stdint.h>

#include "lab_dense.h"

#if defined(__ARM_FEATURE_MVE)
#include "arm/row_mve.h"
#elif defined(__ARM_FEATURE_DSP)
#include "arm/row_dsp.h"
#else

/* A row as lab_row_dot reads it. */
typedef struct {
    const int8_t *values;
    int32_t inputs;
} lab_row_t;

/* Bring a row into the form the target multiplies in. Scratch: 2 * padded inputs bytes, 4-byte aligned. */
static inline lab_row_t lab_row(const int8_t *values, int32_t inputs, int8_t *scratch)
{
    const lab_row_t row = {values, inputs};
    (void)scratch;
    return row;
}

/* sums[0], sums[1] += the row times the two outputs of the pair at `weights`; in steps of four, whose last has no weights
 * for what lies beyond the row. */
static inline void lab_row_dot(const lab_row_t *row, const int32_t *weights, int32_t sums[2])
{
    const int32_t inputs = row->inputs;
    uint32_t first = (uint32_t)sums[0]; /* unsigned: sums near the end of int32 may pass it on their way */
    uint32_t second = (uint32_t)sums[1];
    for (int32_t k = 0; k < inputs; k++) {
        /* Four inputs take two words: the even ones the first, the odd ones the second. */
        const uint32_t word = (uint32_t)weights[(k >> 2) * 2 + (k & 1)] >> ((k & 2) * 8);
        const int32_t value = row->values[k] + 128;
        first += (uint32_t)(value * ((int32_t)(word & 0xFFu) - 128));
        second += (uint32_t)(value * (int8_t)(word >> 8));
    }
    sums[0] = (int32_t)first;
    sums[1] = (int32_t)second;
}

#endif

#endif
