/* What Unicorn calls too often for Python: the instruction counter, at the start of every block, and the permissions of
 * pages. Instructions are counted by class too (instruction_class.h), as the plug-in for QEMU does.
 *
 * Unicorn's `size` is the block's length in bytes; how many instructions that is follows from the first half-word of each
 * (Arm v7-M manual, A5.1: 0b11101, 0b11110 and 0b11111 begin a 32-bit instruction). */
#include <stdint.h>

#include "../instruction_class.h"

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
int __stdcall DllMainCRTStartup(void *instance, unsigned reason, void *reserved);
int __stdcall DllMainCRTStartup(void *instance, unsigned reason, void *reserved)
{
    (void)instance;
    (void)reason;
    (void)reserved;
    return 1;
}
#else
#define EXPORTED
#endif

#define CODE_REGIONS 8u
#define CACHED_BLOCKS 65536u

typedef struct {
    uint32_t start;
    uint32_t end;
    const uint8_t *bytes;
    uint32_t constant; /* whether the guest cannot write there */
} lab_code_t;

typedef struct {
    uint32_t instructions;
    uint32_t classes[LAB_CLASSES];
} lab_sum_t;

typedef struct {
    uint32_t address;
    uint32_t bytes;
    lab_sum_t sum;
} lab_block_t;

typedef struct {
    uint64_t instructions; /* begun up to the end of the running block */
    uint64_t classes[LAB_CLASSES]; /* likewise */
    uint32_t block;                /* the running block: address, bytes, what it holds */
    uint32_t block_bytes;
    lab_sum_t sum;
    uint32_t begun; /* instructions of it that were begun; 0 where it is not watched */
    uint32_t stop;  /* set by another thread: end before the next block */
    uint32_t code_regions;
    uint32_t blocks;  /* 0, or one more than may run before the engine stops */
    uint32_t ended;   /* whether the engine was stopped before a block */
    int32_t epsr;     /* Unicorn's number of that register */
    void (*emu_stop)(void *engine);
    int (*reg_write)(void *engine, int number, const void *value);
    lab_code_t code[CODE_REGIONS];
    lab_block_t cache[CACHED_BLOCKS];
} lab_counter_t;

static const lab_code_t *region_of(const lab_counter_t *counter, uint32_t address)
{
    for (uint32_t i = 0; i < counter->code_regions; i++)
        if (address >= counter->code[i].start && address < counter->code[i].end)
            return &counter->code[i];
    return 0;
}

/* What the code from an address on holds, up to so many bytes and so many instructions. */
static void count(const lab_code_t *region, uint32_t address, uint32_t bytes, uint32_t most, lab_sum_t *sum)
{
    const uint8_t *from = region->bytes + (address - region->start);
    sum->instructions = 0;
    for (int i = 0; i < LAB_CLASSES; i++)
        sum->classes[i] = 0;
    for (uint32_t i = 0; i < bytes && sum->instructions < most; sum->instructions++) {
        uint32_t first = from[i] | (uint32_t)from[i + 1] << 8, second = 0;
        if (lab_is_wide_thumb(first)) {
            second = from[i + 2] | (uint32_t)from[i + 3] << 8;
            i += 2u;
        }
        i += 2u;
        sum->classes[lab_class_of_thumb(first, second)]++;
    }
}

EXPORTED void lab_block_begins(void *engine, uint64_t address, uint32_t bytes, void *context)
{
    lab_counter_t *counter = context;
    uint32_t start = (uint32_t)address;
    lab_block_t *cached = &counter->cache[(start >> 1) % CACHED_BLOCKS];
    if (__atomic_load_n(&counter->stop, __ATOMIC_RELAXED) || counter->blocks == 1) {
        /* Nothing of this block runs: it is counted when it is begun again. */
        counter->ended = 1;
        counter->emu_stop(engine);
        return;
    }
    if (counter->blocks)
        counter->blocks--;
    if (cached->address == start && cached->bytes == bytes && cached->sum.instructions) {
        counter->sum = cached->sum;
    } else {
        const lab_code_t *region = region_of(counter, start);
        counter->sum = (lab_sum_t){0};
        if (region)
            count(region, start, bytes, bytes, &counter->sum);
        if (region && region->constant)
            *cached = (lab_block_t){start, bytes, counter->sum};
    }
    counter->block = start;
    counter->block_bytes = bytes;
    counter->begun = 0;
    counter->instructions += counter->sum.instructions;
    for (int i = 0; i < LAB_CLASSES; i++)
        counter->classes[i] += counter->sum.classes[i];
}

