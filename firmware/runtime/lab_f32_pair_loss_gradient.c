#include "lab_f32_pair_loss_gradient.h"

static float clamp(float x, float bound)
{
    return x < -bound ? -bound : x > bound ? bound : x;
}

static float value(const lab_f32_pair_loss_gradient_t *layer, float difference)
{
    const float delta = layer->delta;
    switch (layer->function) {
    case LAB_SQUARED:
        return 2.0f * difference;
    case LAB_HUBER:
        return clamp(difference, delta);
    default: /* LAB_SMOOTH_L1 */
        if (difference > -delta && difference < delta)
            return difference / delta;
        return difference > 0.0f ? 1.0f : difference < 0.0f ? -1.0f : 0.0f;
    }
}

void lab_f32_pair_loss_gradient(const lab_f32_pair_loss_gradient_t *layer, const float *gradient, const float *saved,
                                const float *target, float *output)
{
    const float scale = layer->scale * (gradient != 0 ? *gradient : 1.0f);
    for (int32_t i = 0; i < layer->count; i++)
        output[i] = scale * value(layer, saved[i] - target[i]);
}
