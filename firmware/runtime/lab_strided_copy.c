#include "lab_strided_copy.h"

#include <string.h>

static void copy_row(int32_t count, int32_t item_bytes, const uint8_t *from, int32_t read, uint8_t *to, int32_t write)
{
    if (read == item_bytes && write == item_bytes) {
        memcpy(to, from, (size_t)count * (size_t)item_bytes);
        return;
    }
    if (item_bytes == 4) {
        for (int32_t i = 0; i < count; i++) {
            memcpy(to, from, 4); /* a fixed size becomes one load and one store */
            from += read;
            to += write;
        }
        return;
    }
    for (int32_t i = 0; i < count; i++) {
        memcpy(to, from, (size_t)item_bytes);
        from += read;
        to += write;
    }
}

void lab_strided_copy(const lab_strided_copy_t *layer, const void *input, void *output)
{
    const int32_t item = layer->item_bytes;
    const int32_t *n = layer->shape;
    const int32_t *r = layer->read_stride;
    const int32_t *w = layer->write_stride;
    const uint8_t *from = (const uint8_t *)input + layer->read_offset * item;
    uint8_t *to = (uint8_t *)output + layer->write_offset * item;

    if (layer->fill_bytes > 0) {
        memset(output, layer->fill_value, layer->fill_bytes);
    }
    for (int32_t a = 0; a < n[0]; a++) {
        for (int32_t b = 0; b < n[1]; b++) {
            for (int32_t c = 0; c < n[2]; c++) {
                for (int32_t d = 0; d < n[3]; d++) {
                    const int32_t read = a * r[0] + b * r[1] + c * r[2] + d * r[3];
                    const int32_t write = a * w[0] + b * w[1] + c * w[2] + d * w[3];
                    for (int32_t e = 0; e < n[4]; e++) {
                        copy_row(n[5], item, from + (read + e * r[4]) * item, r[5] * item,
                                 to + (write + e * w[4]) * item, w[5] * item);
                    }
                }
            }
        }
    }
}

void lab_strided_extend(const lab_strided_copy_t *layer, const void *input, const void *earlier, void *output)
{
    (void)earlier;
    lab_strided_copy(layer, input, output);
}
