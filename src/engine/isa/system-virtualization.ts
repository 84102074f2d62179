import { VECTOR } from '../../arch/exceptions.ts';
import { CR4, EFER } from '../../arch/registers.ts';
import { type Expr, i32, i64 } from '../../wasm/expr.ts';
import type { Local } from '../../wasm/module.ts';
import { memoryOperandExit } from '../core/exit-information.ts';
import { EXIT, type ExitReason } from '../core/exits.ts';
import type { Helper } from '../core/helpers.ts';
import { LOADS_VMCS, S, VMCS_CELLS, VMCS_LIST, VMCS_MAP } from '../core/layout.ts';
import type { Processor } from '../core/processor.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';

/**
 * VMX and SVM instructions: the engine knows when they are #UD, everything else is L0's.
 *
 * Source  SDM 3C 30 "VMX Instruction Reference"; 25.1.2 "Instructions That Cause VM Exits Unconditionally";
 *         APM 3 "VMRUN" and following.
 */

/** #UD whatever VMX operation says: real mode, virtual-8086 mode, compatibility mode. */
const vmxModeIsWrong = (cpu: Processor): boolean => !cpu.protectedMode || cpu.vm86 || (cpu.ia32e && !cpu.long);

/**
 * A VMX instruction: leaves with operands described. L0 checks the CPL (in non-root operation the exit comes first) and
 * whether the guest is in VMX operation.
 */
const vmx =
  (reason: ExitReason): Helper =>
  (cpu, record) => {
    if (!(cpu.cr4 & CR4.VMXE) || vmxModeIsWrong(cpu)) return cpu.fault(VECTOR.UD);
    return memoryOperandExit(cpu, record, reason);
  };

/** One without operands: nothing to describe. In 64-bit mode only CR4.VMXE is to be looked at. */
const vmxAlone = (name: string, form: string, reason: ExitReason): Instruction => {
  const checked: Helper = (cpu, record) =>
    !(cpu.cr4 & CR4.VMXE) || vmxModeIsWrong(cpu) ? cpu.fault(VECTOR.UD) : cpu.exitBefore(reason, record);
  return instruction({
    name,
    source: `SDM 3C 30.3 "${name}"`,
    forms: { [form]: name },
    feature: 'vmx',
    execute(m) {
      if (!m.long) {
        m.helper(checked);
        return;
      }
      const isOn = i32.and(i32.load(i32.const(0), S.CR4), i32.const(CR4.VMXE));
      m.f.if(i32.eqz(isOn), () => m.raise(VECTOR.UD), undefined, false);
      m.exitBefore(reason);
    },
  });
};

/** VMCALL and VMFUNC: also guests that have not set CR4.VMXE may call their hypervisor. */
const call = (name: string, source: string, form: string, reason: ExitReason, feature?: 'vmx'): Instruction =>
  instruction({
    name,
    source,
    forms: { [form]: name },
    ...(feature === undefined ? {} : { feature }),
    execute(m) {
      m.exitBefore(reason);
    },
  });

/** An SVM instruction: needs EFER.SVME and protected mode, and CPL 0. */
const svm =
  (reason: ExitReason): Helper =>
  (cpu, record) => {
    if (!(cpu.efer & EFER.SVME) || !cpu.protectedMode || cpu.vm86) return cpu.fault(VECTOR.UD);
    return cpu.cpl !== 0 ? cpu.fault(VECTOR.GP, 0) : cpu.exitBefore(reason, record);
  };

const row = (name: string, form: string, operands: string, helper: Helper, feature?: 'vmx' | 'svm'): Instruction =>
  instruction({
    name,
    source: feature === 'svm' ? `APM 3 "${name}"` : `SDM 3C 30.3 "${name}"`,
    forms: { [form]: operands === '' ? name : `${name} ${operands}` },
    ...(feature === undefined ? {} : { feature }),
    execute(m) {
      m.helper(helper);
    },
  });

/**
 * VMREAD and VMWRITE: a field that L0 has laid open (S.VMCS: of the current VMCS, or in non-root operation of the shadow
 * VMCS) is read and written here, unless a bitmap has its bit; all else leaves. SDM 3C 30.3 "VMREAD", "VMWRITE", Operation,
 * as far as it goes without an error.
 */
