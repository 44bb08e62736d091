#include "lab_f32_nll_loss.h"

#include <math.h>

void lab_f32_nll_loss(const lab_f32_nll_loss_t *layer, const float *log_probabilities, const int32_t *labels,
                      const float *weights, float *loss, float *total)
{
    float sum = 0.0f, weight_sum = 0.0f;
    for (int32_t row = 0; row < layer->rows; row++) {
        const int32_t label = labels[row];
        if (label == layer->ignored)
            continue;
        if (label < 0 || label >= layer->classes) {
            sum = NAN;
            continue;
        }
        const float weight = weights != 0 ? weights[label] : 1.0f;
        sum -= weight * log_probabilities[row * layer->classes + label];
        weight_sum += weight;
    }
    *loss = layer->mean ? sum / weight_sum : sum;
    *total = weight_sum;
}
