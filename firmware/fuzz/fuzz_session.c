/*
 * libFuzzer target: the whole session, with a transport that throws everything away.
 *
 * The input is a list of records: a byte of kind, a byte of length (times 4 for frames), the content. Even kinds send the
 * content raw; odd kinds wrap it in a valid frame, since a fuzzer does not find checksums by chance.
 */
#include "lab_model.h"
#include "memory.h"
#include "model.h"
#include "port.h"
#include "session.h"
#include "training.h"
#include "wire.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define STACK_WORDS 64u
#define BLOB_BYTES 4096u
#define MOST_WORK 20000u
#define IO_BYTES 64u
#define CLASSES 5

static uint32_t stack[STACK_WORDS];
static uint8_t blob_store[BLOB_BYTES] __attribute__((aligned(16)));
static volatile uint32_t marker;
static jmp_buf restart;
static uint32_t work;
static wire_receiver_t checker;

static const uint32_t baud_rates[] = {115200, 230400, 921600};

/* Whatever is asked, only a rate that was offered is set. */
static void set_baud(uint32_t baud)
{
    if (baud != baud_rates[0] && baud != baud_rates[1] && baud != baud_rates[2])
        abort();
}

const lab_port_t lab_port = {
    .board = "fuzz",
    .clock_kind = "virtual",
    .clock_hz = 1u << 28,
    .blob_store = blob_store,
    .blob_bytes = BLOB_BYTES,
    .blob_address = 0x21000000u,
    .stack = stack,
    .stack_bytes = sizeof stack,
    .marker = &marker,
    .baud_rates = baud_rates,
    .baud_rate_count = 3,
    .set_baud = set_baud,
};

/* Jobs may ask for four thousand million passes: cut them off. */
static void spend(void)
{
    if (++work > MOST_WORK)
        longjmp(restart, 1);
}

void port_write(const uint8_t *bytes, size_t count)
{
    /* Whatever is asked, what the device says must be valid frames. */
    cbor_map_t map;
    cbor_span_t type;
    spend();
    for (size_t i = 0; i < count; i++)
        if (wire_receive(&checker, bytes[i], &map) && !cbor_get_text(&map, "t", &type))
            abort();
    if (checker.garbage_frames > 0)
        abort();
}

void port_write_marker(const uint8_t *bytes, size_t count)
{
    (void)bytes;
    (void)count;
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    (void)bytes;
    (void)capacity;
    return 0;
}

void port_idle(void)
{
}

bool port_doze(uint64_t cycles)
{
    return cycles > 1u << 20;
}

uint64_t port_cycles(void)
{
    static uint64_t cycles;
    spend();
    cycles += 1u << 20;
    return cycles;
}

void port_reset(void)
{
    longjmp(restart, 1);
}

static void infer(const void *input, void *output, uint8_t *arena)
{
    spend();
    memcpy(arena, input, IO_BYTES);
    memcpy(output, arena, IO_BYTES);
}

static void infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{
    hook(context, 0, 1);
    infer(input, output, arena);
    hook(context, 0, 0);
}

static const float initial[8] = {1.0f};
static float variable[8];
static uint8_t long_variable[1500];

/* The loss is any float: what is sent decides whether it is finite. */
static float forward(const void *sample, const void *target, void *output, uint8_t *arena)
{
    float loss;
    int32_t label;
    infer(sample, output, arena);
    memcpy(&loss, sample, sizeof loss);
    memcpy(&label, target, sizeof label);
    if (label < 0 || label >= CLASSES)
        abort();
    return loss;
}

static void backward(const void *sample, const void *target, uint8_t *arena, lab_training_state_t *state)
{
    (void)target, (void)arena;
    memcpy(variable, sample, sizeof variable);
    state->random ^= state->random << 13;
}

static void update(uint8_t *arena, lab_training_state_t *state)
{
    if (state->random == 0 || !(state->learning_rate >= 0.0f))
        abort();
    memcpy(long_variable, arena, IO_BYTES);
}

static float step_profiled(const void *sample, const void *target, void *output, uint8_t *arena,
                           lab_training_state_t *state, lab_layer_hook hook, void *context)
{
    hook(context, 0, 1);
    float loss = forward(sample, target, output, arena);
    hook(context, 0, 0);
    hook(context, 1, 1);
    backward(sample, target, arena, state);
    update(arena, state);
    hook(context, 1, 0);
    return loss;
}

static const lab_variable_t variables[] = {
    {"short", variable, initial, sizeof variable},
    {"long", long_variable, NULL, sizeof long_variable},
};

static const lab_training_t training = {
    .target_bytes = sizeof(int32_t),
    .target_classes = CLASSES,
    .variable_count = 2,
    .variables = variables,
    .step_count = 2,
    .forward = forward,
    .backward = backward,
    .update = update,
    .step_profiled = step_profiled,
};

const lab_model_t lab_model = {
    .name = "fuzz",
    .input_bytes = IO_BYTES,
    .output_bytes = IO_BYTES,
    .arena_bytes = LAB_MODEL_ARENA_BYTES,
    .layer_count = 1,
    .infer = infer,
    .infer_profiled = infer_profiled,
    .output_scale = 1.0f,
    .output_zero_point = 0,
    .output_is_float = 1,
    .training = &training,
};

static void send_framed(const uint8_t *content, size_t size)
{
    static uint8_t payload[WIRE_MTU + WIRE_CRC_BYTES];
    static uint8_t encoded[WIRE_ENCODED_BYTES];
    memcpy(payload, content, size);
    size_t length = wire_encode(payload, size, encoded);
    for (size_t i = 0; i < length; i++)
        session_receive(encoded[i]);
}

static void run_records(const uint8_t *data, size_t size)
{
    size_t at = 0;
    while (at + 2 <= size) {
        bool framed = data[at] & 1u;
        size_t length = data[at + 1] * (framed ? 4u : 1u);
        at += 2;
        if (length > size - at)
            length = size - at;
        if (framed)
            send_framed(data + at, length);
        else
            for (size_t i = 0; i < length; i++)
                session_receive(data[at + i]);
        at += length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    work = 0;
    checker = (wire_receiver_t){0};
    memory_paint_stack(stack, sizeof stack);
    if (setjmp(restart) == 0) {
        training_init();
        session_init();
        run_records(data, size);
    }
    return 0;
}
