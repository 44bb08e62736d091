#include "dut.h"

#include "benchmark.h"
#include "build_id.h"
#include "lab_model.h"
#include "memory.h"
#include "port.h"
#include "session.h"
#include "text.h"
#include "timestamp.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#ifndef LAB_MLPERF_MODEL
#error "LAB_MLPERF_MODEL is set by the build"
#endif

#define COMMAND_CHARACTERS 80u
#define MAX_WORDS 4u
/* The benchmark's least: a 96 x 96 colour image. */
#define BUFFER_BYTES (96u * 96u * 3u)
#define MAX_INFERENCES 10000000u
#define BYTES_PER_LINE 8u

static const benchmark_t *const benchmark = &BENCHMARK_OF(LAB_MLPERF_MODEL);

static char command[COMMAND_CHARACTERS + 1u];
static uint32_t command_length;

/* In the board's blob store: what the client loads, the input tensor, the output. */
static uint8_t *loaded;
static int8_t *input;
static int8_t *output;
static uint32_t capacity;

static uint32_t announced;
static uint32_t received;
static bool has_results;

/* ---- answers ---- */

static void say(const char *line)
{
    text_string(line);
    text_line();
}

static void say_number(const char *prefix, uint32_t number)
{
    text_string(prefix);
    text_uint(number);
    text_line();
}

static void refuse(const char *why)
{
    text_string("e-[");
    text_string(why);
    say("]");
}

static void refuse_word(const char *why, const char *word)
{
    text_string("e-[");
    text_string(why);
    text_string(" '");
    text_quoted(word);
    say("']");
}

static void refuse_range(const char *what, uint32_t least, uint32_t most)
{
    text_string("e-[");
    text_string(what);
    text_string(" takes a number from ");
    text_uint(least);
    text_string(" to ");
    text_uint(most);
    say("]");
}

static void say_results(void)
{
    text_string("m-results-[");
    benchmark->put_results(loaded, output);
    say("]");
}

/* ---- reading ---- */

/* True for decimal digits that make a number of at most `most`. */
static bool read_number(const char *word, uint32_t most, uint32_t *number)
{
    uint64_t value = 0;
    for (const char *at = word; *at; at++) {
        if (*at < '0' || *at > '9')
            return false;
        value = value * 10u + (uint32_t)(*at - '0');
        if (value > most)
            return false;
    }
    *number = (uint32_t)value;
    return *word != 0;
}

/* The value of a hex digit, 16 for any other character. */
static uint32_t hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return (uint32_t)(digit - '0');
    if (digit >= 'a' && digit <= 'f')
        return (uint32_t)(digit - 'a') + 10u;
    if (digit >= 'A' && digit <= 'F')
        return (uint32_t)(digit - 'A') + 10u;
    return 16u;
}

/* ---- db ---- */

static void db_load(const char *count)
{
    uint32_t bytes;
    if (!read_number(count, capacity, &bytes) || bytes == 0) {
        refuse_range("db load", 1, capacity);
        return;
    }
    announced = bytes;
    received = 0;
    has_results = false;
    text_string("m-[Expecting ");
    text_uint(bytes);
    say(" bytes]");
}

static void db_print(void)
{
    for (uint32_t i = 0; i < received; i++) {
        text_string(i % BYTES_PER_LINE == 0 ? "m-buffer-" : "-");
        text_hex(loaded[i], 2);
        if ((i + 1u) % BYTES_PER_LINE == 0 || i + 1u == received)
            text_line();
    }
}

/* All of a command's bytes or, where something is wrong, none of them. */
static void db_bytes(const char *digits)
{
    size_t count = strlen(digits);
    for (size_t i = 0; i < count; i++)
        if (hex_value(digits[i]) > 15u) {
            refuse_word("not all hex digits:", digits);
            return;
        }
    if (count % 2u != 0) {
        refuse("odd number of hex digits");
        return;
    }
    if (count / 2u > announced - received) {
        text_string("e-[");
        text_uint(announced - received);
        text_string(" bytes are expected, these are ");
        text_uint(count / 2u);
        say("]");
        return;
    }
    for (size_t i = 0; i < count; i += 2u)
        loaded[received++] = (uint8_t)(hex_value(digits[i]) << 4 | hex_value(digits[i + 1u]));
    if (received == announced)
        say("m-load-done");
}

/* ---- commands ---- */

static void run_name(char *const *words, uint32_t count)
{
    (void)words;
    (void)count;
    text_string("m-name-dut-[hil-lab ");
    text_string(lab_port.board);
    say("]");
}

static void run_profile(char *const *words, uint32_t count)
{
    (void)words;
    (void)count;
    say("m-profile-[ULPMark for tinyML Firmware V0.0.1]");
    text_string("m-model-[");
    text_string(benchmark->id);
    say("]");
}

static void run_timestamp(char *const *words, uint32_t count)
{
    (void)words;
    (void)count;
    timestamp();
}

static void run_db(char *const *words, uint32_t count)
{
    if (count == 3u && strcmp(words[1], "load") == 0)
        db_load(words[2]);
    else if (count == 2u && strcmp(words[1], "print") == 0)
        db_print();
    else if (count == 2u && strcmp(words[1], "load") != 0)
        db_bytes(words[1]);
    else
        refuse("db takes 'load N', 'print' or hex digits");
}

