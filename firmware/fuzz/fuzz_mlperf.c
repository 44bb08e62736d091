/*
 * libFuzzer target: the MLPerf Tiny personality as ad01, whose inputs are the widest, fed the input byte by byte.
 *
 * Whatever is received, every line of the answer is printable, begins as docs/mlperf.md says and ends with CR LF, and
 * each percent sign is answered by exactly one m-ready.
 */
#include "dut.h"
#include "lab_model.h"
#include "memory.h"
#include "model.h"
#include "port.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BLOB_BYTES (32u * 1024u)
#define MOST_WORK 20000u
#define IO_BYTES 16u
#define LINE_BYTES 512u

static uint8_t blob_store[BLOB_BYTES] __attribute__((aligned(16)));
static volatile uint32_t marker;
static jmp_buf restart;
static uint32_t work;
static char line[LINE_BYTES + 1u];
static size_t line_length;
static size_t ready;

const lab_port_t lab_port = {
    .board = "fuzz",
    .clock_kind = "virtual",
    .clock_hz = 1000000u,
    .blob_store = blob_store,
    .blob_bytes = BLOB_BYTES,
    .marker = &marker,
};

/* Ten million inferences may be asked for: cut them off. */
static void spend(void)
{
    if (++work > MOST_WORK)
        longjmp(restart, 1);
}

static void check_line(void)
{
    static const char *const beginnings[] = {
        "m-", "e-[", "hil-lab firmware ", "name, profile", "db load N", "infer N W",
    };
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++)
        if (strncmp(line, beginnings[i], strlen(beginnings[i])) == 0) {
            ready += strcmp(line, "m-ready") == 0;
            return;
        }
    abort();
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] == '\n') {
            if (line_length == 0 || line[line_length - 1u] != '\r')
                abort();
            line[line_length - 1u] = 0;
            check_line();
            line_length = 0;
        } else {
            if (line_length == LINE_BYTES || ((bytes[i] < ' ' || bytes[i] > '~') && bytes[i] != '\r'))
                abort();
            line[line_length++] = (char)bytes[i];
        }
    }
}

uint64_t port_cycles(void)
{
    static uint64_t cycles;
    cycles += 1u << 20;
    return cycles;
}

static void infer(const void *input, void *output, uint8_t *arena)
{
    spend();
    memcpy(arena, input, IO_BYTES);
    memcpy(output, arena, IO_BYTES);
}

const lab_model_t lab_model = {
    .name = "fuzz",
    .input_bytes = IO_BYTES,
    .output_bytes = IO_BYTES,
    .arena_bytes = LAB_MODEL_ARENA_BYTES,
    .infer = infer,
    .output_scale = 0.5f,
    .output_zero_point = 3,
    .input_scale = 0.5f,
    .input_zero_point = 3,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    work = 0;
    line_length = 0;
    ready = 0;
    if (setjmp(restart) != 0)
        return 0;
    dut_init();
    if (ready != 1)
        abort();
    for (size_t i = 0; i < size; i++) {
        size_t before = ready;
        dut_receive(data[i]);
        if (line_length != 0 || ready - before != (data[i] == '%'))
            abort();
    }
    return 0;
}
