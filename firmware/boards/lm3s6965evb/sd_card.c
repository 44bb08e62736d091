/* Images of constants on an SD card in SPI mode (Physical Layer Simplified Specification, chapter 7) behind a PL022 (Arm
 * DDI 0194). The card's first block is a mark, so that a card that holds something else is never written to. */
#include "sd_card.h"

#include "board.h"
#include "cortex_m.h"
#include "lab_stored_read.h"
#include "port.h"
#include "session.h"

#include <stdbool.h>
#include <string.h>

#define SSI_CONTROL0 0x00u
#define SSI_CONTROL1 0x04u
#define SSI_DATA 0x08u
#define SSI_STATUS 0x0Cu
#define SSI_PRESCALE 0x10u
#define CONTROL0_8_BITS 7u
#define CONTROL1_ENABLE (1u << 1)
#define STATUS_RECEIVED (1u << 2)
#define FIFO 8u
/* Cards begin at 400 kHz at most, and go to 25 MHz: half of the core's clock here. */
#define PRESCALE_SLOW 126u
#define PRESCALE_FAST 2u

#define BLOCK 512u
#define MOST_IMAGES 16u
#define PATIENCE 100000u
#define IDLE 0xFFu
#define R1_READY 0x00u
#define R1_IDLE 0x01u
#define TOKEN 0xFEu
#define GO_IDLE 0u
#define SEND_CONDITION 8u
#define SET_BLOCK_LENGTH 16u
#define READ_BLOCK 17u
#define WRITE_BLOCK 24u
#define APPLICATION 55u
#define APPLICATION_START 41u
#define READ_OCR 58u
#define HIGH_CAPACITY (1u << 30)

static const char mark[16] = "lab: images";
static struct {
    const uint8_t *stored;
    uint32_t block;
} images[MOST_IMAGES];
static uint32_t next_block;
static bool by_blocks;

static void fail(const char *why)
{
    static const session_fault_t nothing = {NULL, NULL, 0, NULL, 0};
    session_crash("crash", why, &nothing);
    port_reset();
}

static uint8_t swap(uint8_t byte)
{
    REGISTER(BOARD_SSI + SSI_DATA) = byte;
    while (!(REGISTER(BOARD_SSI + SSI_STATUS) & STATUS_RECEIVED))
        continue;
    return (uint8_t)REGISTER(BOARD_SSI + SSI_DATA);
}

/* A whole number of FIFOs. */
static void receive(uint8_t *to, uint32_t bytes)
{
    for (uint32_t done = 0; done < bytes; done += FIFO) {
        for (uint32_t i = 0; i < FIFO; i++)
            REGISTER(BOARD_SSI + SSI_DATA) = IDLE;
        for (uint32_t i = 0; i < FIFO; i++) {
            while (!(REGISTER(BOARD_SSI + SSI_STATUS) & STATUS_RECEIVED))
                continue;
            to[done + i] = (uint8_t)REGISTER(BOARD_SSI + SSI_DATA);
        }
    }
}

static uint8_t command(uint8_t number, uint32_t argument, uint8_t check)
{
    swap(IDLE);
    swap((uint8_t)(0x40u | number));
    for (uint32_t shift = 32; shift > 0; shift -= 8)
        swap((uint8_t)(argument >> (shift - 8)));
    swap(check);
    for (uint32_t i = 0; i < 16; i++) {
        uint8_t answer = swap(IDLE);
        if (!(answer & 0x80u))
            return answer;
    }
    return IDLE;
}

static uint32_t rest_of_answer(void)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < 4; i++)
        value = value << 8 | swap(IDLE);
    return value;
}

static void await(uint8_t wanted)
{
    for (uint32_t i = 0; i < PATIENCE; i++)
        if (swap(IDLE) == wanted)
            return;
    fail("the SD card does not answer");
}

static uint32_t address(uint32_t block)
{
    return by_blocks ? block : block * BLOCK;
}

