#include "lab_f32_binary.h"

static void row(const lab_f32_binary_t *layer, const float *a, const float *b, float *output)
{
    const int32_t count = layer->shape[LAB_BINARY_AXES - 1];
    const int32_t a_step = layer->first_stride[LAB_BINARY_AXES - 1], b_step = layer->second_stride[LAB_BINARY_AXES - 1];
    const float a_scale = layer->first_scale, b_scale = layer->second_scale;
    switch (layer->function) {
    case LAB_SUM:
        for (int32_t i = 0; i < count; i++)
            output[i] = a_scale * a[i * a_step] + b_scale * b[i * b_step];
        break;
    case LAB_PRODUCT:
        for (int32_t i = 0; i < count; i++)
            output[i] = a[i * a_step] * b[i * b_step];
        break;
    case LAB_QUOTIENT:
        for (int32_t i = 0; i < count; i++)
            output[i] = a[i * a_step] / b[i * b_step];
        break;
    case LAB_INVERSE_QUOTIENT:
        for (int32_t i = 0; i < count; i++)
            output[i] = b[i * b_step] / a[i * a_step];
        break;
    case LAB_KEEP_WHERE:
        for (int32_t i = 0; i < count; i++)
            output[i] = b[i * b_step] != 0.0f ? a[i * a_step] : a_scale;
        break;
    default: /* LAB_KEEP_UNLESS */
        for (int32_t i = 0; i < count; i++)
            output[i] = b[i * b_step] != 0.0f ? a_scale : a[i * a_step];
        break;
    }
}

void lab_f32_binary(const lab_f32_binary_t *layer, const float *first, const float *second, float *output)
{
    int32_t index[LAB_BINARY_AXES - 1] = {0};
    int32_t a = 0, b = 0;
    for (;;) {
        row(layer, first + a, second + b, output);
        output += layer->shape[LAB_BINARY_AXES - 1];
        int32_t axis = LAB_BINARY_AXES - 2;
        for (; axis >= 0; axis--) {
            a += layer->first_stride[axis];
            b += layer->second_stride[axis];
            if (++index[axis] < layer->shape[axis])
                break;
            index[axis] = 0;
            a -= layer->first_stride[axis] * layer->shape[axis];
            b -= layer->second_stride[axis] * layer->shape[axis];
        }
        if (axis < 0)
            return;
    }
}
