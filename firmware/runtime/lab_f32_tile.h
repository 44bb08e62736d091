/* The inner loop of fp32 matrix products: 4 x 4 sums over a depth that is walked in two levels.
 *
 * sums[4 * row + column] = start[4 * row + column] + sum over outer, inner of a[row][outer * a_outer + inner * a_inner] * b[column][outer *
 * b_outer + inner * b_inner], in that order. Where a_inner is not 1, the four pointers of `a` must follow each other
 * (a[i] == a[0] + i); the same for `b`. Arm cores with an FPU contract multiply and add into one rounding. */
#ifndef LAB_F32_TILE_H
#define LAB_F32_TILE_H

#include <stdint.h>

typedef struct {
    const float *a[4];
    const float *b[4];
    int32_t outer, inner; /* both at least 1 */
    int32_t a_outer, a_inner;
    int32_t b_outer, b_inner;
} lab_f32_tile_t;

/* rows and columns from 1 to 4; what happens to the other sums is undefined. Where the inner stride is 1, the pointers from
 * `rows` and `columns` on must be valid (repeat one). */
void lab_f32_tile(const lab_f32_tile_t *tile, int32_t rows, int32_t columns, const float *start, float *sums);

/* One row and LAB_F32_WIDE columns, which follow each other from b[0] on whatever b_inner is: sums[column]. */
#define LAB_F32_WIDE 16
void lab_f32_wide_tile(const lab_f32_tile_t *tile, const float *start, float *sums);

#endif
