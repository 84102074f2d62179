import { RFLAGS } from '../../arch/registers.ts';
import { segmentLinear } from '../core/address.ts';
import { debugArmed, notePortAccess } from '../core/debug.ts';
import { EXIT, X } from '../core/exits.ts';
import type { Helper } from '../core/helpers.ts';
import { ALLOW, AUX, gpr, REC, S, SEG, STATUS } from '../core/layout.ts';
import { opcodeOf } from '../core/operands.ts';
import type { Processor } from '../core/processor.ts';
import { portAllowed } from '../core/tss.ts';
import { MODE } from '../decode/mode.ts';
import { helperInstruction, type Instruction } from './instruction.ts';

/**
 * IN, OUT, INS, OUTS. A port is L0's: the instruction leaves, and L0 runs it again with ALLOW.PORT if it is to happen. IN and
 * OUT it may let through on the spot. The next timer may come sooner then, so that they end a run.
 *
 * Source  SDM 1 19.5 "Protected-Mode I/O"; SDM 2A "IN", "INS", 2B "OUT", "OUTS"; SDM 3C Table 27-5 "Exit Qualification
 *         for I/O Instructions".
 */

/** Elements that one step of a REP INS or OUTS moves before interrupts and the budget get a look. */
const STRING_BATCH = 256;

/** Even opcodes move a byte; odd ones a word or, with a 32-bit operand size, a doubleword. */
function portBytes(cpu: Processor, record: number, opcode: number): number {
  if (!(opcode & 1)) return 1;
  const wide = (cpu.get(S.MODE) & MODE.DEFAULT32) !== 0;
  return wide === ((cpu.aux(record) & AUX.OPERAND16) !== 0) ? 2 : 4;
}

/** CPL above IOPL, or virtual-8086 mode: the TSS decides. */
function checkPort(cpu: Processor, port: number, bytes: number): number {
  if (!cpu.protectedMode || (!cpu.vm86 && cpu.cpl <= cpu.iopl)) return STATUS.NEXT;
  return portAllowed(cpu, port, bytes);
}

/** Exit qualification bits: SDM 3C Table 27-5. */
const IO = { IN: 1 << 3, STRING: 1 << 4, REP: 1 << 5, IMMEDIATE: 1 << 6 } as const;

function ioExit(cpu: Processor, record: number, port: number, bytes: number, bits: number): number {
  const status = cpu.exitBefore(EXIT.IO, record, ((bytes - 1) | bits | (port << 16)) >>> 0);
  cpu.set(X.SIZE, bytes);
  cpu.set(X.INFO, 0); // of strings only
  return status;
}

/** IN and OUT: E4–E7 with an immediate port, EC–EF with DX; bit 1 is OUT. */
const inOut: Helper = (cpu, record) => {
  const opcode = opcodeOf(cpu, record);
  const bytes = portBytes(cpu, record, opcode);
  const immediate = opcode < 0xec;
  const port = immediate ? cpu.get(record + REC.IMM) & 0xff : cpu.u16[gpr(2) >>> 1]!;
  const status = checkPort(cpu, port, bytes);
  if (status !== STATUS.NEXT) return status;
  const out = (opcode & 2) !== 0;
  const isSent = (cpu.get(S.ALLOW) & ALLOW.PORT) !== 0;
  if (!isSent && (debugArmed(cpu) || !cpu.host.opensPort(cpu.instructionsAt(record)))) {
    return ioExit(cpu, record, port, bytes, (out ? 0 : IO.IN) | (immediate ? IO.IMMEDIATE : 0));
  }
  const rax = gpr(0);
  notePortAccess(cpu, port, bytes);
  if (out) {
    const value = bytes === 1 ? cpu.u8[rax]! : bytes === 2 ? cpu.u16[rax >>> 1]! : cpu.get(rax);
    cpu.host.portWrite(port, bytes, value);
  } else {
    const value = cpu.host.portRead(port, bytes);
    if (bytes === 1) cpu.u8[rax] = value;
    else if (bytes === 2) cpu.u16[rax >>> 1] = value;
    else cpu.set64(rax, value, 0);
  }
  if (!isSent) cpu.shorten(cpu.host.closesPort());
  return STATUS.NEXT;
};

/** Register as the address size sees it, in `low`, `high`. */
function addressRegister(cpu: Processor, at: number, size: number): void {
  cpu.low = size === 0 ? cpu.u16[at >>> 1]! : cpu.get(at);
  cpu.high = size === 2 ? cpu.get(at + 4) : 0;
}

function addToRegister(cpu: Processor, at: number, size: number, delta: number): void {
  if (size === 0) {
    cpu.u16[at >>> 1] = cpu.u16[at >>> 1]! + delta;
    return;
  }
  const sum = cpu.get(at) + delta;
  const carry = Math.floor(sum / 0x1_0000_0000);
  cpu.set64(at, sum >>> 0, size === 2 ? (cpu.get(at + 4) + carry) >>> 0 : 0);
}

