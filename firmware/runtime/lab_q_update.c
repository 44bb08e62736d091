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

/* Four neighbours whose place in the packed row is a multiple of four; returns by how much their sum changed. */
static inline int32_t update_four(int8_t *four, int32_t flip, const float *sums, float factor, uint32_t random)
{
    int32_t below = 0;
    update_byte(four, flip, sums[0] * factor, &random, &below);
    update_byte(four + 4, flip, sums[1] * factor, &random, &below);
    update_byte(four + 2, flip, sums[2] * factor, &random, &below);
    update_byte(four + 6, flip, sums[3] * factor, &random, &below);
    return below + 4;
}

/* The four outputs of two pairs, four such neighbours each: nearly all weights of most layers. `update` is a copy: the
 * weights are bytes, which may alias anything that has an address. */
static void update_pairs(const lab_q_update_rows_t update, int32_t output, int32_t first, const float *sums)
{
    const uint32_t next_output = (uint32_t)update.inputs * LAB_RANDOM_STRIDE;
    const int32_t pair_bytes = 2 * lab_dense_padded(update.inputs);
    const float *const scale = update.weight_scale + output;
    int32_t *const bias = update.bias + output;
    int8_t *four = (int8_t *)update.weights + (output >> 1) * pair_bytes + 2 * first;
    uint32_t random = update.key + (uint32_t)(output * update.inputs + first) * LAB_RANDOM_STRIDE;
    for (int32_t row = 0; row < 4; row += 2) {
        const float even = factor_of(update.rate, scale[row], update.input_scale);
        const float odd = factor_of(update.rate, scale[row + 1], update.input_scale);
        bias[row] -= update.bias_offset * update_four(four, INT8_MIN, sums, even, random);
        random += next_output;
        bias[row + 1] -= update.bias_offset * update_four(four + 1, 0, sums + 4, odd, random);
        random += next_output;
        four += pair_bytes;
        sums += 8;
    }
}

static void update_row(const lab_q_update_rows_t update, int32_t output, int32_t first, int32_t columns,
                       const float *sums)
{
    const float factor = factor_of(update.rate, update.weight_scale[output], update.input_scale);
    const int32_t flip = (int8_t)lab_q_weight_flip(output);
    int8_t *const row = (int8_t *)update.weights + lab_q_weight_index(output, 0, update.inputs);
    uint32_t random = update.key + (uint32_t)(output * update.inputs + first) * LAB_RANDOM_STRIDE;
    int32_t below = 0;
    for (int32_t column = 0; column < columns; column++) {
        update_byte(row + lab_q_weight_index(0, first + column, 0), flip, sums[column] * factor, &random, &below);
    }
    update.bias[output] -= update.bias_offset * (below + columns);
}

void lab_q_update_rows(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_update_rows_t *const update = context;
    const int32_t output = update->first_output + place->row;
    /* The place counts rows from the slice's first output; its rows are an output apart. */
    const int32_t first = update->first + place->row_index[0] - place->row * update->inputs;
    const int32_t whole = place->row_begin == 0 && place->row_end == 4 && place->column_end == 4;
    if (whole && (first & 3) == 0 && (output & 1) == 0) {
        update_pairs(*update, output, first, sums);
        return;
    }
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        update_row(*update, output + row, first, place->column_end, sums + 4 * row);
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
