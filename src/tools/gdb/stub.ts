/**
 * The commands of GDB's remote protocol, as QEMU's stub has them: a thread is a vCPU, memory is that of the level that
 * runs on it.
 *
 * Owns    one connection's state: which thread is meant, which breakpoints are of which kind, whether gdb waits for a stop.
 * Knows   no socket. The machine never runs while a command is dealt with.
 *
 * Source  Debugging with GDB, appendix E: E.2 "Packets", E.3 "Stop Reply Packets", E.4 "General Query Packets"; QEMU,
 *         "GDB usage", for `qqemu.` packets and for what a step of one thread means.
 */
import { UserError } from '../../base/assert.ts';
import type { Vcpu } from '../../hypervisor/vcpu/vcpu.ts';
import { VmDebugger, type WatchKind } from '../../hypervisor/vm/debugger.ts';
import { snapshotRegisters } from '../../inspect/registers.ts';
import type { Machine } from '../../machine/machine.ts';
import { Monitor, type SessionControl } from '../cli/monitor/monitor.ts';
import { readMemory, writeMemory } from './memory.ts';
import { bytesOf, hexOf, PACKET_BYTES_MAX, PacketReader, packet, type Received } from './packets.ts';
import {
  allRegisters,
  REGISTERS,
  registerBytes,
  targetDescription,
  writeAllRegisters,
  writeRegister,
} from './registers.ts';

export interface StubWires {
  readonly machine: Machine;
  readonly session: SessionControl;
  send(bytes: Uint8Array): void;
}

const OK = 'OK';
/** Errors are numbers of errno.h: no such thing, no such memory. */
const EINVAL = 'E16';
const EFAULT = 'E0e';
/** Signals: SIGINT, SIGTRAP. */
const SIGNAL = { INTERRUPT: '02', TRAP: '05' } as const;
/** Most bytes that a watchpoint is for. */
const WATCH_MAX = 0x1_0000;
/** Text of one "O" packet. */
const OUTPUT_CHUNK = PACKET_BYTES_MAX / 4;

const WATCHES: Readonly<Record<string, WatchKind>> = { 2: 'write', 3: 'read', 4: 'access' };
const WATCH_NAMES: Readonly<Record<WatchKind, string>> = { write: 'watch', read: 'rwatch', access: 'awatch' };

/** `''`: the command is unknown. `null`: the answer comes when the machine stops. */
type Answer = string | null;

export class GdbStub {
  readonly #wires: StubWires;
  readonly #machine: Machine;
  readonly #debugger: VmDebugger;
  readonly #monitor: Monitor;
  readonly #reader = new PacketReader();
  readonly #soft = new Set<bigint>();
  /** Whose registers and memory: Hg. Who is to go on: Hc. */
  #current: Vcpu;
  #runner: Vcpu | 'all' = 'all';
  #acknowledges = true;
  #tellsKind = false;
  #physical = false;
  #waits = false;
  #isOpen = true;
  #last: Uint8Array = new Uint8Array();

