#include "lab_linear.h"

void lab_linear(const lab_linear_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    lab_dense_row(layer, input, output, scratch);
}
