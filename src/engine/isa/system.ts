import { VECTOR } from '../../arch/exceptions.ts';
import { CR4, RFLAGS } from '../../arch/registers.ts';
import { type Expr, i32, i64, select } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { clts, movFromCr, movToCr } from '../core/control-registers.ts';
import { WINDOW } from '../core/cpu.ts';
import { cli, SHADOW, sti } from '../core/flags.ts';
import type { Helper } from '../core/helpers.ts';
import { AUX, S, SEG, STATUS, segment, TLB } from '../core/layout.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import * as h from './system-helpers.ts';

/**
 * System instructions: segment registers, descriptor tables, control registers, flags, translations.
 * SDM 1 5.20 "System Instructions", 5.1.12 "Segment Register Instructions".
 */

/** A row whose meaning is a helper. */
const row = (
  name: string,
  source: string,
  forms: Readonly<Record<string, string>>,
  helper: Helper,
  more: { readonly terminator?: boolean; readonly feature?: string } = {},
): Instruction =>
  instruction({
    name,
    source,
    forms,
    ...more,
    execute(m) {
      m.helper(helper);
    },
  });

const terminator = true;
const zero = i32.const(0);

export const SYSTEM_INSTRUCTIONS: readonly Instruction[] = [
  row('MOV', 'SDM 2B 4.3 "MOV—Move"', { '8E /r': 'MOV Sreg, r/m16' }, h.moveToSegment, { terminator }),
  instruction({
    name: 'MOV',
    source: 'SDM 2B 4.3 "MOV—Move"',
    forms: { '8C /r': 'MOV r/mv, Sreg' },
    execute(m) {
      if (m.isMemory(0)) m.helper(h.moveFromSegment);
      else m.store(0, m.fixedLoad(m.registerAddress(1), SEG.SELECTOR, 2));
    },
  }),
  row(
    'PUSH',
    'SDM 2B 4.3 "PUSH—Push Word, Doubleword, or Quadword Onto the Stack"',
    {
      '06 i64 d64': 'PUSH ES',
      '0E i64 d64': 'PUSH CS',
      '16 i64 d64': 'PUSH SS',
      '1E i64 d64': 'PUSH DS',
      '0F A0 d64': 'PUSH FS',
      '0F A8 d64': 'PUSH GS',
    },
    h.pushSegment,
  ),
  row(
    'POP',
    'SDM 2B 4.3 "POP—Pop a Value From the Stack"',
    {
      '07 i64 d64': 'POP ES',
      '17 i64 d64': 'POP SS',
      '1F i64 d64': 'POP DS',
      '0F A1 d64': 'POP FS',
      '0F A9 d64': 'POP GS',
    },
    h.popSegment,
    { terminator },
  ),
  row(
    'LDS/LES/LFS/LGS/LSS',
    'SDM 2A 3.2 "LDS/LES/LFS/LGS/LSS—Load Far Pointer"',
    {
      'C5 /r:m i64': 'LDS rv, m',
      'C4 /r:m i64': 'LES rv, m',
      '0F B2 /r:m': 'LSS rv, m',
      '0F B4 /r:m': 'LFS rv, m',
      '0F B5 /r:m': 'LGS rv, m',
    },
    h.loadFarPointer,
    { terminator },
  ),

  row('SGDT', 'SDM 2B 4.3 "SGDT—Store Global Descriptor Table Register"', { '0F 01 /0:m': 'SGDT m' }, h.storeTable),
  row('SIDT', 'SDM 2B 4.3 "SIDT—Store Interrupt Descriptor Table Register"', { '0F 01 /1:m': 'SIDT m' }, h.storeTable),
  row(
    'LGDT/LIDT',
    'SDM 2A 3.2 "LGDT/LIDT—Load Global/Interrupt Descriptor Table Register"',
    { '0F 01 /2:m': 'LGDT m', '0F 01 /3:m': 'LIDT m' },
    h.loadTable,
  ),
  row('SLDT', 'SDM 2B 4.3 "SLDT—Store Local Descriptor Table Register"', { '0F 00 /0': 'SLDT r/mv' }, h.storeTaskOrLdt),
  row('STR', 'SDM 2B 4.3 "STR—Store Task Register"', { '0F 00 /1': 'STR r/mv' }, h.storeTaskOrLdt),
  row('LLDT', 'SDM 2A 3.2 "LLDT—Load Local Descriptor Table Register"', { '0F 00 /2': 'LLDT r/m16' }, h.loadTaskOrLdt),
  row('LTR', 'SDM 2A 3.2 "LTR—Load Task Register"', { '0F 00 /3': 'LTR r/m16' }, h.loadTaskOrLdt),
  row(
    'VERR/VERW',
    'SDM 2B 4.3 "VERR/VERW—Verify a Segment for Reading or Writing"',
    { '0F 00 /4': 'VERR r/m16', '0F 00 /5': 'VERW r/m16' },
    h.verify,
  ),
  row('LAR', 'SDM 2A 3.2 "LAR—Load Access Rights Byte"', { '0F 02 /r': 'LAR rv, r/m16' }, h.lar),
  row('LSL', 'SDM 2A 3.2 "LSL—Load Segment Limit"', { '0F 03 /r': 'LSL rv, r/m16' }, h.lsl),
  row('ARPL', 'SDM 2A 3.2 "ARPL—Adjust RPL Field of Segment Selector"', { '63 /r i64': 'ARPL r/m16, r16' }, h.arpl),

  row('MOV', 'SDM 2B 4.3 "MOV—Move to/from Control Registers"', { '0F 22 /r': 'MOV CRn, r/my' }, movToCr, {
    terminator,
  }),
  instruction({
    name: 'MOV',
    source: 'SDM 2B 4.3 "MOV—Move to/from Control Registers"',
    forms: { '0F 20 /r': 'MOV r/my, CRn' },
    execute(m) {
      const isOther = i32.or(i32.load(zero, S.CPL), i32.ne(m.aux(AUX.REG_SHIFT, 4), i32.const(2)));
      m.f.if(isOther, () => m.helperInstead(movFromCr));
      // Whatever the prefixes say
      m.storeRegister(m.registerAddress(0), i64.load(zero, S.CR2), m.long ? 8 : 4);
    },
  }),
  row('CLTS', 'SDM 2A 3.2 "CLTS—Clear Task-Switched Flag in CR0"', { '0F 06': 'CLTS' }, clts, { terminator }),
  row('SMSW', 'SDM 2B 4.3 "SMSW—Store Machine Status Word"', { '0F 01 /4': 'SMSW r/mv' }, h.smsw),
  row('LMSW', 'SDM 2A 3.2 "LMSW—Load Machine Status Word"', { '0F 01 /6': 'LMSW r/m16' }, h.lmsw, { terminator }),

  instruction({
    name: 'CLI',
    source: 'SDM 2A 3.2 "CLI—Clear Interrupt Flag"',
    forms: { FA: 'CLI' },
    execute(m) {
      // Level 0 may always: real mode is level 0, virtual-8086 mode level 3
      m.f.if(i32.load(zero, S.CPL), () => m.helperInstead(cli));
      m.f.do(i32.store(zero, i32.and(i32.load(zero, S.RFLAGS), i32.const(~RFLAGS.IF)), S.RFLAGS));
    },
  }),
  instruction({
    name: 'STI',
    source: 'SDM 2B 4.3 "STI—Set Interrupt Flag"',
    forms: { FB: 'STI' },
    terminator,
    execute(m) {
      const flags = m.let(i32.load(zero, S.RFLAGS));
      m.f.if(i32.or(i32.load(zero, S.CPL), m.intercepted(WINDOW)), () => m.helperInstead(sti));
      m.f.if(i32.eqz(i32.and(flags.get, i32.const(RFLAGS.IF))), () => {
        m.f.do(i32.store(zero, i32.or(flags.get, i32.const(RFLAGS.IF)), S.RFLAGS));
        m.f.do(i64.store(zero, i64.add(m.retired(), i64.const(1)), S.SHADOW_AT));
        m.f.do(i32.store(zero, i32.const(SHADOW.STI), S.SHADOW_KIND));
      });
      m.leave(i32.const(STATUS.ENTER));
    },
  }),
  instruction({
    name: 'STAC',
    source: 'SDM 2B 4.3 "STAC—Set AC Flag in EFLAGS Register"',
    forms: { 'NP 0F 01 CB': 'STAC' },
    feature: 'smap',
    execute(m) {
      m.raiseIf(i32.load(zero, S.CPL), VECTOR.UD);
      m.f.do(i32.store(zero, i32.or(i32.load(zero, S.RFLAGS), i32.const(RFLAGS.AC)), S.RFLAGS));
      m.setTlb(tlbSet(TLB.SUPERVISOR));
    },
  }),
  instruction({
    name: 'CLAC',
    source: 'SDM 2A 3.2 "CLAC—Clear AC Flag in EFLAGS Register"',
    forms: { 'NP 0F 01 CA': 'CLAC' },
    feature: 'smap',
    execute(m) {
      m.raiseIf(i32.load(zero, S.CPL), VECTOR.UD);
      m.f.do(i32.store(zero, i32.and(i32.load(zero, S.RFLAGS), i32.const(~RFLAGS.AC)), S.RFLAGS));
      const isSmap = i32.and(i32.load(zero, S.CR4), i32.const(CR4.SMAP));
      m.setTlb(select(isSmap, tlbSet(TLB.SUPERVISOR_SMAP), tlbSet(TLB.SUPERVISOR)));
    },
  }),

  row('INVLPG', 'SDM 2A 3.2 "INVLPG—Invalidate TLB Entries"', { '0F 01 /7:m': 'INVLPG m' }, h.invlpg, { terminator }),
  row(
    'INVPCID',
    'SDM 2A 3.2 "INVPCID—Invalidate Process-Context Identifier"',
    { '66 0F 38 82 /r:m': 'INVPCID rv, m128' },
    h.invpcid,
    { terminator, feature: 'invpcid' },
  ),
  row('WBINVD', 'SDM 2D 6.1 "WBINVD—Write Back and Invalidate Cache"', { '0F 09': 'WBINVD' }, h.wbinvd),
  row('INVD', 'SDM 2A 3.2 "INVD—Invalidate Internal Caches"', { '0F 08': 'INVD' }, h.invd),
  instruction({
    name: 'SWAPGS',
    source: 'SDM 2B 4.3 "SWAPGS—Swap GS Base Register"',
    forms: { '0F 01 F8 o64': 'SWAPGS' },
    execute(m) {
      m.raiseIf(i32.load(zero, S.CPL), VECTOR.GP);
      const old = m.let(i64.load(zero, segment(SEG.GS) + SEG.BASE));
      setBase(m, SEG.GS, m.let(i64.load(zero, S.KERNEL_GS_BASE)));
      m.f.do(i64.store(zero, old.get, S.KERNEL_GS_BASE));
    },
  }),
  ...[SEG.FS, SEG.GS].flatMap((seg) => {
    const name = seg === SEG.FS ? 'FS' : 'GS';
    const unlessEnabled = (m: Semantics): void =>
      m.raiseIf(i32.eqz(i32.and(i32.load(zero, S.CR4), i32.const(CR4.FSGSBASE))), VECTOR.UD);
    return [
      instruction({
        name: `RD${name}BASE`,
        source: 'SDM 2B 4.3 "RDFSBASE/RDGSBASE—Read FS/GS Segment Base"',
        forms: { [`F3 0F AE /${seg - SEG.FS}:r o64`]: `RD${name}BASE r/my` },
        feature: 'fsgsbase',
        execute(m) {
          unlessEnabled(m);
          m.store(0, i64.load(zero, segment(seg) + SEG.BASE));
        },
      }),
      instruction({
        name: `WR${name}BASE`,
        source: 'SDM 2D 6.1 "WRFSBASE/WRGSBASE—Write FS/GS Segment Base"',
        forms: { [`F3 0F AE /${2 + seg - SEG.FS}:r o64`]: `WR${name}BASE r/my` },
        feature: 'fsgsbase',
        execute(m) {
          unlessEnabled(m);
          const base = m.let(m.loadU(0));
          // What is canonical in 48 bits is so in all widths that a processor can have
          const extended = i64.shrS(i64.shl(base.get, i64.const(16)), i64.const(16));
          m.f.if(i64.ne(extended, base.get), () => m.helperInstead(h.writeBase));
          setBase(m, seg, base);
        },
      }),
    ];
  }),
];

/** Address of a set of the TLB context in force: an i32. */
const tlbSet = (set: number): Expr => i32.add(i32.load(zero, S.CONTEXT), i32.const(set * TLB.SET_BYTES));

/** Base of FS or GS in 64-bit mode: of the segment register, and as addresses use it. */
function setBase(m: Semantics, seg: number, base: Local): void {
  m.f.do(i64.store(zero, base.get, segment(seg) + SEG.BASE));
  m.f.do(i64.store(zero, base.get, S.SEG_BASE + 8 * seg));
}
