/* Copies a block of up to six axes between two memories, each with strides of its own: transposes, slices, repeated
 * axes (stride 0) and parts of a concatenation. Strides and offsets count elements of item_bytes (1, 2 or 4).
 * fill_bytes > 0 first sets so many bytes of the output to fill_value (not 0 for int8 only). Input and output must not
 * overlap. No scratch. */
#ifndef LAB_STRIDED_COPY_H
#define LAB_STRIDED_COPY_H

#include <stdint.h>

#define LAB_STRIDED_COPY_AXES 6

typedef struct {
    int32_t shape[LAB_STRIDED_COPY_AXES];
    int32_t read_stride[LAB_STRIDED_COPY_AXES];
    int32_t write_stride[LAB_STRIDED_COPY_AXES];
    int32_t read_offset, write_offset;
    int32_t item_bytes;
    uint32_t fill_bytes;
    int32_t fill_value;
} lab_strided_copy_t;

void lab_strided_copy(const lab_strided_copy_t *layer, const void *input, void *output);

/* The same, into memory an earlier part was written to, which is the second input. */
void lab_strided_extend(const lab_strided_copy_t *layer, const void *input, const void *earlier, void *output);

#endif
