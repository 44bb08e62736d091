#include "lab_layer_norm.h"

#include "lab_fixed_point.h"

#define NORMAL_BITS 16
#define SQUARE_BITS 12

/* 1 / sqrt(squared) is root * 2^-(right + NORMAL_BITS), of a squared in Q12. */
typedef struct {
    int32_t root;
    int32_t right;
} root_t;

static root_t reciprocal_root(int64_t squared)
{
    root_t found;
    /* Of an integer in [2^28, 2^30) the root is 2^44 times too large; each factor of four in it is one of two. */
    found.right = 44 - SQUARE_BITS / 2 - NORMAL_BITS;
    while (squared >= (INT64_C(1) << 30)) {
        squared >>= 2;
        found.right++;
    }
    while (squared < (INT64_C(1) << 28)) {
        squared *= 4;
        found.right--;
    }
    found.root = lab_reciprocal_root((int32_t)squared);
    return found;
}

static void normalise(const lab_layer_norm_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t channels = layer->channels, shift = layer->shift;
    int32_t sum = 0, squares = 0;
    for (int32_t c = 0; c < channels; c++) {
        const int32_t q = input[c];
        sum += q;
        squares += q * q;
    }
    const int64_t spread = (int64_t)channels * squares - (int64_t)sum * sum;
    const int64_t floor = layer->floor * (INT64_C(1) << layer->floor_shift);
    const root_t by = reciprocal_root(spread * (1 << SQUARE_BITS) + floor);
    for (int32_t c = 0; c < channels; c++) {
        const int64_t normal = ((int64_t)(channels * input[c] - sum) * by.root) >> by.right;
        const int64_t steps = (((normal * layer->slope[c]) >> shift) + layer->offset[c]) >> NORMAL_BITS;
        output[c] = (int8_t)(steps > INT8_MAX ? INT8_MAX : (steps < INT8_MIN ? INT8_MIN : steps));
    }
}

void lab_layer_norm(const lab_layer_norm_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t row = 0; row < layer->rows; row++) {
        normalise(layer, input, output);
        input += layer->channels;
        output += layer->channels;
    }
}
