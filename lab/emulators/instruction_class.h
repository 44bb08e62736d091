/* SPDX-License-Identifier: GPL-2.0-or-later OR MIT
 *
 * What kind of work an instruction is, by its opcode alone: shared by the plug-in for QEMU and the counter for Unicorn, so
 * that both say the same. Loads and stores are no class here: they are counted as they happen.
 *
 * Thumb-2 after the Armv7-M manual (DDI 0403E), A5.2 and A5.3, and the Armv8.1-M one (DDI 0553), C2.4; RISC-V after
 * the unprivileged specification, chapters "RV32/64G instruction set listings" and "C".
 *
 * MULTIPLY integer multiplications, with and without accumulation, also of halves (not USAD8, which multiplies nothing).
 * DIVIDE   integer divisions and remainders.
 * BRANCH   whatever may write the program counter: branches, calls, returns, table branches, POP and LDM with PC, moves and
 *          loads to PC, ends of low-overhead loops; taken or not. Not what traps.
 * FLOAT    the floating-point and vector extension less its loads and stores; moves to and from it count. */
#ifndef LAB_INSTRUCTION_CLASS_H
#define LAB_INSTRUCTION_CLASS_H

#include <stdint.h>

enum { LAB_OTHER, LAB_MULTIPLY, LAB_DIVIDE, LAB_BRANCH, LAB_FLOAT, LAB_CLASSES };

static int lab_is_wide_thumb(uint32_t first)
{
    return first >> 11 >= 0x1du;
}

static int lab_class_of_narrow_thumb(uint32_t first)
{
    if ((first & 0xffc0u) == 0x4340u) /* MULS */
        return LAB_MULTIPLY;
    if ((first & 0xf000u) == 0xd000u && (first >> 8 & 15u) < 14u) /* B<c>; above are UDF and SVC */
        return LAB_BRANCH;
    if ((first & 0xf800u) == 0xe000u || (first & 0xff00u) == 0x4700u || (first & 0xf500u) == 0xb100u) /* B, B(L)X, CB(N)Z */
        return LAB_BRANCH;
    if ((first & 0xff00u) == 0xbd00u || (first & 0xfd87u) == 0x4487u) /* POP {..., PC}; ADD and MOV to PC */
        return LAB_BRANCH;
    return LAB_OTHER;
}

static int lab_class_of_wide_branch(uint32_t first, uint32_t second)
{
    if ((first & 0xf800u) == 0xf000u && second & 0x8000u) {
        if ((second & 0x5000u) == 0) /* B<c>.W; with a condition of 111x it is MSR, MRS, a hint or a barrier */
            return (first >> 6 & 14u) != 14u;
        return second & 0x1000u || (second & 0xf001u) == 0xc001u; /* B.W, BL; LE(TP), WLS(TP) */
    }
    if ((first & 0xfff0u) == 0xe8d0u) /* TBB, TBH; LDREX and friends besides */
        return (second & 0xffe0u) == 0xf000u;
    if ((first & 0xffd0u) == 0xe890u || (first & 0xffd0u) == 0xe910u) /* LDM, LDMDB, POP.W */
        return (second & 0x8000u) != 0;
    return (first & 0xff70u) == 0xf850u && second >> 12 == 15u; /* LDR.W to PC */
}

static int lab_class_of_thumb(uint32_t first, uint32_t second)
{
    if (!lab_is_wide_thumb(first))
        return lab_class_of_narrow_thumb(first);
    if ((first & 0xff80u) == 0xfb00u) /* MUL, MLA, MLS and those of halves; op1 111 is USAD8 */
        return (first >> 4 & 7u) == 7u ? LAB_OTHER : LAB_MULTIPLY;
    if ((first & 0xff80u) == 0xfb80u) /* long ones; op1 001 is SDIV, 011 is UDIV */
        return (first >> 4 & 5u) == 1u ? LAB_DIVIDE : LAB_MULTIPLY;
    if (lab_class_of_wide_branch(first, second))
        return LAB_BRANCH;
    if ((first & 0xef00u) == 0xef00u) /* vectors */
        return LAB_FLOAT;
    if ((first & 0xef00u) == 0xee00u) /* below 8 are other coprocessors */
        return second & 0x0800u ? LAB_FLOAT : LAB_OTHER;
    if ((first & 0xffe0u) == 0xec40u && (second & 0x0e00u) == 0x0a00u) /* VMOV of two registers */
        return LAB_FLOAT;
    return LAB_OTHER;
}

static int lab_class_of_compressed_riscv(uint32_t word)
{
    uint32_t kind = word >> 13 & 7u;
    if ((word & 3u) == 1u) {
        if ((word & 0xfc63u) == 0x9c41u) /* C.MUL */
            return LAB_MULTIPLY;
        return kind == 1u || kind >= 5u ? LAB_BRANCH : LAB_OTHER; /* C.JAL of RV32, C.J, C.BEQZ, C.BNEZ */
    }
    /* C.JR, C.JALR; without a register it is C.EBREAK */
    return (word & 0xe07fu) == 0x8002u && word & 0x0f80u ? LAB_BRANCH : LAB_OTHER;
}

static int lab_class_of_riscv(uint32_t word)
{
    if ((word & 3u) != 3u)
        return lab_class_of_compressed_riscv(word);
    switch (word & 0x7fu) {
    case 0x63u: /* B... */
    case 0x67u: /* JALR */
    case 0x6fu: /* JAL */
        return LAB_BRANCH;
    case 0x33u: /* MUL..., DIV..., REM... */
        return word >> 25 != 1u ? LAB_OTHER : word & 0x4000u ? LAB_DIVIDE : LAB_MULTIPLY;
    case 0x43u: /* F(N)MADD, F(N)MSUB */
    case 0x47u:
    case 0x4bu:
    case 0x4fu:
    case 0x53u: /* all others */
        return LAB_FLOAT;
    default:
        return LAB_OTHER;
    }
}

#endif
