/* Where the sums of a product go: stored, or used at once to update weights. */
#ifndef LAB_F32_SINK_H
#define LAB_F32_SINK_H

#include <stdint.h>

#include "lab_training.h"

/* A block of sums and its place. sums[4 * row + column] belongs to target[row_index[row] + column]; a block with more
 * than four columns has one row. Only rows and columns from begin to end count. */
typedef struct {
    int32_t row_index[4];
    int32_t row, column; /* of the first sum, in its matrix */
    int32_t row_begin, row_end;
    int32_t column_begin, column_end;
} lab_f32_place_t;

typedef void (*lab_f32_sink_t)(const void *context, const float *sums, const lab_f32_place_t *place);

/* target = clamp(sum + bias[column]) */
typedef struct {
    float *target;
    const float *bias; /* or a null pointer */
    float minimum, maximum;
} lab_f32_store_t;

/* target -= rate * (sum + weight_decay * target) */
typedef struct {
    float *target;
    float rate, weight_decay;
} lab_f32_update_t;

void lab_f32_store(const void *context, const float *sums, const lab_f32_place_t *place);
void lab_f32_update(const void *context, const float *sums, const lab_f32_place_t *place);

#endif
