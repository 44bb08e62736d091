/* Four rows of inputs, expanded once and multiplied with all outputs: where the time of convolutions goes. */
#ifndef LAB_ARM_BLOCK_H
#define LAB_ARM_BLOCK_H

#include <stdint.h>

#include "../lab_dense.h"

typedef struct {
    uint32_t *next;    /* where the next inputs go; starts at the scratch of 8 * padded inputs bytes */
    int32_t inputs;    /* padded */
    uint32_t total[4]; /* per row, of all its values; starts at 0 */
} lab_block_t;

/* Append `count` inputs of every row; all but the last call with a multiple of four. */
void lab_block_append(lab_block_t *block, const int8_t *const rows[4], int32_t count);

/* The four rows of outputs; `values` is where the block started. Only where lab_dense_fast(dense) is set. */
void lab_block_multiply(const lab_dense_t *dense, const lab_block_t *block, const uint32_t *values, int8_t *output);

#endif
