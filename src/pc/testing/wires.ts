import type { L1Physical } from '../../base/address.ts';
import { InvariantError } from '../../base/assert.ts';
import type { Clock, Timer } from '../../contracts/clock.ts';
import type { AccessSize, Bus, IrqLine, MmioDevice, PortDevice } from '../../contracts/device.ts';
import type { GuestMemory } from '../../contracts/memory.ts';

/** Contracts made of nothing but arrays: what a test of a device plugs it into. Not part of any machine. */

/** A line that remembers every change of its level. */
export class RecordingLine implements IrqLine {
  level = false;
  /** Each rise and fall, in order. */
  readonly edges: boolean[] = [];

  set(level: boolean): void {
    if (level === this.level) return;
    this.level = level;
    this.edges.push(level);
  }

  get rises(): number {
    return this.edges.filter((edge) => edge).length;
  }
}

/** A clock that moves when told to; timers fire on the way, at their deadlines and in order. */
export class ManualClock implements Clock {
  #now = 0;
  readonly #timers: { fire: () => void; deadlineNs: number }[] = [];

  nowNs(): number {
    return this.#now;
  }

  createTimer(_name: string, fire: () => void): Timer {
    const timer = { fire, deadlineNs: -1 };
    this.#timers.push(timer);
    return {
      arm: (deadlineNs) => {
        timer.deadlineNs = deadlineNs;
      },
      disarm: () => {
        timer.deadlineNs = -1;
      },
      get deadlineNs() {
        return timer.deadlineNs;
      },
    };
  }

  /** Deadline of the timer that fires next, or -1. */
  get nextNs(): number {
    return this.#next()?.deadlineNs ?? -1;
  }

  advanceTo(ns: number): void {
    for (let next = this.#next(); next && next.deadlineNs <= ns; next = this.#next()) {
      this.#now = Math.max(this.#now, next.deadlineNs);
      next.deadlineNs = -1;
      next.fire();
    }
    this.#now = Math.max(this.#now, ns);
  }

  advance(ns: number): void {
    this.advanceTo(this.#now + ns);
  }

  #next(): { fire: () => void; deadlineNs: number } | undefined {
    const armed = this.#timers.filter((timer) => timer.deadlineNs >= 0);
    return armed.sort((a, b) => a.deadlineNs - b.deadlineNs)[0];
  }
}

/** RAM in 64 KiB pieces from 0 up to a size, sparse; with an optional second part from 4 GiB on. */
export class SparseMemory implements GuestMemory {
  readonly #pieces = new Map<number, Uint8Array>();
  readonly #lowBytes: number;
  readonly #highBytes: number;

  constructor(lowBytes: number, highBytes = 0) {
    this.#lowBytes = lowBytes;
    this.#highBytes = highBytes;
  }

  #isRam(at: number): boolean {
    return at >= 0 && (at < this.#lowBytes || (at >= 2 ** 32 && at < 2 ** 32 + this.#highBytes));
  }

  #piece(at: number): Uint8Array {
    const index = Math.floor(at / 0x1_0000);
    let piece = this.#pieces.get(index);
    if (!piece) this.#pieces.set(index, (piece = new Uint8Array(0x1_0000)));
    return piece;
  }

  copyOut(from: L1Physical, into: Uint8Array): number {
    for (let i = 0; i < into.length; i += 1) {
      if (!this.#isRam(from + i)) return i;
      into[i] = this.#piece(from + i)[(from + i) % 0x1_0000]!;
    }
    return into.length;
  }

  copyIn(to: L1Physical, bytes: Uint8Array): number {
    for (let i = 0; i < bytes.length; i += 1) {
      if (!this.#isRam(to + i)) return i;
      this.#piece(to + i)[(to + i) % 0x1_0000] = bytes[i]!;
    }
    return bytes.length;
  }

  #read(from: number, size: number): number {
    const bytes = new Uint8Array(size).fill(0xff);
    this.copyOut(from as L1Physical, bytes);
    return bytes.reduce((value, byte, i) => value + byte * 256 ** i, 0);
  }

  #write(to: number, size: number, value: number): void {
    this.copyIn(
      to as L1Physical,
      Uint8Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 0xff),
    );
  }

  read8(from: L1Physical): number {
    return this.#read(from, 1);
  }
  read16(from: L1Physical): number {
    return this.#read(from, 2);
  }
  read32(from: L1Physical): number {
    return this.#read(from, 4);
  }
  write8(to: L1Physical, value: number): void {
    this.#write(to, 1, value);
  }
  write16(to: L1Physical, value: number): void {
    this.#write(to, 2, value);
  }
  write32(to: L1Physical, value: number): void {
    this.#write(to, 4, value);
  }
}

interface Mapping<Device> {
  readonly first: number;
  readonly count: number;
  readonly device: Device;
  readonly name: string;
}

/** Routes accesses as the machine does: ones where nobody answers, an error for ranges that overlap. */
export class TestBus implements Bus {
  readonly ports: Mapping<PortDevice>[] = [];
  readonly memory: Mapping<MmioDevice>[] = [];

  addPorts(first: number, count: number, device: PortDevice, name: string): void {
    this.#add(this.ports, { first, count, device, name });
  }
  addMmio(first: number, bytes: number, device: MmioDevice, name: string): void {
    this.#add(this.memory, { first, count: bytes, device, name });
  }
  removePorts(first: number, count: number): void {
    this.#remove(this.ports, first, count);
  }
  removeMmio(first: number, bytes: number): void {
    this.#remove(this.memory, first, bytes);
  }

  in(port: number, size: AccessSize = 1): number {
    const at = this.ports.find((one) => port >= one.first && port < one.first + one.count);
    return at ? at.device.readPort(port - at.first, size) : 256 ** size - 1;
  }
  out(port: number, value: number, size: AccessSize = 1): void {
    const at = this.ports.find((one) => port >= one.first && port < one.first + one.count);
    at?.device.writePort(port - at.first, size, value);
  }
  read(address: number, size: AccessSize = 4): number {
    const at = this.memory.find((one) => address >= one.first && address < one.first + one.count);
    return at ? at.device.readMmio(address - at.first, size) : 256 ** size - 1;
  }
  write(address: number, value: number, size: AccessSize = 4): void {
    const at = this.memory.find((one) => address >= one.first && address < one.first + one.count);
    at?.device.writeMmio(address - at.first, size, value);
  }

  #add<Device>(list: Mapping<Device>[], mapping: Mapping<Device>): void {
    const other = list.find(
      (one) => one.first < mapping.first + mapping.count && mapping.first < one.first + one.count,
    );
    if (other) throw new InvariantError(`${mapping.name} overlaps ${other.name}`);
    list.push(mapping);
  }

  #remove<Device>(list: Mapping<Device>[], first: number, count: number): void {
    const at = list.findIndex((one) => one.first === first && one.count === count);
    if (at >= 0) list.splice(at, 1);
  }
}
