/* CMSDK UART, CMSDK timer and CMSDK dual timer (Arm DDI 0479), FPGAIO LEDs (Arm DAI 0385/0386). */
#include "mps2.h"

#include "board.h"
#include "cortex_m.h"
#include "port.h"

#define UART_DATA 0x0u
#define UART_STATE 0x4u
#define UART_CTRL 0x8u
#define UART_INTSTATUS 0xCu
#define UART_BAUDDIV 0x10u

#define STATE_TX_FULL (1u << 0)
#define STATE_RX_FULL (1u << 1)
#define CTRL_TX_ENABLE (1u << 0)
#define CTRL_RX_ENABLE (1u << 1)
#define CTRL_RX_INTERRUPT (1u << 3)
#define INTERRUPT_RX (1u << 1)

#define TIMER_CTRL 0x0u
#define TIMER_VALUE 0x4u
#define TIMER_RELOAD 0x8u

#define DUAL_VALUE 0x4u
#define DUAL_CONTROL 0x8u
#define DUAL_ENABLE (1u << 7)
#define DUAL_PRESCALE_256 (2u << 2)
#define DUAL_32_BIT (1u << 1)

/* ---- clock ---- */

static uint32_t last_fine;
static uint32_t last_coarse;
static uint64_t cycles;

static void start_clock(void)
{
    REGISTER(BOARD_TIMER + TIMER_RELOAD) = UINT32_MAX;
    REGISTER(BOARD_TIMER + TIMER_VALUE) = UINT32_MAX;
    REGISTER(BOARD_DUAL_TIMER + DUAL_CONTROL) = DUAL_32_BIT | DUAL_PRESCALE_256;
    REGISTER(BOARD_DUAL_TIMER + DUAL_CONTROL) = DUAL_ENABLE | DUAL_32_BIT | DUAL_PRESCALE_256;
    REGISTER(BOARD_TIMER + TIMER_CTRL) = 1;
    last_coarse = ~REGISTER(BOARD_DUAL_TIMER + DUAL_VALUE);
    last_fine = ~REGISTER(BOARD_TIMER + TIMER_VALUE);
}

/*
 * Instructions since boot. QEMU runs with -icount shift=7: an instruction takes 128 ns, a 25 MHz tick 40 ns, so n
 * instructions are 3.2 n ticks, less than one tick off; the nearest n is therefore exact between any two reads with
 * no sleep between them. Each read adds its own rounded difference: rounding absolute ticks would not be exact, since
 * a sleep ends anywhere between two ticks.
 *
 * The fine timer wraps after 1.3 G instructions. The coarse one counts the same ticks divided by 256 and tells how
 * often the fine one wrapped between two reads. Straight-line code: every read costs the same.
 */
uint64_t port_cycles(void)
{
    uint32_t coarse = ~REGISTER(BOARD_DUAL_TIMER + DUAL_VALUE);
    uint32_t fine = ~REGISTER(BOARD_TIMER + TIMER_VALUE);
    uint64_t about = (uint64_t)(uint32_t)(coarse - last_coarse) << 8;
    uint64_t ticks = (uint32_t)(fine - last_fine);
    ticks += (about - ticks + 0x80000000u) & 0xFFFFFFFF00000000u;
    cycles += (ticks * 5u + 8u) >> 4;
    last_coarse = coarse;
    last_fine = fine;
    return cycles;
}

/* ---- lines ---- */

void mps2_init(void)
{
    REGISTER(BOARD_UART0 + UART_BAUDDIV) = 16;
    REGISTER(BOARD_UART0 + UART_CTRL) = CTRL_TX_ENABLE | CTRL_RX_ENABLE;
    REGISTER(BOARD_UART1 + UART_BAUDDIV) = 16;
    REGISTER(BOARD_UART1 + UART_CTRL) = CTRL_TX_ENABLE;
    start_clock();
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && (REGISTER(BOARD_UART0 + UART_STATE) & STATE_RX_FULL))
        bytes[count++] = (uint8_t)REGISTER(BOARD_UART0 + UART_DATA);
    return count;
}

void port_idle(void)
{
    /* With interrupts masked a pending one still ends WFI, so nothing is lost between the check and the sleep. The
     * UART raises its interrupt only for a byte that arrives while it is enabled: look once after enabling. */
    __asm__ volatile("cpsid i" ::: "memory");
    REGISTER(BOARD_UART0 + UART_CTRL) = CTRL_TX_ENABLE | CTRL_RX_ENABLE | CTRL_RX_INTERRUPT;
    NVIC_ENABLE(BOARD_UART0_RX_IRQ) = NVIC_BIT(BOARD_UART0_RX_IRQ);
    if (!(REGISTER(BOARD_UART0 + UART_STATE) & STATE_RX_FULL))
        __asm__ volatile("dsb\n wfi" ::: "memory");
    REGISTER(BOARD_UART0 + UART_CTRL) = CTRL_TX_ENABLE | CTRL_RX_ENABLE;
    REGISTER(BOARD_UART0 + UART_INTSTATUS) = INTERRUPT_RX;
    NVIC_CLEAR_PENDING(BOARD_UART0_RX_IRQ) = NVIC_BIT(BOARD_UART0_RX_IRQ);
    __asm__ volatile("cpsie i" ::: "memory");
}

static void write_line(uint32_t uart, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (REGISTER(uart + UART_STATE) & STATE_TX_FULL)
            continue;
        REGISTER(uart + UART_DATA) = bytes[i];
    }
}

void port_write(const uint8_t *bytes, size_t count)
{
    write_line(BOARD_UART0, bytes, count);
}

void port_write_marker(const uint8_t *bytes, size_t count)
{
    write_line(BOARD_UART1, bytes, count);
}