  /** Stops the machine, as gdb expects to find it. */
  constructor(wires: StubWires) {
    const { machine, session } = wires;
    this.#wires = wires;
    this.#machine = machine;
    this.#current = machine.vcpus[0]!;
    this.#debugger = new VmDebugger(machine.engine);
    machine.vm.debugger = this.#debugger;
    this.#monitor = new Monitor(machine, {
      get isStopped() {
        return session.isStopped;
      },
      stop: () => session.stop(),
      resume: () => {
        throw new UserError('gdb has stopped the machine: let gdb continue it.');
      },
      quit: (status) => session.quit(status),
      jitCache: session.jitCache,
    });
    session.stop();
  }

  /** gdb has the machine in hand: it let it run, or it stopped it. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  received(bytes: Uint8Array): void {
    const all: Received[] = [];
    this.#reader.feed(bytes, (what) => all.push(what));
    all.forEach((what, index) => {
      const next = all[index + 1];
      switch (what.kind) {
        case 'command':
          // Sent again before we were there to acknowledge it: once is enough
          if (this.#acknowledges && next?.kind === 'command' && next.text === what.text) break;
          this.#command(what.text);
          break;
        case 'damaged':
          if (this.#acknowledges) this.#sendText('-');
          break;
        case 'resend':
          if (this.#acknowledges) this.#wires.send(this.#last);
          break;
        case 'break':
          this.#wires.session.stop();
      }
    });
  }

  /** The machine has stopped, for whatever reason. */
  stopped(): void {
    if (!this.#waits) return;
    this.#waits = false;
    const { stop } = this.#debugger;
    if (stop) this.#current = stop.vcpu;
    else this.#debugger.prepare([], []);
    this.#send(this.#stopReply(SIGNAL.INTERRUPT));
  }

  /** The machine is over. */
  ended(status: number): void {
    if (this.#waits) this.#send(`W${byte(status)}`);
    this.#waits = false;
  }

  /** The connection is gone: no breakpoint is left, and the machine stays as it is, running or stopped. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#debugger.detach();
    this.#machine.vm.debugger = undefined;
  }

  // ---- packets ---------------------------------------------------------------------------------------------------------

  #command(text: string): void {
    if (this.#acknowledges) this.#sendText('+');
    if (!this.#isOpen) return;
    const answer = this.#answer(text);
    if (answer !== null) this.#send(answer);
    if (text === 'QStartNoAckMode') this.#acknowledges = false;
  }

  #send(text: string): void {
    this.#last = packet(text);
    this.#wires.send(this.#last);
  }

  #sendText(text: string): void {
    this.#wires.send(Uint8Array.of(text.charCodeAt(0)));
  }

  #answer(text: string): Answer {
    const rest = text.slice(1);
    switch (text[0]) {
      case '?':
        return this.#stopReply(SIGNAL.TRAP);
      case 'g':
        return hexOf(allRegisters(this.#current));
      case 'G':
        return this.#writeRegisters(rest);
      case 'p':
        return this.#readRegister(rest);
      case 'P':
        return this.#writeRegister(rest);
      case 'm':
        return this.#readMemory(rest);
      case 'M':
        return this.#writeMemory(rest, bytesOf);
      case 'X':
        return this.#writeMemory(rest, (data) => Uint8Array.from(data, (character) => character.charCodeAt(0)));
      case 'c':
      case 'C':
        return this.#goOn(rest, text[0] === 'C', false);
      case 's':
      case 'S':
        return this.#goOn(rest, text[0] === 'S', true);
      case 'H':
        return this.#setThread(rest);
      case 'T':
        return this.#threadOf(rest) ? OK : EINVAL;
      case 'Z':
      case 'z':
        return this.#breakpoint(rest, text[0] === 'Z');
      case 'D':
        return this.#detach();
      case 'k':
        this.#wires.session.quit(0);
        return null;
      case 'v':
        return this.#verbose(text);
      case 'q':
      case 'Q':
        return this.#query(text);
      default:
        return '';
    }
  }

  #verbose(text: string): Answer {
    if (text === 'vCont?') return 'vCont;c;C;s;S';
    if (text.startsWith('vCont;')) return this.#continueThreads(text.slice(6));
    if (text.startsWith('vKill')) {
      this.#wires.session.quit(0);
      return OK;
    }
    return '';
  }

  #query(text: string): Answer {
    const { vcpus } = this.#machine;
    const [, name, rest = ''] = /^([A-Za-z.]+)[:,;]?(.*)$/s.exec(text)!;
    switch (name) {
      case 'qSupported':
        this.#tellsKind = rest.includes('swbreak+');
        return [
          `PacketSize=${PACKET_BYTES_MAX.toString(16)}`,
          'qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+',
        ].join(';');
      case 'QStartNoAckMode':
        return OK;
      case 'qAttached':
        return '1';
      case 'qC':
        return `QC${threadId(this.#current)}`;
      case 'qfThreadInfo':
        return `m${vcpus.map(threadId).join(',')}`;
      case 'qsThreadInfo':
        return 'l';
      case 'qThreadExtraInfo': {
        const vcpu = this.#threadOf(rest);
        return vcpu ? hexOfText(describe(vcpu)) : EINVAL;
      }
      case 'qXfer':
        return transfer(rest);
      case 'qRcmd':
        return this.#monitorCommand(rest);
      case 'qqemu.Supported':
        return 'sstepbits;sstep;PhyMemMode';
      case 'qqemu.PhyMemMode':
        return this.#physical ? '1' : '0';
      case 'Qqemu.PhyMemMode':
        if (!/^[01]$/.test(rest)) return EINVAL;
        this.#physical = rest === '1';
        return OK;
      // A step that held interrupts off would not be what the machine does. QEMU's record and replay says the same
      case 'qqemu.sstepbits':
        return 'ENABLE=1';
      case 'qqemu.sstep':
        return '0x1';
      case 'Qqemu.sstep':
        return /^=?(0x)?1$/.test(rest) ? OK : EINVAL;
      default:
        return '';
    }
  }

  // ---- threads ---------------------------------------------------------------------------------------------------------

  #threadOf(text: string): Vcpu | undefined {
    const id = /^[\da-f]{1,8}$/i.test(text) ? Number.parseInt(text, 16) : -1;
    return this.#machine.vcpus[id - 1];
  }

  #setThread(text: string): Answer {
    const isAny = /^.(0|-1)$/.test(text);
    const vcpu = isAny ? this.#current : this.#threadOf(text.slice(1));
    if (!vcpu || (text[0] !== 'g' && text[0] !== 'c')) return EINVAL;
    if (text[0] === 'g') this.#current = vcpu;
    else this.#runner = isAny ? 'all' : vcpu;
    return OK;
  }

  // ---- registers and memory --------------------------------------------------------------------------------------------

  #readRegister(text: string): Answer {
    const register = REGISTERS[Number.parseInt(text, 16)];
    return register ? hexOf(registerBytes(register, snapshotRegisters(this.#current), this.#current)) : EINVAL;
  }

  #writeRegister(text: string): Answer {
    const [, number = '', value = ''] = /^([\da-f]+)=([\da-f]*)$/i.exec(text) ?? [];
    const register = REGISTERS[Number.parseInt(number, 16)];
    const bytes = bytesOf(value);
    return register && bytes && writeRegister(this.#current, register, bytes) ? OK : EINVAL;
  }

  #writeRegisters(text: string): Answer {
    const bytes = bytesOf(text);
    return bytes && writeAllRegisters(this.#current, bytes) ? OK : EINVAL;
  }

  #readMemory(text: string): Answer {
    const range = rangeOf(text);
    if (!range || range.bytes > PACKET_BYTES_MAX / 2) return EINVAL;
    const into = new Uint8Array(range.bytes);
    const found = readMemory(this.#current, this.#physical, range.address, into);
    return found === 0 && range.bytes > 0 ? EFAULT : hexOf(into.subarray(0, found));
  }

  #writeMemory(text: string, decode: (data: string) => Uint8Array | null): Answer {
    const colon = text.indexOf(':');
    const range = rangeOf(text.slice(0, colon));
    const bytes = decode(text.slice(colon + 1));
    if (colon < 0 || !range || bytes?.length !== range.bytes) return EINVAL;
    return writeMemory(this.#current, this.#physical, range.address, bytes) ? OK : EFAULT;
  }

  // ---- breakpoints -----------------------------------------------------------------------------------------------------

  #breakpoint(text: string, insert: boolean): Answer {
    const [, type = '', place = ''] = /^(\d),([^;]*)/.exec(text) ?? [];
    const range = rangeOf(place);
    if (!range) return EINVAL;
    const { address, bytes } = range;
    if (type === '0' || type === '1') {
      if (insert) this.#debugger.setBreakpoint(address);
      else this.#debugger.clearBreakpoint(address);
      if (type === '0' && insert) this.#soft.add(address);
      else this.#soft.delete(address);
      return OK;
    }
    const watch = WATCHES[type];
    if (!watch) return '';
    if (bytes < 1 || bytes > WATCH_MAX) return EINVAL;
    if (insert) this.#debugger.setWatchpoint(watch, address, bytes);
    else this.#debugger.clearWatchpoint(watch, address, bytes);
    return OK;
  }

  // ---- going on and stopping -------------------------------------------------------------------------------------------

  /** The old commands: the thread of Hc makes a step, or all go on. An address is where that thread goes on. */
  #goOn(text: string, hasSignal: boolean, step: boolean): Answer {
    const vcpu = this.#runner === 'all' ? this.#current : this.#runner;
    const address = hasSignal ? (text.split(';')[1] ?? '') : text;
    if (address !== '') {
      const range = rangeOf(`${address},0`);
      if (!range) return EINVAL;
      const rip = REGISTERS.find(({ name }) => name === 'rip')!;
      rip.write!(vcpu, range.address);
      vcpu.interfere();
    }
    return this.#resume(step ? [vcpu] : [], []);
  }

  /** Actions with the threads that they are for; the first one that fits counts, and who has none stays where it is. */
  #continueThreads(text: string): Answer {
    const steps: Vcpu[] = [];
    const held = new Set(this.#machine.vcpus);
    for (const part of text.split(';')) {
      const [, action, thread] = /^([cs]|[CS][\da-f]{2})(?::([\da-f]+|-1))?$/i.exec(part) ?? [];
      if (action === undefined) return EINVAL;
      const isForAll = thread === undefined || thread === '-1';
      const one = isForAll ? undefined : thread === '0' ? this.#current : this.#threadOf(thread);
      for (const vcpu of isForAll ? [...held] : one && held.has(one) ? [one] : []) {
        held.delete(vcpu);
        if (action[0]!.toLowerCase() === 's') steps.push(vcpu);
      }
    }
    return this.#resume(steps, [...held]);
  }

  #resume(steps: readonly Vcpu[], held: readonly Vcpu[]): null {
    this.#debugger.prepare(steps, held);
    this.#waits = true;
    this.#wires.session.resume();
    return null;
  }

  #detach(): Answer {
    this.close();
    this.#wires.session.resume();
    return OK;
  }

  /** @param otherwise  The signal if no breakpoint, watchpoint or step was the reason. */
  #stopReply(otherwise: string): string {
    const { stop } = this.#debugger;
    const vcpu = stop?.vcpu ?? this.#current;
    const level = vcpu.nested?.guestMode ? 'level:L2;' : '';
    const reply = `T${stop ? SIGNAL.TRAP : otherwise}thread:${threadId(vcpu)};${level}`;
    if (stop?.cause.kind === 'watchpoint') {
      return `${reply}${WATCH_NAMES[stop.cause.watch]}:${stop.cause.address.toString(16)};`;
    }
    if (stop?.cause.kind === 'breakpoint' && this.#tellsKind) {
      return `${reply}${this.#soft.has(stop.cause.address) ? 'swbreak' : 'hwbreak'}:;`;
    }
    return reply;
  }

  // ---- the monitor -----------------------------------------------------------------------------------------------------

  #monitorCommand(hex: string): Answer {
    const bytes = bytesOf(hex);
    if (!bytes) return EINVAL;
    this.#monitor.context.cpu = this.#current.index;
    const text = this.#monitor.execute(new TextDecoder().decode(bytes));
    const output = new TextEncoder().encode(text === '' ? '' : `${text}\n`);
    for (let at = 0; at < output.length; at += OUTPUT_CHUNK) {
      this.#send(`O${hexOf(output.subarray(at, at + OUTPUT_CHUNK))}`);
    }
    return OK;
  }
}

