/* A function of int8 values as a table, and its gradient: 256 entries, the first for the value -128.
 * No scratch. */
#ifndef LAB_TABLE_H
#define LAB_TABLE_H

#include <stdint.h>

typedef struct {
    const int8_t *table;
    int32_t size;
} lab_table_t;

/* output[i] = f(input[i]); input, output [size]; output may be input. */
void lab_table(const lab_table_t *layer, const int8_t *input, int8_t *output);

typedef struct {
    const float *slopes;
    int32_t size;
} lab_table_gradient_t;

/* output[i] = gradient[i] * f'(value[i]); gradient, value, output [size]; output may be gradient. */
void lab_table_gradient(const lab_table_gradient_t *layer, const float *gradient, const int8_t *value, float *output);

#endif