/** INS 6C, 6D to ES:rDI; OUTS 6E, 6F from DS:rSI (or another segment). */
const strings: Helper = (cpu, record) => {
  const opcode = opcodeOf(cpu, record);
  const bytes = portBytes(cpu, record, opcode);
  const out = (opcode & 2) !== 0;
  const aux = cpu.aux(record);
  const size = (aux >>> AUX.ADDRESS_SIZE_SHIFT) & 3;
  const repeats = (aux & (AUX.REP | AUX.REPNE)) !== 0;
  const port = cpu.u16[gpr(2) >>> 1]!;
  const status = checkPort(cpu, port, bytes);
  if (status !== STATUS.NEXT) return status;
  const counter = gpr(1);
  const pointer = out ? gpr(6) : gpr(7);
  const seg = out ? aux & 7 : SEG.ES;
  addressRegister(cpu, counter, size);
  if (repeats && cpu.low === 0 && cpu.high === 0) return STATUS.NEXT;
  let left = repeats ? (cpu.high === 0 ? Math.min(cpu.low, STRING_BATCH) : STRING_BATCH) : 1;
  const step = cpu.get(S.RFLAGS) & RFLAGS.DF ? -bytes : bytes;

  if (!(cpu.get(S.ALLOW) & ALLOW.PORT)) {
    const exit = ioExit(cpu, record, port, bytes, IO.STRING | (out ? 0 : IO.IN) | (repeats ? IO.REP : 0));
    addressRegister(cpu, pointer, size);
    const cell = S.SEG_BASE + 8 * seg;
    const sum = cpu.low + cpu.get(cell);
    const high = cpu.long ? (cpu.high + cpu.get(cell + 4) + (sum > 0xffff_ffff ? 1 : 0)) >>> 0 : 0;
    cpu.set64(X.LINEAR, sum >>> 0, high);
    cpu.set(X.LINEAR_VALID, 1);
    // SDM 3C Table 27-8: address size 9:7, segment 17:15
    cpu.set(X.INFO, (size << 7) | (seg << 15));
    return exit;
  }
  // A batch counts as one instruction, wherever in it a watchpoint is met
  if (left > 1 && cpu.walker.watchpoints?.trapping) return cpu.walker.leaveForWatchpoint();
  notePortAccess(cpu, port, bytes);
  while (left > 0) {
    addressRegister(cpu, pointer, size);
    const checked = segmentLinear(cpu, seg, cpu.low, cpu.high, bytes, !out);
    if (checked !== STATUS.NEXT) return checked;
    const low = cpu.get(S.EA);
    const high = cpu.get(S.EA + 4);
    if (out) {
      if (!cpu.read(low, high, bytes)) return cpu.accessStatus;
      cpu.host.portWrite(port, bytes, cpu.low);
    } else {
      // The place must be writable before the device gives up its value
      if (!cpu.probeWrite(low, high, bytes)) return cpu.accessStatus;
      cpu.write(low, high, bytes, cpu.host.portRead(port, bytes));
    }
    addToRegister(cpu, pointer, size, step);
    if (repeats) addToRegister(cpu, counter, size, -1);
    left -= 1;
  }
  addressRegister(cpu, counter, size);
  if (!repeats || (cpu.low === 0 && cpu.high === 0)) return STATUS.NEXT;
  // The rest is the same instruction again
  cpu.ripOf(record);
  return cpu.goTo(cpu.low, cpu.high);
};

export const PORT_INSTRUCTIONS: readonly Instruction[] = [
  helperInstruction(
    'IN',
    'SDM 2A 3.2 "IN—Input from Port"',
    { 'E4 ib': 'IN AL, imm8', 'E5 ib': 'IN eAX, imm8', EC: 'IN AL, DX', ED: 'IN eAX, DX' },
    inOut,
    { terminator: true },
  ),
  helperInstruction(
    'OUT',
    'SDM 2B 4.3 "OUT—Output to Port"',
    { 'E6 ib': 'OUT imm8, AL', 'E7 ib': 'OUT imm8, eAX', EE: 'OUT DX, AL', EF: 'OUT DX, eAX' },
    inOut,
    { terminator: true },
  ),
  helperInstruction(
    'INS',
    'SDM 2A 3.2 "INS/INSB/INSW/INSD—Input from Port to String"',
    { '6C': 'INSB', '6D': 'INSW' },
    strings,
  ),
  helperInstruction(
    'OUTS',
    'SDM 2B 4.3 "OUTS/OUTSB/OUTSW/OUTSD—Output String to Port"',
    { '6E': 'OUTSB', '6F': 'OUTSW' },
    strings,
  ),
];