static void run_infer(char *const *words, uint32_t count)
{
    uint32_t inferences;
    uint32_t warmups;
    uint32_t needed = lab_model.input_bytes * benchmark->bytes_per_value;
    if (count != 3u || !read_number(words[1], MAX_INFERENCES, &inferences) || inferences == 0 ||
        !read_number(words[2], MAX_INFERENCES, &warmups)) {
        text_string("e-[infer takes N from 1 and W from 0, both to ");
        text_uint(MAX_INFERENCES);
        say("]");
        return;
    }
    if (announced != needed || received != needed) {
        text_string("e-[infer needs ");
        text_uint(needed);
        text_string(" bytes, ");
        text_uint(received);
        text_string(" of ");
        text_uint(announced);
        say(" are loaded]");
        return;
    }
    benchmark->fill_input(loaded, input);
    say_number("m-warmup-start-", warmups);
    for (uint32_t i = 0; i < warmups; i++)
        lab_model.infer(input, output, lab_arena);
    say("m-warmup-done");
    say_number("m-infer-start-", inferences);
    timestamp();
    timestamp_work(true);
    for (uint32_t i = 0; i < inferences; i++)
        lab_model.infer(input, output, lab_arena);
    timestamp_work(false);
    timestamp();
    say("m-infer-done");
    has_results = true;
    say_results();
    if (!memory_arena_guard_intact())
        refuse("the arena overflowed");
}

static void run_results(char *const *words, uint32_t count)
{
    (void)words;
    (void)count;
    if (has_results)
        say_results();
    else
        refuse("no inference has run since the last load");
}

static void run_help(char *const *words, uint32_t count)
{
    (void)words;
    (void)count;
    text_string("hil-lab firmware ");
    text_string(lab_build_id);
    say(", MLPerf Tiny protocol; a command ends with a percent sign");
    say("name, profile, timestamp, results, help");
    say("db load N: N bytes follow; db HH...: some of them in hex; db print: those that came");
    say("infer N W: N inferences after W that are not timed");
}

typedef struct {
    const char *name;
    uint32_t most_words;
    void (*run)(char *const *words, uint32_t count);
} entry_t;

static const entry_t entries[] = {
    {"name", 1, run_name},           {"profile", 1, run_profile}, {"timestamp", 1, run_timestamp},
    {"db", MAX_WORDS, run_db},       {"infer", MAX_WORDS, run_infer}, {"results", 1, run_results},
    {"help", 1, run_help},
};

/* ---- the line ---- */

/* Cuts `command` at its spaces; returns how many words there are, MAX_WORDS + 1 where there are more. */
static uint32_t split(char *words[MAX_WORDS])
{
    uint32_t count = 0;
    bool inside = false;
    for (char *at = command; *at; at++) {
        if (*at == ' ') {
            *at = 0;
            inside = false;
        } else if (!inside) {
            if (count == MAX_WORDS)
                return count + 1u;
            words[count++] = at;
            inside = true;
        }
    }
    return count;
}

static void obey(void)
{
    char *words[MAX_WORDS];
    uint32_t count = split(words);
    if (count == 0) {
        refuse("empty command");
        return;
    }
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        if (strcmp(words[0], entries[i].name) != 0)
            continue;
        if (count > entries[i].most_words)
            refuse_word("too many words after", words[0]);
        else
            entries[i].run(words, count);
        return;
    }
    refuse_word("unknown command", words[0]);
}

void dut_receive(uint8_t byte)
{
    if (byte != '%') {
        if (command_length < COMMAND_CHARACTERS)
            command[command_length] = byte == 0 ? '?' : (char)byte;
        if (command_length <= COMMAND_CHARACTERS)
            command_length++;
        return;
    }
    if (command_length > COMMAND_CHARACTERS) {
        refuse("a command has at most 80 characters");
    } else {
        command[command_length] = 0;
        obey();
    }
    command_length = 0;
    say("m-ready");
}

void dut_init(void)
{
    uint32_t input_bytes = (lab_model.input_bytes + 15u) & ~15u;
    uint32_t needed = BUFFER_BYTES + input_bytes + lab_model.output_bytes;
    loaded = lab_port.blob_store;
    input = (int8_t *)loaded + BUFFER_BYTES;
    /* Aligned like the input, whatever its size. */
    output = input + input_bytes;
    capacity = lab_port.blob_bytes >= needed ? BUFFER_BYTES : 0;
    command_length = announced = received = 0;
    has_results = false;
    if (lab_model.training != 0)
        lab_training_reset(lab_model.training);
    memory_paint_arena();
    text_string("m-timestamp-mode-");
    say(timestamp_mode);
    timestamp_init();
    timestamp();
    say("m-init-done");
    say("m-ready");
}

/* What the boards' fault handlers call; they reset the board afterwards. */
void session_crash(const char *code, const char *message, const session_fault_t *fault)
{
    /* Ends whatever line was being said. */
    text_line();
    text_string("e-[");
    text_string(code);
    text_string(": ");
    text_string(message);
    for (uint32_t i = 0; i < fault->count; i++) {
        text_string(" ");
        text_string(fault->names[i]);
        text_string("=0x");
        text_hex(fault->values[i], 8);
    }
    say("]");
}
