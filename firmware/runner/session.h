/* The device side of docs/wire.md: takes bytes, runs jobs, sends frames. One session per device. */
#ifndef LAB_SESSION_H
#define LAB_SESSION_H

#include <stddef.h>
#include <stdint.h>

#define SESSION_NAME_CHARACTERS 255u

/* Resets everything and says hello. */
void session_init(void);

/* Takes one received byte; runs a whole job when the byte completes a `run` frame. */
void session_receive(uint8_t byte);

/* Passes of one region with neighbouring indices share a frame, since a UART counts bytes: they leave with the next frame
 * of another kind, when there are many of them, or with the pass that ends more than a second after the first began. */
void session_event(const char *region, uint32_t index, uint64_t begin, uint64_t end);
/* An event and the result of its pass, which travels along where it is short. */
void session_event_with_result(const char *region, uint32_t index, uint64_t begin, uint64_t end, const uint8_t *data,
                               uint32_t bytes);
/* An event that stands for many passes, one after another. */
void session_window(const char *region, uint32_t index, uint64_t begin, uint64_t end, uint32_t passes);
/* An event and a number that belongs to its pass. */
void session_event_with_metric(const char *region, uint32_t index, uint64_t begin, uint64_t end, const char *name,
                               float value);
void session_metric(const char *name, float value);
void session_result(uint32_t index, const uint8_t *data, uint32_t bytes);
/* A result that carries its name, of at most SESSION_NAME_CHARACTERS. */
void session_named_result(uint32_t index, const char *name, const uint8_t *data, uint32_t bytes);
void session_log(const char *message);
void session_error(const char *code, const char *place, const char *message);

/* The most a CBOR map of one byte's header holds. */
#define SESSION_FAULT_REGISTERS 23u

typedef struct {
    const char *const *names; /* of registers; `count` of them, at most SESSION_FAULT_REGISTERS */
    const uint32_t *values;
    uint32_t count;
    const uint8_t *stack; /* what the host may unwind: from the stack pointer at the fault upwards */
    uint32_t stack_bytes;
} session_fault_t;

/* Reports a fault, whatever was being sent. */
void session_crash(const char *code, const char *message, const session_fault_t *fault);

#endif
