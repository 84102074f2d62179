/**
 * What happens in a machine, a line or a few an event: the text of `-d`. A reader: nothing changes, and two runs that are
 * the same write the same, for the time in it is the guest's.
 *
 * Events of L0 have the names and the shape that KVM's trace events have in ftrace.
 */
import { VECTOR } from '../arch/exceptions.ts';
import { EXIT_REASON_FLAGS, exitReasonName } from '../arch/vmx/exit-reasons.ts';
import { FIELD, type VmcsField } from '../arch/vmx/fields.ts';
import { hex, hex64 } from '../base/format.ts';
import { EXIT, X } from '../engine/core/exits.ts';
import { gpr, REC, S, SEG, segment } from '../engine/core/layout.ts';
import { REGION_SLOT } from '../engine/decode/decoder.ts';
import type { Engine } from '../engine/engine.ts';
import { listingLine } from '../engine/tiers/disassembly.ts';
import type { NestedVmx } from '../hypervisor/nested/vmx/nested-vmx.ts';
import type { Vcpu } from '../hypervisor/vcpu/vcpu.ts';
import type { Vm } from '../hypervisor/vm/vm.ts';
import type { VmLog } from '../hypervisor/vm/vm-log.ts';
import { formatRegisters } from './register-text.ts';
import { snapshotRegisters } from './registers.ts';

/** Gets whole lines, each with its end. */
export type LogSink = (text: string) => void;

/** Exits that hardware does not have, and whatever else has a name in the engine alone. */
const engineNames = new Map<number, string>(Object.entries(EXIT).map(([name, reason]) => [reason, name]));
const reasonName = (reason: number): string =>
  exitReasonName(reason & 0xffff) ?? engineNames.get(reason) ?? `${reason & 0xffff}`;

const wide = (value: bigint): string => `0x${value.toString(16).padStart(16, '0')}`;
const ripOf = (vcpu: Vcpu): string => wide(vcpu.state.big(S.RIP));
const levelOf = (vcpu: Vcpu): string => (vcpu.nested?.guestMode ? 'L2' : 'L1');

/** As ftrace begins a line: CPU and time, here of the guest. */
function prefix(vcpu: Vcpu): string {
  const ns = Math.round(vcpu.vm.clock.nowNs());
  const seconds = Math.floor(ns / 1e9);
  return `[${`${vcpu.index}`.padStart(3, '0')}] ${seconds}.${`${ns - seconds * 1e9}`.padStart(9, '0')}:`;
}

// ---- what the processor does -------------------------------------------------------------------------------------------

/** `int`: QEMU's line for each interrupt and exception that is delivered, and the registers it was delivered from. */
export function logDeliveries(vm: Vm, sink: LogSink): void {
  let count = 0;
  const cpu = vm.engine.processor;
  cpu.onDelivery = (vector, type, hasError, error) => {
    const vcpu = vm.vcpus[cpu.vcpu.index]!;
    const { state } = vcpu;
    const at = (seg: number, cell: number): string =>
      `${state.selector(seg).toString(16).padStart(4, '0')}:${hex64(state.u32(cell), state.high(cell))}`;
    const linear = cpu.long ? state.big(S.RIP) : state.big(S.RIP) + state.big(segment(SEG.CS) + SEG.BASE);
    const last = vector === VECTOR.PF ? ['CR2', S.CR2] : ['EAX', gpr(0)];
    const line = [
      `${`${count}`.padStart(6)}: v=${vector.toString(16).padStart(2, '0')}`,
      `e=${(hasError ? error : 0).toString(16).padStart(4, '0')} i=${type >= 4 ? 1 : 0} cpl=${state.cpl}`,
      `IP=${at(SEG.CS, S.RIP)} pc=${linear.toString(16).padStart(16, '0')} SP=${at(SEG.SS, gpr(4))}`,
      `${last[0]}=${hex64(state.u32(last[1] as number), state.high(last[1] as number))}`,
    ].join(' ');
    const registers = formatRegisters(snapshotRegisters(vcpu));
    return () => {
      count += 1;
      sink(`${line}\n${registers}\n`);
    };
  };
}

/** `in_asm`: code where it is decoded, which is before it runs for the first time in its mode. */
export function logDecoded({ code, memory, interpreter, processor }: Engine, sink: LogSink): void {
  code.listener = ({ hostPage }, first, count) => {
    const lines = ['----------------', 'IN:'];
    const page = (BigInt(processor.get(S.RIP_PAGE + 4)) << 32n) | BigInt(processor.get(S.RIP_PAGE));
    for (let record = first, left = count; left > 0; record += REC.BYTES, left -= 1) {
      const offset = memory.u16[(record + REC.OFFSET) >>> 1]!;
      const handler = interpreter.plain(memory.u16[record >>> 1]!);
      const variant = handler < REGION_SLOT ? interpreter.variant(handler) : undefined;
      const at = hostPage * 4096 + offset;
      // One that goes over the page's end is known by its first bytes
      const end = variant ? at + memory.u8[record + REC.LENGTH]! : (hostPage + 1) * 4096;
      lines.push(listingLine(memory, record, variant, memory.u8.subarray(at, end), page));
    }
    sink(`${lines.join('\n')}\n`);
  };
}

