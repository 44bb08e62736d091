/* What a board provides to the runner. Each board folder implements this once; the runner knows no board. */
#ifndef LAB_PORT_H
#define LAB_PORT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *board;      /* file name in device_configs/boards */
    const char *clock_kind; /* dwt, systick, cntvct, monotonic or virtual */
    uint32_t clock_hz;
    uint8_t *blob_store; /* 16-byte aligned */
    uint32_t blob_bytes;
    uint32_t blob_address; /* where a memory port sees blob_store; 0 where there is no such port */
    uint32_t *stack;       /* lowest word */
    uint32_t stack_bytes;
    volatile uint32_t *marker; /* register of the marker line: one store per edge */
} lab_port_t;

extern const lab_port_t lab_port;

/* Reads what has arrived, at most `capacity` bytes; may return 0, may block until something arrives. */
size_t port_read(uint8_t *bytes, size_t capacity);

/* Sleeps until a byte may have arrived. Spurious returns are allowed. */
void port_idle(void);

void port_write(const uint8_t *bytes, size_t count);

/* The second line of an emulated board, which carries marker frames; does nothing where there is none. */
void port_write_marker(const uint8_t *bytes, size_t count);

/* Cycles of the board's clock since boot. Takes the same path, and so the same time, on every call. */
uint64_t port_cycles(void);

void port_reset(void) __attribute__((noreturn));

#ifdef LAB_TEST_JOBS
/* Puts the processor where it cannot even report a fault. */
void port_lockup(void) __attribute__((noreturn));
#endif

/* The runner itself, called by the board's start-up code on the painted stack. */
void lab_main(void) __attribute__((noreturn));

#endif
