/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A TCG plug-in for QEMU that counts instructions by class, loads and stores exactly, and writes the counts down whenever
 * the guest stores to the marker register. It is loaded into QEMU and therefore under QEMU's licence, unlike the rest of the lab;
 * nothing else links with it. It keeps to what every version of QEMU's plug-in ABI has; LAB_PLUGIN_ABI says which one the
 * QEMU at hand speaks, and LAB_PLUGIN_COPIES that it copies an instruction's bytes (9.1 and newer) where older ones point to
 * them. Debian ships no header for it, so the few declarations that are needed stand here.
 *
 * Arguments: marker=ADDRESS (guest address of the marker register), out=FILE.
 * Output, one line per store to the marker: INSTRUCTIONS LOADS STORES MULTIPLICATIONS DIVISIONS BRANCHES FLOATS since
 * start, the marking store included; instruction_class.h says what the last four are.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../instruction_class.h"

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
/* More follows, which is not needed. */
typedef struct {
    const char *target_name;
} qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1, QEMU_PLUGIN_MEM_W, QEMU_PLUGIN_MEM_RW };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *),
                                            enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
                                      void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *),
                                      enum qemu_plugin_cb_flags, enum qemu_plugin_mem_rw, void *);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
#if LAB_PLUGIN_COPIES
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
#else
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
#endif

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = LAB_PLUGIN_ABI;
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv);

static uint64_t instructions, loads, stores, marker, classes[LAB_CLASSES];
static bool is_riscv;
static FILE *out;

static void on_instruction(unsigned vcpu, void *data)
{
    (void)vcpu;
    instructions++;
    ++*(uint64_t *)data;
}

/* An instruction's bytes come in the order of the guest's memory, which is little-endian on all our boards. */
static int class_of(const struct qemu_plugin_insn *insn)
{
    uint8_t bytes[4] = {0};
    size_t size = qemu_plugin_insn_size(insn);
    size = size < sizeof bytes ? size : sizeof bytes;
#if LAB_PLUGIN_COPIES
    qemu_plugin_insn_data(insn, bytes, size);
#else
    memcpy(bytes, qemu_plugin_insn_data(insn), size);
#endif
    uint32_t first = bytes[0] | (uint32_t)bytes[1] << 8, second = bytes[2] | (uint32_t)bytes[3] << 8;
    return is_riscv ? lab_class_of_riscv(first | second << 16) : lab_class_of_thumb(first, second);
}

/* Asked for all accesses, not for loads and stores apart: QEMU 7.2 mixes the two up in its own filter. */
static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
    (void)vcpu, (void)data;
    if (!qemu_plugin_mem_is_store(info)) {
        loads++;
        return;
    }
    stores++;
    if (address == marker) {
        fprintf(out, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", instructions,
                loads, stores, classes[LAB_MULTIPLY], classes[LAB_DIVIDE], classes[LAB_BRANCH], classes[LAB_FLOAT]);
    }
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        qemu_plugin_register_vcpu_insn_exec_cb(insn, on_instruction, QEMU_PLUGIN_CB_NO_REGS, &classes[class_of(insn)]);
        qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
    }
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    is_riscv = strncmp(info->target_name, "riscv", 5) == 0;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "marker=", 7) == 0) {
            marker = strtoull(argv[i] + 7, NULL, 0);
        } else if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(argv[i] + 4, "w");
        }
    }
    if (out == NULL) {
        fprintf(stderr, "lab_count: out=FILE is missing or cannot be written\n");
        return -1;
    }
    setvbuf(out, NULL, _IOLBF, 1 << 12);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    return 0;
}
