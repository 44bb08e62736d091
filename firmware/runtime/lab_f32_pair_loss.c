#include "lab_f32_pair_loss.h"

#include <math.h>

static float value(const lab_f32_pair_loss_t *layer, float x, float t)
{
    const float difference = fabsf(x - t), delta = layer->delta;
    switch (layer->function) {
    case LAB_SQUARED:
        return difference * difference;
    case LAB_HUBER:
        return difference < delta ? 0.5f * difference * difference : delta * (difference - 0.5f * delta);
    case LAB_SMOOTH_L1:
        return difference < delta ? 0.5f * difference * difference / delta : difference - 0.5f * delta;
    default: /* LAB_BINARY */
        return (1.0f - t) * x + log1pf(expf(-fabsf(x))) + (x < 0.0f ? -x : 0.0f);
    }
}

void lab_f32_pair_loss(const lab_f32_pair_loss_t *layer, const float *output, const float *target, float *loss)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < layer->count; i++)
        sum += value(layer, output[i], target[i]);
    *loss = layer->scale * sum;
}