static void before(const lab_counter_t *counter, uint32_t address, lab_sum_t *sum)
{
    const lab_code_t *region = region_of(counter, counter->block);
    uint32_t bytes = address - counter->block;
    *sum = counter->sum;
    if (region && bytes < counter->block_bytes)
        count(region, counter->block, bytes, bytes, sum);
}

/* Instructions of the running block before an address. */
EXPORTED uint32_t lab_instructions_before(const lab_counter_t *counter, uint32_t address)
{
    lab_sum_t sum;
    before(counter, address, &sum);
    return sum.instructions;
}

/* The running block broke off before an address: nothing from there on was run. */
EXPORTED void lab_break_off(lab_counter_t *counter, uint32_t address)
{
    lab_sum_t sum;
    before(counter, address, &sum);
    counter->instructions -= counter->sum.instructions - sum.instructions;
    for (int i = 0; i < LAB_CLASSES; i++)
        counter->classes[i] -= counter->sum.classes[i] - sum.classes[i];
    counter->sum = sum;
    counter->begun = sum.instructions;
}

/* Instructions of each class that were begun, the running one with them. */
EXPORTED void lab_classes(const lab_counter_t *counter, uint64_t *classes)
{
    const lab_code_t *region = region_of(counter, counter->block);
    lab_sum_t sum = counter->sum;
    if (region && counter->begun < sum.instructions)
        count(region, counter->block, counter->block_bytes, counter->begun, &sum);
    for (int i = 0; i < LAB_CLASSES; i++)
        classes[i] = counter->classes[i] - counter->sum.classes[i] + sum.classes[i];
}

/* For tests: the class of one instruction. */
EXPORTED int lab_thumb_class(uint32_t first, uint32_t second)
{
    return lab_class_of_thumb(first, second);
}

EXPORTED int lab_riscv_class(uint32_t word)
{
    return lab_class_of_riscv(word);
}

/* Called before the instructions of blocks that are watched; not before those of an IT block whose condition fails, which
 * count all the same. */
EXPORTED void lab_instruction_begins(void *engine, uint64_t address, uint32_t bytes, void *context)
{
    lab_counter_t *counter = context;
    (void)engine;
    (void)bytes;
    counter->begun = lab_instructions_before(counter, (uint32_t)address) + 1;
}

typedef struct {
    uint64_t address;
    int permissions;
} lab_page_t;

/* Unicorn takes the slow way for every store to a page that could be executed. So pages of data are not executable until
 * something is fetched from them; what may be there at all, memory and its own permissions say. */
EXPORTED _Bool lab_translate(void *engine, uint64_t address, int access, lab_page_t *page, void *context)
{
    enum { FETCH = 18, READ_WRITE = 3, ALL = 7 };
    lab_counter_t *counter = context;
    const lab_code_t *region = region_of(counter, (uint32_t)address);
    const uint32_t thumb = 1u << 24;
    /* Before this call Unicorn wrote to the IT state, where translated code does not keep it: it would meet the state again
     * in the next block, which may lie behind the IT block. A fetch begins a block, and is right to find it. */
    if (access != FETCH)
        counter->reg_write(engine, counter->epsr, &thumb);
    page->address = address;
    page->permissions = access == FETCH || (region && region->constant) ? ALL : READ_WRITE;
    return 1;
}
