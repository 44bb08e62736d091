/* The border between generated model code and the runner. One model is linked into an image. */
#ifndef LAB_MODEL_H
#define LAB_MODEL_H

#include "lab_training.h"

#include <stdint.h>

typedef struct {
    const char *name;
    uint32_t input_bytes;  /* bytes of one input sample (NHWC) */
    uint32_t output_bytes; /* bytes of one output */
    uint32_t arena_bytes;  /* what infer() needs, from the memory plan */
    uint32_t layer_count;
    const char *const *layer_names;
    /* Runs the model. `arena` is 16-byte aligned; `input` and `output` lie outside it, aligned to their elements. */
    void (*infer)(const void *input, void *output, uint8_t *arena);
    /* The same schedule with `hook` called around every layer. */
    void (*infer_profiled)(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context);
    float output_scale; /* real output = output_scale * (output - output_zero_point) */
    int32_t output_zero_point;
    float input_scale; /* real input = input_scale * (input - input_zero_point) */
    int32_t input_zero_point;
    /* 0 for int8, 1 for float32; scale and zero point are meaningless for float32 */
    uint32_t input_is_float, output_is_float;
    const lab_training_t *training; /* a null pointer where the model is not trained on the device */
    /* Of a model that holds several networks: makes one of them, below network_count, the one that infers. Null where
     * there is one. Their inputs and outputs begin where the model's do, and may be shorter. */
    void (*load)(uint32_t network);
    uint32_t network_count;
} lab_model_t;

/* Defined by the generated model.c; model.h defines LAB_MODEL_ARENA_BYTES for static allocation. */
extern const lab_model_t lab_model;

#endif
