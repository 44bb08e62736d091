#include "lab_f32_product.h"

#include "lab_f32_tile.h"
#include "lab_f32_zeros.h"

/* The last block of a side with at least a block's lines overlaps the one before; the sink skips what was done. */
static int32_t block_start(int32_t line, int32_t lines, int32_t block)
{
    return (lines >= block && line + block > lines) ? lines - block : line;
}

static void set_pointers(const float **pointers, const float *first, int32_t step, int32_t count)
{
    pointers[0] = first;
    first += count > 1 ? step : 0;
    pointers[1] = first;
    first += count > 2 ? step : 0;
    pointers[2] = first;
    first += count > 3 ? step : 0;
    pointers[3] = first;
}

/* The items of a batch after the first. */
static void add_items(const lab_f32_product_t *product, lab_f32_tile_t tile, int32_t rows, int32_t columns, float *sums)
{
    for (int32_t item = 1; item < product->items; item++) {
        for (int32_t i = 0; i < 4; i++) {
            tile.a[i] += product->a_item;
            tile.b[i] += product->b_item;
        }
        if (columns > 4) {
            lab_f32_wide_tile(&tile, sums, sums);
        } else {
            lab_f32_tile(&tile, rows, columns, sums, sums);
        }
    }
}

void lab_f32_product(const lab_f32_product_t *product, const float *a, const float *b, lab_f32_sink_t sink,
                     const void *context)
{
    lab_f32_tile_t tile = {
        .outer = product->outer,
        .inner = product->inner,
        .a_outer = product->a_outer,
        .a_inner = product->a_inner,
        .b_outer = product->b_outer,
        .b_inner = product->b_inner,
    };
    lab_f32_place_t place;
    const int empty = product->outer == 0 || product->inner == 0;
    const int wide = product->rows == 1 && product->b_inner != 1 && product->columns >= LAB_F32_WIDE;
    const int32_t block = wide ? LAB_F32_WIDE : 4;
    const int32_t rows = product->rows < 4 ? product->rows : 4;
    const int32_t columns = product->columns < block ? product->columns : block;
    place.row_end = rows;
    place.column_end = columns;
    for (int32_t row = 0; row < product->rows; row += 4) {
        const int32_t row_start = block_start(row, product->rows, 4);
        const int32_t first_index = row_start * product->target_row + product->target_first;
        set_pointers(tile.a, a + row_start * product->a_row, product->a_row, rows);
        place.row = product->first_row + row_start;
        place.row_begin = row - row_start;
        for (int32_t column = 0; column < product->columns; column += block) {
            const int32_t start = block_start(column, product->columns, block);
            float sums[16];
            const float *result = sums;
            set_pointers(tile.b, b + start * product->b_column, product->b_column, columns);
            place.row_index[0] = first_index + start;
            place.row_index[1] = place.row_index[0] + product->target_row;
            place.row_index[2] = place.row_index[1] + product->target_row;
            place.row_index[3] = place.row_index[2] + product->target_row;
            place.column = start;
            place.column_begin = column - start;
            if (empty) {
                result = lab_f32_zeros;
            } else if (wide) {
                lab_f32_wide_tile(&tile, lab_f32_zeros, sums);
            } else {
                lab_f32_tile(&tile, rows, columns, lab_f32_zeros, sums);
            }
            if (!empty && product->items > 1) {
                add_items(product, tile, rows, columns, sums);
            }
            sink(context, result, &place);
        }
    }
}
