#include "rp2040.h"

#include "board.h"
#include "cortex_m.h"
#include "port.h"

/* RP2040 data sheet: 2.14 resets, 2.15 clocks, 2.16 crystal oscillator, 2.18 PLL, 2.19 GPIO, 2.3.1 SIO, 4.2 UART,
 * 4.6 timer, 4.7 watchdog (whose tick drives the timer). */
#define RESETS_RESET 0x4000C000u
#define RESETS_DONE 0x4000C008u
#define CLOCKS_REF_CTRL 0x40008030u
#define CLOCKS_REF_DIV 0x40008034u
#define CLOCKS_REF_SELECTED 0x40008038u
#define CLOCKS_SYS_CTRL 0x4000803Cu
#define CLOCKS_SYS_DIV 0x40008040u
#define CLOCKS_SYS_SELECTED 0x40008044u
#define CLOCKS_PERI_CTRL 0x40008048u
#define CLOCKS_RESUS_CTRL 0x40008078u
#define XOSC_CTRL 0x40024000u
#define XOSC_STATUS 0x40024004u
#define XOSC_STARTUP 0x4002400Cu
#define PLL_CS 0x40028000u
#define PLL_PWR 0x40028004u
#define PLL_FBDIV 0x40028008u
#define PLL_PRIM 0x4002800Cu
#define WATCHDOG_TICK 0x4005802Cu
#define GPIO_CTRL(pin) (0x40014004u + 8u * (pin))
#define PAD(pin) (0x4001C004u + 4u * (pin))
#define SIO_GPIO_OE_SET 0xD0000024u
#define UART_DR 0x40034000u
#define UART_FR 0x40034018u
#define UART_IBRD 0x40034024u
#define UART_FBRD 0x40034028u
#define UART_LCR_H 0x4003402Cu
#define UART_CR 0x40034030u
#define UART_IFLS 0x40034034u
#define UART_IMSC 0x40034038u
#define UART_IRQ 20u

#define RESET_IO_BANK0 (1u << 5)
#define RESET_PADS_BANK0 (1u << 8)
#define RESET_PLL_SYS (1u << 12)
#define RESET_TIMER (1u << 21)
#define RESET_UART0 (1u << 22)

#define DIVIDE_BY_1 (1u << 8)
#define REF_FROM_ROSC 0u
#define REF_FROM_XOSC 2u
#define SYS_FROM_REF 0u
#define SYS_FROM_PLL 1u
#define PERI_ENABLE (1u << 11) /* from the system clock */
#define XOSC_1_TO_15_MHZ 0xAA0u
#define XOSC_ENABLE (0xFABu << 12)
#define XOSC_STABLE (1u << 31)
/* In units of 256 periods, rounded up: 1 ms. */
#define XOSC_STARTUP_DELAY ((BOARD_CRYSTAL_HZ / 1000u + 255u) / 256u)
#define PLL_LOCKED (1u << 31)
#define PLL_DSM_OFF (1u << 2) /* no fractions */
#define PLL_DIVIDERS_OFF (1u << 3)
#define TICK_ENABLE (1u << 9)
#define FUNCTION_UART 2u
#define FUNCTION_SIO 5u
#define PAD_INPUT_PULLED_UP 0x5Au /* as at reset (input on, Schmitt trigger, 4 mA), but pulled up */
#define FR_BUSY (1u << 3)
#define FR_RX_EMPTY (1u << 4)
#define FR_TX_FULL (1u << 5)
#define LCR_8_BITS_FIFO 0x70u
#define CR_ENABLE_RX_TX 0x301u
#define IFLS_RX_AT_4_OF_32 0u
#define INTERRUPTS_RX 0x50u /* at the level above, and when fewer bytes have waited for 32 bit periods */

const uint32_t rp2040_baud_rates[RP2040_BAUD_RATES] = {115200, 230400, 460800, 921600};

/* The receiver's own buffer has 32 bytes: the interrupt empties it into this ring. */
static volatile uint8_t ring[BOARD_UART_RING_BYTES];
static volatile uint32_t ring_written;
static volatile uint32_t ring_read;

static void wait_until(uint32_t address, uint32_t bits)
{
    while ((REGISTER(address) & bits) != bits)
        continue;
}

/* A reset of the core alone leaves the peripherals as they were. */
static void reset_blocks(uint32_t blocks)
{
    REGISTER(RESETS_RESET) |= blocks;
    REGISTER(RESETS_RESET) &= ~blocks;
    wait_until(RESETS_DONE, blocks);
}

static void start_crystal(void)
{
    REGISTER(XOSC_CTRL) = XOSC_1_TO_15_MHZ;
    REGISTER(XOSC_STARTUP) = XOSC_STARTUP_DELAY;
    REGISTER(XOSC_CTRL) = XOSC_1_TO_15_MHZ | XOSC_ENABLE;
    wait_until(XOSC_STATUS, XOSC_STABLE);
}

