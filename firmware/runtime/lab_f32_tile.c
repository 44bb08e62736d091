#include "lab_f32_tile.h"

#include "lab_f32_arithmetic.h"

#define ROW(row)                                                            \
    do {                                                                    \
        const float value = a##row[i * tile->a_inner];                      \
        s##row##0 = LAB_MULTIPLY_ADD(value, w0, s##row##0);                 \
        s##row##1 = LAB_MULTIPLY_ADD(value, w1, s##row##1);                 \
        s##row##2 = LAB_MULTIPLY_ADD(value, w2, s##row##2);                 \
        s##row##3 = LAB_MULTIPLY_ADD(value, w3, s##row##3);                 \
    } while (0)
#define LOAD(row) \
    float s##row##0 = sums[4 * row], s##row##1 = sums[4 * row + 1], s##row##2 = sums[4 * row + 2], \
          s##row##3 = sums[4 * row + 3]
#define STORE(row)                     \
    do {                               \
        sums[4 * row] = s##row##0;     \
        sums[4 * row + 1] = s##row##1; \
        sums[4 * row + 2] = s##row##2; \
        sums[4 * row + 3] = s##row##3; \
    } while (0)

void lab_f32_tile(const lab_f32_tile_t *tile, float *sums)
{
    LOAD(0);
    LOAD(1);
    LOAD(2);
    LOAD(3);
    for (int32_t outer = 0; outer < tile->outer; outer++) {
        const float *const a0 = tile->a[0] + outer * tile->a_outer;
        const float *const a1 = tile->a[1] + outer * tile->a_outer;
        const float *const a2 = tile->a[2] + outer * tile->a_outer;
        const float *const a3 = tile->a[3] + outer * tile->a_outer;
        const int32_t b_first = outer * tile->b_outer;
        for (int32_t i = 0; i < tile->inner; i++) {
            const int32_t at = b_first + i * tile->b_inner;
            const float w0 = tile->b[0][at];
            const float w1 = tile->b[1][at];
            const float w2 = tile->b[2][at];
            const float w3 = tile->b[3][at];
            ROW(0);
            ROW(1);
            ROW(2);
            ROW(3);
        }
    }
    STORE(0);
    STORE(1);
    STORE(2);
    STORE(3);
}

void lab_f32_tile_part(const lab_f32_tile_t *tile, int32_t rows, int32_t columns, float *sums)
{
    if (rows == 4 && columns == 4) {
        lab_f32_tile(tile, sums);
        return;
    }
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t column = 0; column < columns; column++) {
            float sum = sums[4 * row + column];
            for (int32_t outer = 0; outer < tile->outer; outer++) {
                const float *a = tile->a[row] + outer * tile->a_outer;
                const float *b = tile->b[column] + outer * tile->b_outer;
                for (int32_t i = 0; i < tile->inner; i++) {
                    sum = LAB_MULTIPLY_ADD(*a, *b, sum);
                    a += tile->a_inner;
                    b += tile->b_inner;
                }
            }
            sums[4 * row + column] = sum;
        }
    }
}
