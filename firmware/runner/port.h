/* What a board provides to the runner. Each board folder implements this once; the runner knows no board. */
#ifndef LAB_PORT_H
#define LAB_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *board;      /* file name in device_configs/boards */
    const char *clock_kind; /* dwt, systick, cntvct, monotonic or virtual */
    uint32_t clock_hz;      /* at full clock */
    const uint32_t *clock_hz_now; /* what the clock tree came up with; NULL where that is always clock_hz */
    uint8_t *blob_store; /* 16-byte aligned */
    uint32_t blob_bytes;
    uint32_t blob_address; /* where a memory port sees blob_store; 0 where there is no such port */
    uint32_t *stack;       /* lowest word */
    uint32_t stack_bytes;
    volatile uint32_t *marker; /* register of the marker line: one store of PORT_MARKER_WORD() per edge */
    /* A UART whose rate can be changed, where there is one: what it can do, from 38400 bits per second, the rate it has
     * after a reset first. set_baud() returns once all that was written has left and the new rate holds. */
    const uint32_t *baud_rates;
    uint32_t baud_rate_count;
    void (*set_baud)(uint32_t baud);
} lab_port_t;

extern const lab_port_t lab_port;

static inline uint32_t port_clock_hz(void)
{
    return lab_port.clock_hz_now != NULL ? *lab_port.clock_hz_now : lab_port.clock_hz;
}

/*
 * What to store for a mark of two bits. board.cmake says where these bits stand (LAB_BOARD_DEFINITIONS): at
 * LAB_MARKER_SHIFT; a register that sets and clears pins wants those that are 0 at LAB_MARKER_CLEAR_SHIFT.
 * Constants, so that an edge costs the same on every board.
 */
#ifndef LAB_MARKER_SHIFT
#define LAB_MARKER_SHIFT 0u
#endif
#ifdef LAB_MARKER_CLEAR_SHIFT
#define PORT_MARKER_WORD(mark) ((mark) << LAB_MARKER_SHIFT | (3u & ~(mark)) << LAB_MARKER_CLEAR_SHIFT)
#else
#define PORT_MARKER_WORD(mark) ((mark) << LAB_MARKER_SHIFT)
#endif

/* Reads what has arrived, at most `capacity` bytes; may return 0, may block until something arrives. */
size_t port_read(uint8_t *bytes, size_t capacity);

/* Sleeps until a byte may have arrived. Spurious returns are allowed. */
void port_idle(void);

/*
 * Sleeps until so many cycles of port_cycles() are about to have passed, or something else wakes the core; the clock is
 * right afterwards. False, and no sleep, where nothing could end one in time: no timer for it, or too little time left.
 */
bool port_doze(uint64_t cycles);

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
