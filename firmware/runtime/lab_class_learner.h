/* Classes that come one after another: a frozen extractor, a linear classifier that is trained on its latents, and a
 * store of earlier ones that are learnt again with each new class (Kwon et al. 2023, "LifeLearner", algorithm 2).
 *
 * A step is a class: `shots` samples with a label each. Its parts are those of a step of training: forward extracts all
 * latents, backward learns them one by one, update rehearses them together with the store and then puts them there. */
#ifndef LAB_CLASS_LEARNER_H
#define LAB_CLASS_LEARNER_H

#include "lab_attentive_units.h"
#include "lab_latent_codec.h"
#include "lab_training.h"

#include <stdint.h>

typedef enum {
    LAB_LEARN_ONLINE,   /* each sample once, as it comes */
    LAB_LEARN_MEANS,    /* no descent: the classifier is that of the nearest class mean */
    LAB_LEARN_LATENTS,  /* latents are kept, packed, and rehearsed */
    LAB_LEARN_SAMPLES,  /* samples are kept, and rehearsed through the extractor */
} lab_learn_t;

/* What the store holds. */
typedef struct {
    int32_t items;
    int32_t bytes;   /* of `pool` that are used */
    int32_t dropped; /* items that found no room */
} lab_learner_store_t;

typedef struct {
    lab_learn_t method;
    lab_latent_codec_t codec;
    const lab_attentive_units_t *units; /* between extractor and classifier; null where there are none; with
                                           LAB_LEARN_ONLINE alone */
    void (*extract)(const void *sample, void *latent, uint8_t *arena); /* yields int8 [codec.elements] */
    uint32_t sample_bytes; /* of one sample */
    uint32_t classes;
    uint32_t shots;    /* samples of a step */
    uint32_t batch;    /* of a step of rehearsal */
    uint32_t epochs;   /* of rehearsal over the store and the new latents, for each class */
    uint32_t capacity; /* items in the store at most */
    uint32_t pool_bytes;
    /* Variables. */
    float *weight;    /* [codec.elements or units->outputs][classes] */
    float *bias;      /* [classes] */
    int32_t *counts;  /* [classes] samples seen of each; of LAB_LEARN_MEANS alone */
    lab_learner_store_t *store; /* these four of the methods that rehearse */
    uint8_t *pool;    /* [pool_bytes] */
    int32_t *ends;    /* [capacity] where each item ends in the pool */
    uint8_t *labels;  /* [capacity] */
    /* Where things lie in the arena, bytes, multiples of 16; the first 16 bytes belong to the step itself. */
    uint32_t latents_at;   /* int8 [shots][elements] */
    uint32_t order_at;     /* uint16 [capacity + shots] */
    uint32_t decoded_at;   /* fp32 [batch][elements] */
    uint32_t errors_at;    /* fp32 [batch][classes] */
    uint32_t attending_at; /* fp32 [units->outputs], and what the units need behind it */
    uint32_t again_at;     /* int8 [elements]: a latent that is extracted again */
    uint32_t extractor_at; /* the extractor's arena */
} lab_class_learner_t;

/* `shots` samples to logits, fp32 [shots][classes]. */
void lab_learner_infer(const lab_class_learner_t *learner, const void *samples, void *output, uint8_t *arena);

/* Its two parts: latents into the arena, and what comes of them. */
void lab_learner_extract(const lab_class_learner_t *learner, const void *samples, uint8_t *arena);
void lab_learner_classify(const lab_class_learner_t *learner, void *output, uint8_t *arena);

/* As lab_training_t has them; targets are int32 [shots]. Forward is extract and judge: the mean loss of the samples. */
float lab_learner_judge(const lab_class_learner_t *learner, const void *samples, const void *targets, void *output,
                        uint8_t *arena);
float lab_learner_forward(const lab_class_learner_t *learner, const void *samples, const void *targets, void *output,
                          uint8_t *arena);
void lab_learner_backward(const lab_class_learner_t *learner, const void *targets, uint8_t *arena,
                          lab_training_state_t *state);
void lab_learner_update(const lab_class_learner_t *learner, uint8_t *arena, lab_training_state_t *state);

#endif