// ---- what L0 does ------------------------------------------------------------------------------------------------------

/** `vmexit`: every exit of a vCPU to L0. */
export const logExits = (sink: LogSink): VmLog => ({
  exit: (vcpu, reason) => {
    const { state } = vcpu;
    const [info1, info2] = [state.big(X.QUALIFICATION), state.u32(X.VECTORING)];
    sink(
      `${prefix(vcpu)} kvm_exit: vcpu ${vcpu.index} reason ${reasonName(reason)} rip ${ripOf(vcpu)} info1 ${wide(info1)} ` +
        `info2 ${hex(info2, 8)} ${levelOf(vcpu)}\n`,
    );
  },
});

/** `mmu`: page faults that are L0's: of the second stage, or of the tables that it shadows. */
export const logPageFaults = (sink: LogSink): VmLog => ({
  pageFault: (vcpu, access, result) => {
    const { state } = vcpu;
    const { tdp } = vcpu.vm.options;
    const address = tdp ? state.big(X.PHYSICAL) : state.big(X.LINEAR);
    const code = tdp ? state.big(X.QUALIFICATION) : BigInt(access);
    sink(
      `${prefix(vcpu)} kvm_page_fault: vcpu ${vcpu.index} rip ${ripOf(vcpu)} address ${wide(address)} ` +
        `error_code ${hex(code)} ${levelOf(vcpu)} ${result}\n`,
    );
  },
});

/** `nested`: L1's entries into L2, L2's exits to L1, and entries that were refused. */
export const logNested = (sink: LogSink): VmLog => {
  const field = (vcpu: Vcpu, name: VmcsField): bigint => {
    const { v } = vcpu.nested as NestedVmx;
    return (BigInt(v.hi(FIELD[name])) << 32n) | BigInt(v.lo(FIELD[name]));
  };
  return {
    nestedEntry: (vcpu) => {
      const nested = vcpu.nested as NestedVmx;
      const eptp = nested.usesEpt ? `nested_eptp ${wide(field(vcpu, 'EPT_POINTER'))}` : 'nested_ept n';
      sink(
        `${prefix(vcpu)} kvm_nested_vmenter: vcpu ${vcpu.index} vmcs ${hex(nested.v.address, 16)} nested_rip ${ripOf(vcpu)} ` +
          `event_inject ${hex(field(vcpu, 'ENTRY_INTERRUPTION_INFO'), 8)} ${eptp}\n`,
      );
    },
    nestedExit: (vcpu, reason) => {
      const failed = (reason & EXIT_REASON_FLAGS.ENTRY_FAILURE) !== 0 ? ' FAILED_VMENTRY' : '';
      sink(
        `${prefix(vcpu)} kvm_nested_vmexit_inject: vcpu ${vcpu.index} reason ${reasonName(reason)}${failed} ` +
          `rip ${wide(field(vcpu, 'GUEST_RIP'))} info1 ${wide(field(vcpu, 'EXIT_QUALIFICATION'))} ` +
          `info2 ${hex(field(vcpu, 'IDT_VECTORING_INFO'), 8)} intr_info ${hex(field(vcpu, 'EXIT_INTERRUPTION_INFO'), 8)}\n`,
      );
    },
    entryRefused: (vcpu, { section, name }) => sink(`${prefix(vcpu)} VM entry refused: ${name} (SDM ${section})\n`),
  };
};

/** `cpu_reset`: the registers of a vCPU that is being reset, or has got INIT. */
export const logResets = (sink: LogSink): VmLog => ({
  reset: (vcpu, init) =>
    sink(`CPU ${init ? 'INIT' : 'Reset'} (CPU ${vcpu.index})\n${formatRegisters(snapshotRegisters(vcpu))}\n`),
});

/** `guest_errors`, as far as the processor sees them. */
export const logGuestErrors = (sink: LogSink): VmLog => ({
  entryRefused: (vcpu, { section, name }) =>
    sink(`CPU ${vcpu.index}: VM entry at ${ripOf(vcpu)} refused: ${name} (SDM ${section})\n`),
  tripleFault: (vcpu) => sink(`CPU ${vcpu.index}: triple fault, ${levelOf(vcpu)}, at ${ripOf(vcpu)}\n`),
});

/** `unimp`, likewise. */
export const logUnimplemented = (sink: LogSink): VmLog => ({
  msrRefused: (vcpu, index, write) =>
    sink(`CPU ${vcpu.index}: ${write ? 'WRMSR' : 'RDMSR'} ${hex(index)} refused, at ${ripOf(vcpu)}\n`),
});