static void start_pll(void)
{
    reset_blocks(RESET_PLL_SYS);
    REGISTER(PLL_CS) = 1; /* the crystal, undivided */
    REGISTER(PLL_FBDIV) = BOARD_PLL_MULTIPLIER;
    REGISTER(PLL_PWR) = PLL_DSM_OFF | PLL_DIVIDERS_OFF;
    wait_until(PLL_CS, PLL_LOCKED);
    REGISTER(PLL_PRIM) = BOARD_PLL_DIVIDER1 << 16 | BOARD_PLL_DIVIDER2 << 12;
    REGISTER(PLL_PWR) = PLL_DSM_OFF;
}

static void start_clocks(void)
{
    REGISTER(CLOCKS_RESUS_CTRL) = 0;
    start_crystal();
    /* After a reset of the core alone the PLL still runs the chip: off it, before it is touched. */
    REGISTER(CLOCKS_SYS_CTRL) = SYS_FROM_REF;
    wait_until(CLOCKS_SYS_SELECTED, 1u << SYS_FROM_REF);
    REGISTER(CLOCKS_REF_CTRL) = REF_FROM_XOSC;
    wait_until(CLOCKS_REF_SELECTED, 1u << REF_FROM_XOSC);
    REGISTER(CLOCKS_REF_DIV) = DIVIDE_BY_1;
    start_pll();
    REGISTER(CLOCKS_SYS_DIV) = DIVIDE_BY_1;
    REGISTER(CLOCKS_SYS_CTRL) = SYS_FROM_PLL;
    wait_until(CLOCKS_SYS_SELECTED, 1u << SYS_FROM_PLL);
    REGISTER(CLOCKS_PERI_CTRL) = PERI_ENABLE;
    REGISTER(WATCHDOG_TICK) = TICK_ENABLE | BOARD_CRYSTAL_HZ / 1000000u;
}

void rp2040_set_baud(uint32_t baud)
{
    /* In 64ths of 1/16 of a bit, to the nearest. */
    uint32_t divider = (BOARD_CLOCK_HZ * 4u + baud / 2u) / baud;
    while (REGISTER(UART_FR) & FR_BUSY)
        continue;
    REGISTER(UART_CR) = 0;
    REGISTER(UART_IBRD) = divider / 64u;
    REGISTER(UART_FBRD) = divider % 64u;
    /* The write that takes the divider over. */
    REGISTER(UART_LCR_H) = LCR_8_BITS_FIFO;
    REGISTER(UART_CR) = CR_ENABLE_RX_TX;
}

static void start_uart(void)
{
    REGISTER(UART_IFLS) = IFLS_RX_AT_4_OF_32;
    rp2040_set_baud(rp2040_baud_rates[0]);
    REGISTER(GPIO_CTRL(BOARD_UART_TX_PIN)) = FUNCTION_UART;
    REGISTER(PAD(BOARD_UART_RX_PIN)) = PAD_INPUT_PULLED_UP;
    REGISTER(GPIO_CTRL(BOARD_UART_RX_PIN)) = FUNCTION_UART;
    REGISTER(UART_IMSC) = INTERRUPTS_RX;
    NVIC_ENABLE(UART_IRQ) = NVIC_BIT(UART_IRQ);
}

static void start_marker(void)
{
    REGISTER(RP2040_GPIO_OUT) = 0;
    REGISTER(SIO_GPIO_OE_SET) = 3u << BOARD_MARKER_PIN;
    REGISTER(GPIO_CTRL(BOARD_MARKER_PIN)) = FUNCTION_SIO;
    REGISTER(GPIO_CTRL(BOARD_MARKER_PIN + 1u)) = FUNCTION_SIO;
}

void rp2040_init(void)
{
    start_clocks();
    reset_blocks(RESET_IO_BANK0 | RESET_PADS_BANK0 | RESET_TIMER | RESET_UART0);
    start_marker();
    start_uart();
}

/* A ring that is full stops the interrupt; port_read() starts it again. */
void board_interrupt(void)
{
    while (!(REGISTER(UART_FR) & FR_RX_EMPTY)) {
        if (ring_written - ring_read == BOARD_UART_RING_BYTES) {
            REGISTER(UART_IMSC) = 0;
            return;
        }
        ring[ring_written++ % BOARD_UART_RING_BYTES] = (uint8_t)REGISTER(UART_DR);
    }
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && ring_read != ring_written)
        bytes[count++] = ring[ring_read++ % BOARD_UART_RING_BYTES];
    if (count > 0)
        REGISTER(UART_IMSC) = INTERRUPTS_RX;
    return count;
}

void port_idle(void)
{
    /* With interrupts masked a pending one still ends WFI, so nothing is lost between the check and the sleep. */
    __asm__ volatile("cpsid i" ::: "memory");
    if (ring_read == ring_written)
        __asm__ volatile("dsb\n wfi" ::: "memory");
    __asm__ volatile("cpsie i" ::: "memory");
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (REGISTER(UART_FR) & FR_TX_FULL)
            continue;
        REGISTER(UART_DR) = bytes[i];
    }
}

void port_write_marker(const uint8_t *bytes, size_t count)
{
    (void)bytes;
    (void)count;
}
