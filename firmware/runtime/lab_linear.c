#include "lab_linear.h"

void lab_linear(const lab_linear_t *layer, const int8_t *input, int8_t *output)
{
    lab_dense_row(layer, input, output);
}
