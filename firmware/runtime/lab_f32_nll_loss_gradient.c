#include "lab_f32_nll_loss_gradient.h"

void lab_f32_nll_loss_gradient(const lab_f32_nll_loss_gradient_t *layer, const float *gradient, const int32_t *labels,
                               const float *weights, const float *total, float *output)
{
    const float given = layer->scale * (gradient != 0 ? *gradient : 1.0f);
    const float each = layer->mean ? given / *total : given;
    for (int32_t row = 0; row < layer->rows; row++, output += layer->classes) {
        const int32_t label = labels[row];
        for (int32_t i = 0; i < layer->classes; i++)
            output[i] = 0.0f;
        if (label != layer->ignored && label >= 0 && label < layer->classes)
            output[label] = -each * (weights != 0 ? weights[label] : 1.0f);
    }
}