const vmcsAccess = (name: string, form: string, operands: string, field: number, body: FieldAccess): Instruction => {
  const leaves = vmx(name === 'VMREAD' ? EXIT.VMREAD : EXIT.VMWRITE);
  return instruction({
    name,
    source: `SDM 3C 30.3 "${name}"`,
    forms: { [form]: `${name} ${operands}` },
    feature: 'vmx',
    execute(m) {
      if (!m.long) {
        m.helper(leaves);
        return;
      }
      const zero = i32.const(0);
      const block = m.let(i32.load(zero, S.VMCS));
      const encoding = m.let(m.loadU(field));
      const isOther = i64.ne(i64.and(encoding.get, i64.const(~VMCS_MAP.ENCODING_BITS)), i64.const(0));
      m.f.if(i32.or(i32.or(i32.eqz(block.get), i32.load(zero, S.CPL)), isOther), () => m.helperInstead(leaves));
      const low = i32.wrap(encoding.get);
      const bits = (shift: number, mask: number): Expr => i32.and(i32.shrU(low, i32.const(shift)), i32.const(mask));
      // Without a bitmap some byte of low memory is looked at, and does not count
      const bitmap = m.let(i32.load(zero, name === 'VMREAD' ? S.VMREAD_BITMAP : S.VMWRITE_BITMAP));
      const byte = i32.load8U(i32.add(bitmap.get, i32.shrU(low, i32.const(3))));
      const isWanted = i32.and(i32.shrU(byte, i32.and(low, i32.const(7))), i32.ne(bitmap.get, zero));
      m.f.if(isWanted, () => m.helperInstead(leaves));
      const slot = i32.or(i32.or(bits(1, 0x3f), bits(4, 0xc0)), bits(5, 0x300));
      const map = i32.add(i32.load(zero, S.VMCS_MAP), i32.shl(slot, i32.const(1)));
      const cell = m.let(i32.load16U(map, name === 'VMREAD' ? VMCS_MAP.READ : VMCS_MAP.WRITE));
      m.f.if(i32.eqz(cell.get), () => m.helperInstead(leaves));
      body(m, block, cell);
      m.flagsExplicit(i64.const(0));
    },
  });
};
type FieldAccess = (m: Semantics, block: Local, cell: Local) => void;

const readField: FieldAccess = (m, block, cell) => {
  m.store(0, i64.load(i32.add(block.get, cell.get)));
};

/** A value that the field has already changes nothing, and L0 need not look at it again. */
const writeField: FieldAccess = (m, block, cell) => {
  const mask = i64.load(i32.add(i32.load(i32.const(0), S.VMCS_MAP), cell.get), VMCS_MAP.MASK);
  const value = m.let(i64.and(m.loadU(1), mask));
  const at = m.let(i32.add(block.get, cell.get));
  m.f.if(i64.ne(i64.load(at.get), value.get), () => {
    m.f.do(i64.store(at.get, value.get));
    // Cell offset: 8 bytes a cell, 32 bits a word of DIRTY
    const word = m.let(i32.add(block.get, i32.and(i32.shrU(cell.get, i32.const(6)), i32.const(0x3c))));
    const bit = i32.shl(i32.const(1), i32.shrU(cell.get, i32.const(3)));
    m.f.do(i32.store(word.get, i32.or(i32.load(word.get, VMCS_CELLS.DIRTY), bit), VMCS_CELLS.DIRTY));
  });
};

/**
 * VMPTRLD and VMCLEAR of a VMCS that L0 has laid open (VMCS_LIST), where it lets them through: SDM 3C 30.3 "VMPTRLD",
 * "VMCLEAR", Operation, as far as it goes without an error. All else leaves.
 *
 * @param body  What it does with the entry; `leaves` if it cannot.
 */
const vmcsPointer = (name: 'VMPTRLD' | 'VMCLEAR', form: string, count: number, body: PointerUse): Instruction => {
  const leaves = vmx(name === 'VMPTRLD' ? EXIT.VMPTRLD : EXIT.VMCLEAR);
  return instruction({
    name,
    source: `SDM 3C 30.3 "${name}"`,
    forms: { [form]: `${name} m64` },
    feature: 'vmx',
    execute(m) {
      if (!m.long) {
        m.helper(leaves);
        return;
      }
      const { f } = m;
      const zero = i32.const(0);
      const isClosed = i32.eqz(i32.and(i32.load(zero, S.TURNS), i32.const(LOADS_VMCS)));
      f.if(i32.or(isClosed, i32.load(zero, S.CPL)), () => m.helperInstead(leaves));
      const address = m.let(m.loadU(0));
      const entry = m.let(i32.const(VMCS_LIST.AT));
      f.block((found) => {
        f.loop((again) => {
          f.brIf(found, i64.eq(i64.load(entry.get, VMCS_LIST.ADDRESS), address.get));
          f.set(entry, i32.add(entry.get, i32.const(VMCS_LIST.ENTRY_BYTES)));
          f.brIf(again, i32.ltU(entry.get, i32.const(VMCS_LIST.AT + VMCS_LIST.ENTRIES * VMCS_LIST.ENTRY_BYTES)));
        });
        m.helperInstead(leaves);
      });
      const cells = m.let(i32.load(entry.get, VMCS_LIST.CELLS));
      const region = m.let(i32.load(entry.get, VMCS_LIST.REGION));
      const isOther = i32.ne(i32.load(region.get), i32.load(entry.get, VMCS_LIST.IDENTIFIER));
      f.if(i32.or(i32.eqz(cells.get), isOther), () => m.helperInstead(leaves));
      body(m, entry, cells, region, () => m.helperInstead(leaves));
      f.do(i32.store(zero, i32.add(i32.load(zero, count), i32.const(1)), count));
      m.flagsExplicit(i64.const(0));
    },
  });
};
type PointerUse = (m: Semantics, entry: Local, cells: Local, region: Local, leaves: () => void) => void;

