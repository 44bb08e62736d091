#include "lab_f32_gather.h"

#include "lab_f32_tile.h"
#include "lab_f32_zeros.h"

/* Positions first, first + step, … that use the same taps, each one meeting sources `advance` further on. */
typedef struct {
    lab_f32_taps_t taps;
    int32_t first, step, count, advance;
} run_t;

static lab_f32_taps_t taps_at(const lab_f32_gather_t *gather, const lab_f32_axis_t *axis, int32_t position)
{
    return gather->forward ? lab_f32_forward_taps(axis, position) : lab_f32_gradient_taps(axis, position);
}

static run_t run_at(const lab_f32_gather_t *gather, const lab_f32_axis_t *axis, int32_t position)
{
    run_t run = {
        .taps = taps_at(gather, axis, position),
        .first = position,
        .step = gather->forward ? 1 : axis->stride,
        .count = 1,
        .advance = gather->forward ? axis->stride : 1,
    };
    for (int32_t next = position + run.step; next < axis->targets; next += run.step) {
        const lab_f32_taps_t taps = taps_at(gather, axis, next);
        if (taps.first != run.taps.first || taps.count != run.taps.count) {
            break;
        }
        run.count++;
    }
    return run;
}

/* Adds all taps to the tile's sums. Where neither source nor weights leave gaps between the taps of a row, the row is
 * one run. */
static void add_taps(const lab_f32_gather_t *gather, const lab_f32_taps_t *y, const lab_f32_taps_t *x,
                     lab_f32_tile_t *tile, int32_t rows, int32_t columns, float *sums)
{
    const int32_t source_y = y->source_step * gather->x.sources * gather->source_channels;
    const int32_t source_x = x->source_step * gather->source_channels;
    const int32_t weight_y = y->step * gather->weight_y;
    const int32_t weight_x = x->step * gather->weight_x;
    tile->a_inner = 1;
    tile->b_inner = gather->weight_depth;
    if (source_x == gather->depth && weight_x == gather->depth * gather->weight_depth) {
        tile->outer = y->count;
        tile->inner = x->count * gather->depth;
        tile->a_outer = source_y;
        tile->b_outer = weight_y;
        lab_f32_tile(tile, rows, columns, lab_f32_zeros, sums);
        return;
    }
    tile->outer = x->count;
    tile->inner = gather->depth;
    tile->a_outer = source_x;
    tile->b_outer = weight_x;
    for (int32_t j = 0; j < y->count; j++) {
        lab_f32_tile(tile, rows, columns, j == 0 ? lab_f32_zeros : sums, sums);
        for (int32_t i = 0; i < 4; i++) {
            tile->a[i] += source_y;
            tile->b[i] += weight_y;
        }
    }
}

/* All columns of up to four pixels. */
static void gather_pixels(const lab_f32_gather_t *gather, const lab_f32_taps_t *y, const lab_f32_taps_t *x,
                          const float *const *pixels, const float *weights, const int32_t *targets, int32_t rows,
                          const lab_f32_store_t *store)
{
    const int32_t columns = gather->columns < 4 ? gather->columns : 4;
    lab_f32_place_t place = {.row_end = rows, .column_end = columns};
    for (int32_t column = 0; column < gather->columns; column += 4) {
        const int32_t start = (columns == 4 && column + 4 > gather->columns) ? gather->columns - 4 : column;
        float sums[16];
        lab_f32_tile_t tile;
        for (int32_t i = 0; i < 4; i++) {
            tile.a[i] = pixels[i];
            tile.b[i] = weights + (start + (i < columns ? i : columns - 1)) * gather->weight_column;
            place.row_index[i] = targets[i] + start;
        }
        place.column = start;
        place.column_begin = column - start;
        if (y->count > 0 && x->count > 0) {
            add_taps(gather, y, x, &tile, rows, columns, sums);
            lab_f32_store(store, sums, &place);
        } else {
            lab_f32_store(store, lab_f32_zeros, &place);
        }
    }
}

/* All pixels at the crossings of two runs. */
static void gather_runs(const lab_f32_gather_t *gather, const run_t *y, const run_t *x, const float *source,
                        const float *weights, const lab_f32_store_t *store)
{
    const float *const first_weight = weights + y->taps.first * gather->weight_y + x->taps.first * gather->weight_x;
    const int32_t pixels = y->count * x->count;
    int32_t line = 0;
    int32_t at = 0;
    for (int32_t pixel = 0; pixel < pixels; pixel += 4) {
        const int32_t rows = pixels - pixel < 4 ? pixels - pixel : 4;
        const float *sources[4];
        int32_t targets[4];
        for (int32_t i = 0; i < 4; i++) {
            const int32_t source_pixel =
                (y->taps.source + line * y->advance) * gather->x.sources + x->taps.source + at * x->advance;
            sources[i] = source + source_pixel * gather->source_channels;
            targets[i] = ((y->first + line * y->step) * gather->x.targets + x->first + at * x->step) *
                         gather->target_channels;
            if (i + 1 < rows || rows == 4) {
                at++;
                if (at == x->count) {
                    at = 0;
                    line++;
                }
            }
        }
        gather_pixels(gather, &y->taps, &x->taps, sources, first_weight, targets, rows, store);
    }
}

void lab_f32_gather(const lab_f32_gather_t *gather, const float *source, const float *weights,
                    const lab_f32_store_t *store)
{
    const int32_t phases_y = gather->forward ? 1 : gather->y.stride;
    const int32_t phases_x = gather->forward ? 1 : gather->x.stride;
    for (int32_t phase_y = 0; phase_y < phases_y && phase_y < gather->y.targets; phase_y++) {
        run_t y;
        for (int32_t at_y = phase_y; at_y < gather->y.targets; at_y += y.count * y.step) {
            y = run_at(gather, &gather->y, at_y);
            for (int32_t phase_x = 0; phase_x < phases_x && phase_x < gather->x.targets; phase_x++) {
                run_t x;
                for (int32_t at_x = phase_x; at_x < gather->x.targets; at_x += x.count * x.step) {
                    x = run_at(gather, &gather->x, at_x);
                    gather_runs(gather, &y, &x, source, weights, store);
                }
            }
        }
    }
}
