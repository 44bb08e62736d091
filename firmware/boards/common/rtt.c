/*
 * The runner's line as two rings in RAM that a debug probe reads and writes while the core runs, in the layout of
 * SEGGER's Real Time Transfer (RTT): pyOCD, J-Link and OpenOCD know it too. With LAB_CONSOLE=rtt the build takes
 * port_read(), port_write() and port_idle() from here; those of the board's UART are compiled under other names.
 *
 * The control block: id[16], number of up rings, number of down rings, then the rings. A ring with read == written is
 * empty, so one of its bytes always stays free.
 */
#include "board.h"
#include "port.h"

#include <stdbool.h>

#ifndef BOARD_RTT_BYTES
#define BOARD_RTT_BYTES 1024u
#endif

#define ID_BYTES 16u
#define BLOCK_IF_FULL 2u

typedef struct {
    const char *name;
    uint8_t *bytes;
    uint32_t size;
    volatile uint32_t written; /* offset; moved by who writes */
    volatile uint32_t read;    /* offset; moved by who reads */
    uint32_t flags;
} ring_t;

typedef struct {
    volatile char id[ID_BYTES];
    uint32_t up_rings;
    uint32_t down_rings;
    ring_t up;   /* to the host */
    ring_t down; /* from the host */
} control_block_t;

/* The name by which every tool finds it. Survives a reset, and with it the last words of firmware that crashed. */
control_block_t _SEGGER_RTT __attribute__((section(".noinit")));
static uint8_t up_bytes[BOARD_RTT_BYTES] __attribute__((section(".noinit")));
static uint8_t down_bytes[BOARD_RTT_BYTES] __attribute__((section(".noinit")));
static const char id[ID_BYTES] = "SEGGER RTT";
static bool started;

static void order_memory(void)
{
    __asm__ volatile("dmb" ::: "memory");
}

/* Whether the block is one that this image left before a reset; RAM holds anything after power-up. */
static bool is_ours(const control_block_t *block)
{
    for (uint32_t i = 0; i < ID_BYTES; i++)
        if (block->id[i] != id[i])
            return false;
    return block->up.bytes == up_bytes && block->up.size == sizeof up_bytes && block->up.written < sizeof up_bytes &&
           block->up.read < sizeof up_bytes && block->down.bytes == down_bytes &&
           block->down.size == sizeof down_bytes && block->down.written < sizeof down_bytes;
}

static void start(void)
{
    control_block_t *block = &_SEGGER_RTT;
    started = true;
    if (is_ours(block)) {
        block->down.read = block->down.written;
        return;
    }
    for (uint32_t i = 0; i < ID_BYTES; i++)
        block->id[i] = 0;
    order_memory();
    block->up_rings = 1;
    block->down_rings = 1;
    block->up = (ring_t){"runner", up_bytes, sizeof up_bytes, 0, 0, BLOCK_IF_FULL};
    block->down = (ring_t){"runner", down_bytes, sizeof down_bytes, 0, 0, BLOCK_IF_FULL};
    /* The host takes the block for valid once it finds the id. */
    order_memory();
    for (uint32_t i = 0; i < ID_BYTES; i++)
        block->id[i] = id[i];
    order_memory();
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    ring_t *ring = &_SEGGER_RTT.down;
    if (!started)
        start();
    uint32_t read = ring->read, written = ring->written;
    size_t count = 0;
    order_memory();
    while (count < capacity && read != written) {
        bytes[count++] = ring->bytes[read];
        read = read + 1 < ring->size ? read + 1 : 0;
    }
    order_memory();
    ring->read = read;
    return count;
}

/* No interrupt tells that the probe has written: the runner looks again. */
void port_idle(void)
{
}

/* Waits for the host where the ring is full, as a UART would for its line. */
void port_write(const uint8_t *bytes, size_t count)
{
    ring_t *ring = &_SEGGER_RTT.up;
    if (!started)
        start();
    uint32_t written = ring->written;
    for (size_t i = 0; i < count; i++) {
        uint32_t next = written + 1 < ring->size ? written + 1 : 0;
        if (next == ring->read) {
            order_memory();
            ring->written = written;
            while (next == ring->read)
                continue;
        }
        ring->bytes[written] = bytes[i];
        written = next;
    }
    order_memory();
    ring->written = written;
}