const makeCurrent: PointerUse = ({ f }, entry, cells) => {
  const zero = i32.const(0);
  f.do(i32.store(zero, cells.get, S.VMCS));
  f.do(i32.store(zero, i32.load(entry.get, VMCS_LIST.TURNS), S.TURNS));
  f.do(i64.store(zero, i64.add(i64.load(zero, S.VMPTRLD_CLOCK), i64.const(1)), S.VMPTRLD_CLOCK));
  f.do(i64.store(entry.get, i64.load(zero, S.VMPTRLD_CLOCK), VMCS_LIST.LAST));
};

/** What is in its region already, and is not launched. */
const clear: PointerUse = ({ f }, entry, cells, region, leaves) => {
  const zero = i32.const(0);
  const isShadow = i32.ltS(i32.load(entry.get, VMCS_LIST.IDENTIFIER), zero);
  f.if(i32.or(i32.eqz(isShadow), i32.load(region.get, VMCS_LIST.LAUNCHED)), leaves);
  f.if(i32.eq(i32.load(zero, S.VMCS), cells.get), () => {
    f.do(i32.store(zero, zero, S.VMCS));
    f.do(i32.store(zero, i32.const(LOADS_VMCS), S.TURNS));
  });
};

export const VIRTUALIZATION: readonly Instruction[] = [
  call('VMCALL', 'SDM 3C 30.3 "VMCALL"', 'NP 0F 01 C1', EXIT.VMCALL),
  call('VMFUNC', 'SDM 3C 30.3 "VMFUNC"', 'NP 0F 01 D4', EXIT.VMFUNC, 'vmx'),
  vmxAlone('VMLAUNCH', 'NP 0F 01 C2', EXIT.VMLAUNCH),
  vmxAlone('VMRESUME', 'NP 0F 01 C3', EXIT.VMRESUME),
  vmxAlone('VMXOFF', 'NP 0F 01 C4', EXIT.VMXOFF),
  vmcsAccess('VMREAD', 'NP 0F 78 /r f64', 'r/my, ry', 1, readField),
  vmcsAccess('VMWRITE', 'NP 0F 79 /r f64', 'ry, r/my', 0, writeField),
  vmcsPointer('VMPTRLD', 'NP 0F C7 /6:m', S.VMPTRLDS, makeCurrent),
  row('VMPTRST', 'NP 0F C7 /7:m', 'm64', vmx(EXIT.VMPTRST), 'vmx'),
  vmcsPointer('VMCLEAR', '66 0F C7 /6:m', S.VMCLEARS, clear),
  row('VMXON', 'F3 0F C7 /6:m', 'm64', vmx(EXIT.VMXON), 'vmx'),
  row('INVEPT', '66 0F 38 80 /r:m', 'ry, m128', vmx(EXIT.INVEPT), 'vmx'),
  row('INVVPID', '66 0F 38 81 /r:m', 'ry, m128', vmx(EXIT.INVVPID), 'vmx'),

  call('VMMCALL', 'APM 3 "VMMCALL"', '0F 01 D9', EXIT.VMMCALL),
  row('VMRUN', '0F 01 D8', '', svm(EXIT.VMRUN), 'svm'),
  row('VMLOAD', '0F 01 DA', '', svm(EXIT.VMLOAD), 'svm'),
  row('VMSAVE', '0F 01 DB', '', svm(EXIT.VMSAVE), 'svm'),
  row('STGI', '0F 01 DC', '', svm(EXIT.STGI), 'svm'),
  row('CLGI', '0F 01 DD', '', svm(EXIT.CLGI), 'svm'),
  row('SKINIT', '0F 01 DE', '', svm(EXIT.SKINIT), 'svm'),
  row('INVLPGA', '0F 01 DF', '', svm(EXIT.INVLPGA), 'svm'),
];
