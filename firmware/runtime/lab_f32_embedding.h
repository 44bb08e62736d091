/* Rows of a table: output[i] = table[indices[i]]. table [rows][columns], indices [count], output [count][columns]. An index
 * outside [0, rows) yields a row of NaN, so that the loss stops training. No scratch. */
#ifndef LAB_F32_EMBEDDING_H
#define LAB_F32_EMBEDDING_H

#include <stdint.h>

typedef struct {
    int32_t count, rows, columns;
} lab_f32_embedding_t;

void lab_f32_embedding(const lab_f32_embedding_t *layer, const float *table, const int32_t *indices, float *output);

#endif
