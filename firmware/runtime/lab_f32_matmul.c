#include "lab_f32_matmul.h"

#include "lab_f32_product.h"

void lab_f32_matmul(const lab_f32_matmul_t *layer, const float *a, const float *b, const float *bias, float *output)
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
    for (int32_t item = 0; item < layer->batch; item++) {
        const lab_f32_store_t store = {
            .target = output + item * layer->rows * layer->columns,
            .bias = bias,
            .minimum = layer->minimum,
            .maximum = layer->maximum,
        };
        lab_f32_product(&product, a + item * layer->rows * layer->depth, b + item * layer->depth * layer->columns,
                        lab_f32_store, &store);
    }
}
