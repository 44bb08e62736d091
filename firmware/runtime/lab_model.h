/* The border between generated model code and the runner. One model is linked into an image. */
#ifndef LAB_MODEL_H
#define LAB_MODEL_H

#include <stdint.h>

/* Called by the profiled schedule before (edge = 1) and after (edge = 0) layer `layer`. */
typedef void (*lab_layer_hook)(void *context, uint32_t layer, uint32_t edge);

typedef struct {
    const char *name;
    uint32_t input_bytes;  /* bytes of one input sample (int8, NHWC) */
    uint32_t output_bytes; /* bytes of one output (int8) */
    uint32_t arena_bytes;  /* what infer() needs, from the memory plan */
    uint32_t layer_count;
    const char *const *layer_names;
    /* Runs the model. `arena` is 16-byte aligned; `input` and `output` lie outside it. */
    void (*infer)(const int8_t *input, int8_t *output, uint8_t *arena);
    /* The same schedule with `hook` called around every layer. */
    void (*infer_profiled)(const int8_t *input, int8_t *output, uint8_t *arena, lab_layer_hook hook, void *context);
    float output_scale; /* real output = output_scale * (output - output_zero_point) */
    int32_t output_zero_point;
    float input_scale; /* real input = input_scale * (input - input_zero_point) */
    int32_t input_zero_point;
} lab_model_t;

/* Defined by the generated model.c; model.h defines LAB_MODEL_ARENA_BYTES for static allocation. */
extern const lab_model_t lab_model;

#endif
