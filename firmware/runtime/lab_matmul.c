#include "lab_matmul.h"

#include "lab_rescale.h"

#define COLUMNS 4 /* at once */

/* How a matrix is walked: from row or column to the next one, and along the depth. */
typedef struct {
    int32_t next, along;
} walk_t;

static walk_t walk_of(int32_t lines, int32_t depth, int32_t depth_is_last)
{
    const walk_t walk = {depth_is_last ? depth : 1, depth_is_last ? 1 : lines};
    return walk;
}

static int32_t sum_of_row(const lab_matmul_t *layer, const int8_t *row, int32_t along)
{
    int32_t sum = 0;
    for (int32_t k = layer->depth; k > 0; k--) {
        sum += *row - layer->first_zero_point;
        row += along;
    }
    return sum;
}

/* The row, centred, times COLUMNS columns as they are; with `next` 0 all of them are the first. */
static void dot(const lab_matmul_t *layer, const int8_t *row, int32_t along, const int8_t *column, walk_t columns,
                int32_t sums[COLUMNS])
{
    const int32_t zero = layer->first_zero_point, next = columns.next;
    int32_t first = 0, second = 0, third = 0, fourth = 0;
    for (int32_t k = layer->depth; k > 0; k--) {
        const int32_t value = *row - zero;
        first += value * column[0];
        second += value * column[next];
        third += value * column[2 * next];
        fourth += value * column[3 * next];
        row += along;
        column += columns.along;
    }
    sums[0] = first;
    sums[1] = second;
    sums[2] = third;
    sums[3] = fourth;
}

static void multiply_row(const lab_matmul_t *layer, const int8_t *row, int32_t along, const int8_t *second,
                         int8_t *output)
{
    const walk_t columns = walk_of(layer->columns, layer->depth, layer->transpose_second);
    const walk_t alone = {0, columns.along};
    const int32_t centre = layer->second_zero_point * sum_of_row(layer, row, along);
    int32_t sums[COLUMNS];
    for (int32_t c = 0; c < layer->columns;) {
        const int32_t count = c + COLUMNS <= layer->columns ? COLUMNS : 1;
        dot(layer, row, along, second + c * columns.next, count == 1 ? alone : columns, sums);
        for (int32_t i = 0; i < count; i++) {
            const int32_t scaled = lab_rescale_value(sums[i] - centre, layer->multiplier, layer->shift);
            output[c++] = lab_rescale_int8(scaled, layer->output_zero_point, INT8_MIN, INT8_MAX);
        }
    }
}

void lab_matmul(const lab_matmul_t *layer, const int8_t *first, const int8_t *second, int8_t *output)
{
    const walk_t rows = walk_of(layer->rows, layer->depth, !layer->transpose_first);
    for (int32_t n = 0; n < layer->batch; n++) {
        for (int32_t r = 0; r < layer->rows; r++) {
            multiply_row(layer, first + r * rows.next, rows.along, second, output);
            output += layer->columns;
        }
        first += layer->rows * layer->depth;
        second += layer->columns * layer->depth;
    }
}