static void read_block(uint32_t block, uint8_t *to, uint32_t bytes)
{
    if (command(READ_BLOCK, address(block), IDLE) != R1_READY)
        fail("the SD card refuses to read");
    await(TOKEN);
    uint32_t whole = bytes / FIFO * FIFO;
    receive(to, whole);
    for (uint32_t i = whole; i < BLOCK + 2u; i++) {
        uint8_t byte = swap(IDLE);
        if (i < bytes)
            to[i] = byte;
    }
}

static void write_block(uint32_t block, const uint8_t *from, uint32_t bytes)
{
    if (command(WRITE_BLOCK, address(block), IDLE) != R1_READY)
        fail("the SD card refuses to write");
    swap(IDLE);
    swap(TOKEN);
    for (uint32_t i = 0; i < BLOCK + 2u; i++)
        swap(i < bytes ? from[i] : IDLE);
    if ((swap(IDLE) & 0x1Fu) != 0x05u)
        fail("the SD card has not taken a block");
    await(IDLE);
}

static void start_card(void)
{
    card_power();
    card_select(false);
    REGISTER(BOARD_SSI + SSI_CONTROL1) = 0;
    REGISTER(BOARD_SSI + SSI_PRESCALE) = PRESCALE_SLOW;
    REGISTER(BOARD_SSI + SSI_CONTROL0) = CONTROL0_8_BITS;
    REGISTER(BOARD_SSI + SSI_CONTROL1) = CONTROL1_ENABLE;
    for (uint32_t i = 0; i < 10; i++)
        swap(IDLE);
    card_select(true);
    if (command(GO_IDLE, 0, 0x95u) != R1_IDLE)
        fail("there is no SD card");
    if (command(SEND_CONDITION, 0x1AAu, 0x87u) == R1_IDLE)
        (void)rest_of_answer();
    uint32_t patience = PATIENCE;
    do {
        if (patience-- == 0)
            fail("the SD card does not start");
        (void)command(APPLICATION, 0, IDLE);
    } while (command(APPLICATION_START, HIGH_CAPACITY, IDLE) != R1_READY);
    /* QEMU's card still calls itself idle here. */
    if (command(READ_OCR, 0, IDLE) <= R1_IDLE)
        by_blocks = (rest_of_answer() & HIGH_CAPACITY) != 0;
    if (!by_blocks && command(SET_BLOCK_LENGTH, BLOCK, IDLE) != R1_READY)
        fail("the SD card does not take blocks of 512 bytes");
    REGISTER(BOARD_SSI + SSI_PRESCALE) = PRESCALE_FAST;
}

/* A card that is empty or has our mark. */
static void claim_card(void)
{
    static const char empty[sizeof mark];
    uint8_t found[sizeof mark];
    start_card();
    read_block(0, found, sizeof found);
    if (memcmp(found, mark, sizeof mark) != 0 && memcmp(found, empty, sizeof empty) != 0)
        fail("the SD card holds something else than images: fill its first block with zeros");
    write_block(0, (const uint8_t *)mark, sizeof mark);
    next_block = 1;
}

static uint32_t block_of(const uint8_t *stored, uint32_t bytes)
{
    if (next_block == 0)
        claim_card();
    for (uint32_t i = 0; i < MOST_IMAGES; i++) {
        if (images[i].stored == stored)
            return images[i].block;
        if (images[i].stored != NULL)
            continue;
        images[i].block = next_block;
        images[i].stored = stored;
        for (uint32_t done = 0; done < bytes; done += BLOCK)
            write_block(next_block++, stored + done, bytes - done < BLOCK ? bytes - done : BLOCK);
        return images[i].block;
    }
    fail("there are more images of constants than the card's driver keeps");
    return 0;
}

void lab_stored_read(uint8_t *to, const uint8_t *stored, uint32_t bytes)
{
    uint32_t block = block_of(stored, bytes);
    for (uint32_t done = 0; done < bytes; done += BLOCK)
        read_block(block++, to + done, bytes - done < BLOCK ? bytes - done : BLOCK);
}
