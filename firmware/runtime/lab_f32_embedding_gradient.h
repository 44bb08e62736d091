/* Gradient of lab_f32_embedding with respect to the table: zeros, and gradient[i] added to row indices[i]; indices equal to
 * ignored or out of range are left out. gradient [count][columns], indices [count], output [rows][columns]. No scratch. */
#ifndef LAB_F32_EMBEDDING_GRADIENT_H
#define LAB_F32_EMBEDDING_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t count, rows, columns;
    int32_t ignored; /* -1: none */
} lab_f32_embedding_gradient_t;

void lab_f32_embedding_gradient(const lab_f32_embedding_gradient_t *layer, const float *gradient,
                                const int32_t *indices, float *output);

#endif