const byte = (value: number): string => (value & 0xff).toString(16).padStart(2, '0');
const threadId = ({ index }: Vcpu): string => (index + 1).toString(16).padStart(2, '0');
const hexOfText = (text: string): string => hexOf(new TextEncoder().encode(text));

/** What `info threads` shows. */
function describe(vcpu: Vcpu): string {
  const { level, mode, activity } = snapshotRegisters(vcpu);
  return `CPU#${vcpu.index} [${activity}] ${level}, ${mode}`;
}

/** `ADDRESS,LENGTH` in hexadecimal. */
function rangeOf(text: string): { readonly address: bigint; readonly bytes: number } | null {
  const [, address, bytes] = /^([\da-f]{1,16}),([\da-f]{1,8})$/i.exec(text) ?? [];
  return address === undefined ? null : { address: BigInt(`0x${address}`), bytes: Number.parseInt(bytes!, 16) };
}

/** qXfer:features:read:target.xml:OFFSET,LENGTH. */
function transfer(text: string): Answer {
  const [, annex, offset, length] = /^features:read:([^:]*):([\da-f]+),([\da-f]+)$/i.exec(text) ?? [];
  if (annex === undefined) return '';
  if (annex !== 'target.xml') return 'E00';
  const whole = targetDescription();
  const from = Number.parseInt(offset!, 16);
  const to = from + Math.min(Number.parseInt(length!, 16), PACKET_BYTES_MAX / 2);
  return `${to < whole.length ? 'm' : 'l'}${whole.slice(from, to)}`;
}
