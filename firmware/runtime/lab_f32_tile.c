#include "lab_f32_tile.h"

#include "lab_f32_arithmetic.h"

static float dot(const lab_f32_tile_t *tile, int32_t row, int32_t column, float sum)
{
    for (int32_t outer = 0; outer < tile->outer; outer++) {
        const float *a = tile->a[row] + outer * tile->a_outer;
        const float *b = tile->b[column] + outer * tile->b_outer;
        for (int32_t i = 0; i < tile->inner; i++) {
            sum = LAB_MULTIPLY_ADD(*a, *b, sum);
            a += tile->a_inner;
            b += tile->b_inner;
        }
    }
    return sum;
}

static void dots(const lab_f32_tile_t *tile, int32_t rows, int32_t columns, const float *start, float *sums)
{
    for (int32_t row = 0; row < rows; row++) {
        for (int32_t column = 0; column < columns; column++) {
            sums[4 * row + column] = dot(tile, row, column, start[4 * row + column]);
        }
    }
}

#if LAB_F32_THUMB_FPU

#include "arm/lab_f32_tile_arm.h"

static lab_f32_tile_t turned(const lab_f32_tile_t *tile)
{
    lab_f32_tile_t result = {
        .outer = tile->outer,
        .inner = tile->inner,
        .a_outer = tile->b_outer,
        .a_inner = tile->b_inner,
        .b_outer = tile->a_outer,
        .b_inner = tile->a_inner,
    };
    for (int32_t i = 0; i < 4; i++) {
        result.a[i] = tile->b[i];
        result.b[i] = tile->a[i];
    }
    return result;
}

/* One row by up to four columns; 0 if there is no assembly for it. */
static int strip(const lab_f32_tile_t *tile, int32_t columns, const float *start, float *sums)
{
    if (tile->a_inner == 1 && tile->b_inner == 1) {
        strip_depth(tile, sums, start);
    } else if (columns == 4 && tile->b_inner != 1) {
        strip_lines(tile, sums, start);
    } else {
        return 0;
    }
    return 1;
}

/* One column by up to four rows: the strip of the tile turned round. */
static int standing_strip(const lab_f32_tile_t *tile, int32_t rows, const float *start, float *sums)
{
    const lab_f32_tile_t across = turned(tile);
    float row[4] = {start[0], start[4], start[8], start[12]};
    const int done = strip(&across, rows, row, row);
    for (int32_t i = 0; i < rows; i++) {
        sums[4 * i] = row[i];
    }
    return done;
}

static void whole_tile(const lab_f32_tile_t *tile, const float *start, float *sums)
{
    if (tile->a_inner == 1 && tile->b_inner == 1) {
        tile_depth_depth(tile, sums, start);
    } else if (tile->a_inner == 1) {
        tile_depth_lines(tile, sums, start);
    } else if (tile->b_inner != 1) {
        tile_lines_lines(tile, sums, start);
    } else {
        const lab_f32_tile_t across = turned(tile);
        float standing[16];
        for (int32_t i = 0; i < 16; i++) {
            standing[i] = start[4 * (i % 4) + i / 4];
        }
        tile_depth_lines(&across, standing, standing);
        for (int32_t i = 0; i < 16; i++) {
            sums[i] = standing[4 * (i % 4) + i / 4];
        }
    }
}

void lab_f32_tile(const lab_f32_tile_t *tile, int32_t rows, int32_t columns, const float *start, float *sums)
{
    /* A side with an inner stride of 1 has four pointers; one without must have four lines. */
    if (rows > 1 && columns > 1 && (rows == 4 || tile->a_inner == 1) && (columns == 4 || tile->b_inner == 1)) {
        whole_tile(tile, start, sums);
    } else if (!(rows == 1 && strip(tile, columns, start, sums)) && !(columns == 1 && standing_strip(tile, rows, start, sums))) {
        dots(tile, rows, columns, start, sums);
    }
}

void lab_f32_wide_tile(const lab_f32_tile_t *tile, const float *start, float *sums)
{
    wide_strip_lines(tile, sums, start);
}

#else

#define ROW(row)                                                            \
    do {                                                                    \
        const float value = a##row[i * tile->a_inner];                      \
        s##row##0 = LAB_MULTIPLY_ADD(value, w0, s##row##0);                 \
        s##row##1 = LAB_MULTIPLY_ADD(value, w1, s##row##1);                 \
        s##row##2 = LAB_MULTIPLY_ADD(value, w2, s##row##2);                 \
        s##row##3 = LAB_MULTIPLY_ADD(value, w3, s##row##3);                 \
    } while (0)
#define LOAD(row) \
    float s##row##0 = start[4 * row], s##row##1 = start[4 * row + 1], s##row##2 = start[4 * row + 2], \
          s##row##3 = start[4 * row + 3]
#define STORE(row)                     \
    do {                               \
        sums[4 * row] = s##row##0;     \
        sums[4 * row + 1] = s##row##1; \
        sums[4 * row + 2] = s##row##2; \
        sums[4 * row + 3] = s##row##3; \
    } while (0)

static void whole_tile(const lab_f32_tile_t *tile, const float *start, float *sums)
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

void lab_f32_tile(const lab_f32_tile_t *tile, int32_t rows, int32_t columns, const float *start, float *sums)
{
    if (rows == 4 && columns == 4) {
        whole_tile(tile, start, sums);
    } else {
        dots(tile, rows, columns, start, sums);
    }
}

void lab_f32_wide_tile(const lab_f32_tile_t *tile, const float *start, float *sums)
{
    for (int32_t column = 0; column < LAB_F32_WIDE; column++) {
        sums[column] = start[column];
    }
    for (int32_t outer = 0; outer < tile->outer; outer++) {
        const float *a = tile->a[0] + outer * tile->a_outer;
        const float *b = tile->b[0] + outer * tile->b_outer;
        for (int32_t i = 0; i < tile->inner; i++) {
            for (int32_t column = 0; column < LAB_F32_WIDE; column++) {
                sums[column] = LAB_MULTIPLY_ADD(*a, b[column], sums[column]);
            }
            a += tile->a_inner;
            b += tile->b_inner;
        }
    }
}

#endif
