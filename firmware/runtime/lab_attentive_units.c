#include "lab_attentive_units.h"

#include "lab_f32_axpy.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define LEAST_LENGTH 1e-12f

/* Where things lie in `work`. Numbers of units are kept as floats: they are exact, and nothing else is stored there. */
typedef struct {
    float *features; /* [outputs] */
    float *length;   /* [1] of the features before they were brought to 1 */
    float *key;      /* [keys] */
    float *queries;  /* [count][keys] */
    float *scores;   /* [count] */
    float *chosen;   /* [active] */
    float *values;   /* [active][outputs] */
    float *by_sum;   /* [outputs] the loss's gradient by the sum of values */
    float *by_key;   /* [keys] */
    float *by_query; /* [keys] */
} work_t;

static work_t work_of(const lab_attentive_units_t *units, float *work)
{
    work_t found;
    found.features = work;
    found.length = found.features + units->outputs;
    found.key = found.length + 1;
    found.queries = found.key + units->keys;
    found.scores = found.queries + (size_t)units->count * units->keys;
    found.chosen = found.scores + units->count;
    found.values = found.chosen + units->active;
    found.by_sum = found.values + (size_t)units->active * units->outputs;
    found.by_key = found.by_sum + units->outputs;
    found.by_query = found.by_key + units->keys;
    return found;
}

static float product(const float *one, const float *other, uint32_t count)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < count; i++)
        sum += one[i] * other[i];
    return sum;
}

/* y += x · rows, rows [count][width]: those of inputs that are zero are not read. */
static void add_product(const float *x, const float *rows, float *y, uint32_t count, uint32_t width)
{
    for (uint32_t i = 0; i < count; i++)
        if (x[i] != 0.0f)
            lab_f32_axpy(rows + (size_t)i * width, y, (int32_t)width, x[i]);
}

/* rows += scale · x ⊗ y. */
static void add_outer(const float *x, const float *y, float *rows, uint32_t count, uint32_t width, float scale)
{
    for (uint32_t i = 0; i < count; i++)
        if (x[i] != 0.0f)
            lab_f32_axpy(y, rows + (size_t)i * width, (int32_t)width, scale * x[i]);
}

static float *query_of(const lab_attentive_units_t *units, uint32_t unit)
{
    return units->query + (size_t)unit * units->hidden * units->keys;
}

static float *value_of(const lab_attentive_units_t *units, uint32_t unit)
{
    return units->value + (size_t)unit * units->inputs * units->outputs;
}

static float root_of_keys(const lab_attentive_units_t *units)
{
    return sqrtf((float)units->keys);
}

static void match(const lab_attentive_units_t *units, const float *latent, const work_t *work)
{
    memcpy(work->key, units->key_bias, units->keys * sizeof *work->key);
    add_product(latent, units->key, work->key, units->inputs, units->keys);
    memset(work->queries, 0, (size_t)units->count * units->keys * sizeof *work->queries);
    for (uint32_t unit = 0; unit < units->count; unit++) {
        float *query = work->queries + (size_t)unit * units->keys;
        add_product(units->state + (size_t)unit * units->hidden, query_of(units, unit), query, units->hidden,
                    units->keys);
        work->scores[unit] = product(query, work->key, units->keys) / root_of_keys(units);
    }
}

static int is_chosen(const work_t *work, uint32_t so_far, uint32_t unit)
{
    for (uint32_t i = 0; i < so_far; i++)
        if ((uint32_t)work->chosen[i] == unit)
            return 1;
    return 0;
}

static void choose(const lab_attentive_units_t *units, const work_t *work)
{
    for (uint32_t place = 0; place < units->active; place++) {
        uint32_t best = units->count;
        for (uint32_t unit = 0; unit < units->count; unit++)
            if (!is_chosen(work, place, unit) && (best == units->count || work->scores[unit] > work->scores[best]))
                best = unit;
        work->chosen[place] = (float)best;
    }
}

const float *lab_attentive_forward(const lab_attentive_units_t *units, const float *latent, float *memory)
{
    work_t work = work_of(units, memory);
    match(units, latent, &work);
    choose(units, &work);
    memset(work.features, 0, units->outputs * sizeof *work.features);
    memset(work.values, 0, (size_t)units->active * units->outputs * sizeof *work.values);
    for (uint32_t place = 0; place < units->active; place++) {
        uint32_t unit = (uint32_t)work.chosen[place];
        float *value = work.values + (size_t)place * units->outputs;
        add_product(latent, value_of(units, unit), value, units->inputs, units->outputs);
        lab_f32_axpy(value, work.features, (int32_t)units->outputs, work.scores[unit]);
    }
    float length = sqrtf(product(work.features, work.features, units->outputs));
    *work.length = length > LEAST_LENGTH ? length : LEAST_LENGTH;
    for (uint32_t i = 0; i < units->outputs; i++)
        work.features[i] /= *work.length;
    return work.features;
}

/* Through the division by the length: what lies along the features changes nothing. */
static void by_sum_of(const lab_attentive_units_t *units, const work_t *work, const float *gradient)
{
    float along = *work->length > LEAST_LENGTH ? product(work->features, gradient, units->outputs) : 0.0f;
    for (uint32_t i = 0; i < units->outputs; i++)
        work->by_sum[i] = (gradient[i] - along * work->features[i]) / *work->length;
}

/* A unit's query comes of its state and its matrix, and both are learnt: each by what the other was before. */
static void descend_query(const lab_attentive_units_t *units, uint32_t unit, const float *by_query, float rate)
{
    float *state = units->state + (size_t)unit * units->hidden;
    for (uint32_t i = 0; i < units->hidden; i++) {
        float *row = query_of(units, unit) + (size_t)i * units->keys;
        float by_state = product(row, by_query, units->keys);
        lab_f32_axpy(by_query, row, (int32_t)units->keys, -rate * state[i]);
        state[i] -= rate * by_state;
    }
}

void lab_attentive_descend(const lab_attentive_units_t *units, const float *latent, float *memory,
                           const float *gradient, float rate)
{
    work_t work = work_of(units, memory);
    by_sum_of(units, &work, gradient);
    memset(work.by_key, 0, units->keys * sizeof *work.by_key);
    for (uint32_t place = 0; place < units->active; place++) {
        uint32_t unit = (uint32_t)work.chosen[place];
        const float *value = work.values + (size_t)place * units->outputs;
        float by_score = product(value, work.by_sum, units->outputs) / root_of_keys(units);
        add_outer(latent, work.by_sum, value_of(units, unit), units->inputs, units->outputs,
                  -rate * work.scores[unit]);
        lab_f32_axpy(work.queries + (size_t)unit * units->keys, work.by_key, (int32_t)units->keys, by_score);
        memset(work.by_query, 0, units->keys * sizeof *work.by_query);
        lab_f32_axpy(work.key, work.by_query, (int32_t)units->keys, by_score);
        descend_query(units, unit, work.by_query, rate);
    }
    add_outer(latent, work.by_key, units->key, units->inputs, units->keys, -rate);
    lab_f32_axpy(work.by_key, units->key_bias, (int32_t)units->keys, -rate);
}
