#include "lab_q_update.h"

#include "lab_f32_arithmetic.h"
#include "lab_q_weights.h"

/* What both versions of update_byte do: the weight in *byte, which lies there with its bits changed by `flip`, loses
 * `step`, in 2^-LAB_RANDOM_BITS; *random moves on to the next weight's number; *below gains what the weight moved, less
 * one.
 * Without optimisation compilers run out of registers for the assembly. */
#if LAB_F32_THUMB_FPU && defined(__ARM_FEATURE_DSP) && defined(__OPTIMIZE__)

#include "arm/lab_q_update_arm.h"

#else

static inline int32_t truncated(float value)
{
    if (value >= 2147483648.0f) {
        return INT32_MAX;
    }
    if (value <= -2147483648.0f) {
        return INT32_MIN;
    }
    return value == value ? (int32_t)value : 0;
}

static inline int32_t subtract(int32_t a, int32_t b)
{
    int32_t difference;
    if (__builtin_sub_overflow(a, b, &difference)) {
        return a < 0 ? INT32_MIN : INT32_MAX;
    }
    return difference;
}

static inline void update_byte(int8_t *byte, int32_t flip, float step, uint32_t *random, int32_t *below)
{
    const int32_t level = INT32_C(1) << LAB_RANDOM_BITS;
    const int32_t weight = *byte ^ flip;
    const int32_t start = weight * level + (int32_t)(lab_random_mix(*random) & (uint32_t)(level - 1));
    /* One level below, so that what saturates at the lower end ends at -127. */
    const int32_t changed = subtract(subtract(start, truncated(step)), level) >> LAB_RANDOM_BITS;
    *below += changed - weight;
    *byte = (int8_t)((changed + 1) ^ flip);
    *random += LAB_RANDOM_STRIDE;
}

#endif

static inline float factor_of(float rate, float weight_scale, float input_scale)
{
    return rate / weight_scale * (input_scale * (float)(1 << LAB_RANDOM_BITS));
}

/* Columns of one output from weight `first` on; returns by how much their sum changed. */
static inline int32_t update_row(int8_t *row, int32_t flip, int32_t first, int32_t columns, const float *sums,
                                 float factor, uint32_t random)
{
    int32_t below = 0;
    if (columns == 4 && (first & 3) == 0) {
        int8_t *const four = row + 2 * first;
        update_byte(four, flip, sums[0] * factor, &random, &below);
        update_byte(four + 4, flip, sums[1] * factor, &random, &below);
        update_byte(four + 2, flip, sums[2] * factor, &random, &below);
        update_byte(four + 6, flip, sums[3] * factor, &random, &below);
    } else {
        for (int32_t column = 0; column < columns; column++) {
            int8_t *const byte = row + lab_q_weight_index(0, first + column, 0);
            update_byte(byte, flip, sums[column] * factor, &random, &below);
        }
    }
    return below + columns;
}

/* Everything that does not change lies in locals: the weights are bytes, which may alias the context. */
void lab_q_update_rows(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_update_rows_t update = *(const lab_q_update_rows_t *)context;
    const int32_t inputs = update.inputs;
    const int32_t columns = place->column_end;
    const int32_t row_end = place->row_end;
    const int32_t first_row = place->row;
    /* The place counts rows from the slice's first output; its rows are an output apart. */
    const int32_t first = update.first + place->row_index[0] - first_row * inputs;
    for (int32_t row = place->row_begin; row < row_end; row++) {
        const int32_t output = update.first_output + first_row + row;
        const float factor = factor_of(update.rate, update.weight_scale[output], update.input_scale);
        const uint32_t random = update.key + (uint32_t)(output * inputs + first) * LAB_RANDOM_STRIDE;
        int8_t *const bytes = (int8_t *)update.weights + lab_q_weight_index(output, 0, inputs);
        const int32_t moved = update_row(bytes, (int8_t)lab_q_weight_flip(output), first, columns, sums + 4 * row,
                                         factor, random);
        update.bias[output] -= update.bias_offset * moved;
    }
}

void lab_q_update_columns(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_update_columns_t update = *(const lab_q_update_columns_t *)context;
    const int32_t channels = place->column_end;
    const int32_t first = update.first + place->row_index[0];
    int8_t *const weights = update.weights + first;
    const float *const weight_scale = update.weight_scale + place->column;
    int32_t *const bias = update.bias + place->column;
    uint32_t random = update.key + (uint32_t)first * LAB_RANDOM_STRIDE;
    for (int32_t channel = 0; channel < channels; channel++) {
        const float factor = factor_of(update.rate, weight_scale[channel], update.input_scale);
        int32_t below = 0;
        update_byte(weights + channel, 0, sums[channel] * factor, &random, &below);
        bias[channel] -= update.bias_offset * (below + 1);
    }
}

void lab_q_store(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_store_t store = *(const lab_q_store_t *)context;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        for (int32_t column = place->column_begin; column < place->column_end; column++) {
            store.target[place->row_index[row] + column] = sums[4 * row + column] * store.input_scale;
        }
    }
}
