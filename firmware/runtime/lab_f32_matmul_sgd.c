#include "lab_f32_matmul_sgd.h"

#include "lab_f32_axpy.h"
#include "lab_f32_product.h"

void lab_f32_matmul_sgd(const lab_f32_matmul_sgd_t *layer, const float *a, const float *b, float *weights,
                        lab_training_state_t *state)
{
    const lab_f32_product_t product = {
        .rows = layer->rows,
        .columns = layer->columns,
        .items = 1,
        .outer = 1,
        .inner = layer->depth,
        .a_row = layer->transpose_a ? 1 : layer->depth,
        .a_inner = layer->transpose_a ? layer->rows : 1,
        .b_column = layer->transpose_b ? layer->depth : 1,
        .b_inner = layer->transpose_b ? 1 : layer->columns,
        .target_row = layer->columns,
    };
    const lab_f32_update_t update = {
        .target = weights,
        .rate = state->learning_rate * layer->rate_scale,
        .weight_decay = layer->weight_decay,
    };
    if (layer->depth == 1 && layer->weight_decay == 0.0f) {
        /* One sample: an outer product, whose sums have one term each. */
        for (int32_t row = 0; row < layer->rows; row++) {
            lab_f32_axpy(b, weights + row * layer->columns, layer->columns, -update.rate * a[row]);
        }
    } else {
        lab_f32_product(&product, a, b, lab_f32_update, &update);
    }
}
