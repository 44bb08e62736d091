#include "lab_mask.h"

void lab_f32_mask(const lab_f32_mask_t *layer, const float *input, uint8_t *mask)
{
    const float low = layer->low;
    const float high = layer->high;
    for (int32_t start = 0; start < layer->count; start += 8) {
        const int32_t left = layer->count - start;
        const int32_t bits = left < 8 ? left : 8;
        uint32_t byte = 0;
        for (int32_t bit = 0; bit < bits; bit++) {
            byte |= (uint32_t)(input[bit] > low && input[bit] < high) << bit;
        }
        *mask++ = (uint8_t)byte;
        input += bits;
    }
}

void lab_q_mask(const lab_q_mask_t *layer, const int8_t *input, uint8_t *mask)
{
    const int32_t low = layer->low;
    const int32_t high = layer->high;
    for (int32_t start = 0; start < layer->count; start += 8) {
        const int32_t left = layer->count - start;
        const int32_t bits = left < 8 ? left : 8;
        uint32_t byte = 0;
        for (int32_t bit = 0; bit < bits; bit++) {
            byte |= (uint32_t)(input[bit] > low && input[bit] < high) << bit;
        }
        *mask++ = (uint8_t)byte;
        input += bits;
    }
}

void lab_mask_gradient(const lab_mask_gradient_t *layer, const float *gradient, const uint8_t *mask, float *output)
{
    for (int32_t i = 0; i < layer->count; i++) {
        output[i] = (mask[i >> 3] >> (i & 7)) & 1 ? gradient[i] : 0.0f;
    }
}

void lab_q_clamp_gradient(const lab_q_mask_t *layer, const float *gradient, const int8_t *value, float *output)
{
    const int32_t low = layer->low;
    const int32_t high = layer->high;
    for (int32_t i = 0; i < layer->count; i++) {
        output[i] = value[i] > low && value[i] < high ? gradient[i] : 0.0f;
    }
}
