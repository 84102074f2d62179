/**
 * The interrupt hardware of one VM: local APICs, I/O APIC, 8259 pair, 8254, and the wires between them.
 *
 * Owns    who hears a message (destinations, shorthands, lowest priority), where a line leads, and which of two
 *         controllers a vCPU listens to.
 * Knows   devices only as lines, and the vCPU layer only as `CpuSink`.
 *
 *   line(0) ───────────┬─▶ 8259 IR0               PIT counter 0 is on line 0, which is pin 2: the usual override
 *   line(n), n < 16 ───┼─▶ 8259 IRn   ── INTR ──▶ LINT0 of every local APIC, and I/O APIC pin 0
 *   line(n), n < 24 ───┴─▶ I/O APIC pin n ──────▶ messages ──▶ local APICs ◀── MSI, IPI
 *
 * Source  SDM 3A 10.6.2 "Determining IPI Destination"; MultiProcessor Specification 1.4, 3.6.2 "Interrupt Modes".
 */
import { isBroadcast, matchesX2apicLogical, matchesXapicLogical } from '../../arch/apic/destination.ts';
import {
  IO_APIC_BYTES,
  IO_APIC_DEFAULT_BASE,
  IO_APIC_PINS,
  MSI_ADDRESS,
  MSI_ADDRESS_TOP,
  MSI_DATA,
} from '../../arch/apic/io-apic.ts';
import { APIC, DELIVERY, deliveryMode, ICR, ICR_SHORTHAND_SHIFT, SHORTHAND, SVR } from '../../arch/apic/registers.ts';
import { assert } from '../../base/assert.ts';
import { has } from '../../base/bits.ts';
import type { Clock } from '../../contracts/clock.ts';
import type { Bus, IrqLine } from '../../contracts/device.ts';
import { CoprocessorError } from './coprocessor.ts';
import { IoApic, type IoApicState } from './io-apic.ts';
import { LocalApic, type LocalApicState } from './local-apic.ts';
import { PicPair, type PicState } from './pic.ts';
import { Pit, type PitState } from './pit.ts';
import { TickScale } from './ticks.ts';
import type { ApicFabric, ApicFeatures, CpuSink, TscSource } from './wires.ts';

/** ISA IRQ 0 and the pin that the ACPI interrupt source override gives it. */
const TIMER_IRQ = 0;
const TIMER_PIN = 2;
const COPROCESSOR_IRQ = 13;
/** The 8259s' INTR on the I/O APIC: software may set this entry to ExtINT. */
const EXTINT_PIN = 0;

export const APIC_BUS_HERTZ = 1_000_000_000;

export interface IrqChipOptions {
  readonly cpus: number;
  readonly clock: Clock;
  readonly sink: CpuSink;
  readonly features: ApicFeatures;
  /** Each vCPU's counter, for TSC-deadline mode. */
  readonly tsc: readonly TscSource[];
  /** Initial APIC IDs; by default the vCPU's number. */
  readonly apicIds?: readonly number[];
  /** Clock of the APIC timer before its divider. 1 GHz by default. */
  readonly busHertz?: number;
}

export interface IrqChipState {
  apics: LocalApicState[];
  ioApic: IoApicState;
  pic: PicState;
  pit: PitState;
  /** Per line, how many of its sources are asserted. */
  asserted: number[];
  /** Per source, in the order of creation. */
  sources: boolean[];
  extInt: boolean[];
}

/** One driver of a line. Several may share it: the line is asserted while any of them is. */
class Source implements IrqLine {
  level = false;
  readonly #changed: (level: boolean) => void;

  constructor(changed: (level: boolean) => void) {
    this.#changed = changed;
  }

  set(level: boolean): void {
    if (this.level === level) return;
    this.level = level;
    this.#changed(level);
  }
}

export class IrqChip implements ApicFabric {
  readonly apics: readonly LocalApic[];
  readonly ioApic: IoApic;
  readonly pic: PicPair;
  readonly pit: Pit;
  /** The HPET's legacy replacement takes line 0 from the 8254, or gives it back. */
  readonly blockPit: (blocked: boolean) => void;
  #pitLevel = false;
  #pitBlocked = false;
  #nmiLevel = false;
  #nmiMasked = false;
  readonly #sink: CpuSink;
  readonly #asserted = new Uint8Array(IO_APIC_PINS);
  readonly #sources: Source[] = [];
  /** An ExtINT message has arrived and was not acknowledged. */
  readonly #extInt: boolean[];

  constructor(options: IrqChipOptions) {
    assert(options.cpus >= 1 && options.tsc.length >= options.cpus, 'every vCPU has a time-stamp counter');
    this.#sink = options.sink;
    this.#extInt = new Array(options.cpus).fill(false);
    const bus = new TickScale(options.busHertz ?? APIC_BUS_HERTZ);
    this.pic = new PicPair((level) => this.#intrChanged(level));
    this.ioApic = new IoApic((destination, logical, mode, vector, level) =>
      this.#deliver(destination, logical, false, mode, vector, level),
    );
    this.apics = Array.from(
      { length: options.cpus },
      (_, cpu) =>
        new LocalApic({
          cpu,
          initialId: options.apicIds?.[cpu] ?? cpu,
          features: options.features,
          fabric: this,
          sink: options.sink,
          clock: options.clock,
          bus,
          tsc: options.tsc[cpu]!,
        }),
    );
    this.coprocessor = new CoprocessorError(this.line(COPROCESSOR_IRQ));
    const irq0 = this.line(TIMER_IRQ);
    this.pit = new Pit({
      clock: options.clock,
      irq0: {
        set: (level) => {
          this.#pitLevel = level;
          irq0.set(level && !this.#pitBlocked);
        },
      },
    });
    this.blockPit = (blocked) => {
      this.#pitBlocked = blocked;
      irq0.set(this.#pitLevel && !blocked);
    };
  }

  // For devices.

  /**
   * A new source on line `gsi`. Lines below 16 are the ISA IRQs and lead to the 8259s as well; line 0 leads to I/O APIC
   * pin 2, as the ACPI override says. Every device takes its own source, also where devices share a line.
   *
   * @param gsi  0 to 23.
   */
  line(gsi: number): IrqLine {
    assert(Number.isInteger(gsi) && gsi >= 0 && gsi < IO_APIC_PINS, 'a line is one of the 24 pins of the I/O APIC');
    const source = new Source((level) => this.#sourceChanged(gsi, level));
    this.#sources.push(source);
    return source;
  }

  /**
   * A write of a device to the interrupt address range: SDM 3A 10.11 "Message Signalled Interrupts".
   *
   * @param addressHigh  Bits 31:8 are bits 31:8 of the destination where more than 255 APICs are addressed; else 0.
   * @returns            Whether a local APIC took it. `false` also if the address is not that of a message.
   */
  deliverMsi(addressLow: number, addressHigh: number, data: number): boolean {
    if (addressLow >>> 20 !== MSI_ADDRESS_TOP) return false;
    const level = has(data, MSI_DATA.LEVEL);
    if (level && !has(data, MSI_DATA.ASSERT)) return false;
    const destination = (((addressLow >>> 12) & 0xff) | (addressHigh & 0xffff_ff00)) >>> 0;
    return this.#deliver(
      destination,
      has(addressLow, MSI_ADDRESS.LOGICAL),
      false,
      deliveryMode(data),
      data & 0xff,
      level,
    );
  }

  /** The NMI line (system errors): LINT1 of every local APIC, unless it is masked. */
  setNmi(level: boolean): void {
    this.#nmiLevel = level;
    for (const apic of this.apics) apic.setLint(1, level && !this.#nmiMasked);
  }

  /** Port 70H bit 7. A line that is asserted when the mask goes is an edge. */
  maskNmi(masked: boolean): void {
    if (masked === this.#nmiMasked) return;
    this.#nmiMasked = masked;
    this.setNmi(this.#nmiLevel);
  }

  /** Puts the I/O APIC, the 8259s, the 8254 and port 61H where a PC has them. Local APICs are reached by their vCPU. */
  attachTo(bus: Bus): void {
    bus.addPorts(0x20, 2, this.pic.master, '8259 master');
    bus.addPorts(0xa0, 2, this.pic.slave, '8259 slave');
    bus.addPorts(0x4d0, 2, this.pic.elcr, '8259 ELCR');
    bus.addPorts(0x40, 4, this.pit, '8254');
    bus.addPorts(0x61, 1, this.pit.port61, 'port 61H');
    bus.addPorts(0xf0, 1, this.coprocessor, 'coprocessor error');
    bus.addMmio(IO_APIC_DEFAULT_BASE, IO_APIC_BYTES, this.ioApic, 'I/O APIC');
  }

  // For the vCPU layer.

  /** What a PC makes of FERR#: IRQ 13, until port F0H is written. */
  readonly coprocessor: CoprocessorError;

  /** Whether a maskable interrupt waits for `cpu`. Asked in every round of the run loop: no search, no allocation. */
  hasInterrupt(cpu: number): boolean {
    return this.apics[cpu]!.pendingVector() >= 0 || this.hasExternal(cpu);
  }

  /** Whether it waits in the 8259s. */
  hasExternal(cpu: number): boolean {
    return this.#extInt[cpu]! || (this.pic.intr && this.apics[cpu]!.acceptsExternal());
  }

  /** The vCPU takes an interrupt: the INTA cycle. @returns the vector, or -1 if none waits. */
  acknowledge(cpu: number): number {
    if (this.hasExternal(cpu)) {
      this.#extInt[cpu] = false;
      return this.pic.acknowledge();
    }
    return this.apics[cpu]!.acknowledge();
  }

  /** Power-up and RESET# of the whole chip. Device lines keep their levels. */
  reset(): void {
    this.#extInt.fill(false);
    this.ioApic.reset();
    this.pic.reset();
    this.pit.reset();
    this.coprocessor.reset();
    for (const apic of this.apics) apic.reset();
  }

  /**
   * What a PC's firmware leaves to a kernel that is loaded directly: virtual wire mode through the boot processor's
   * LINT0, NMI on LINT1, and 8259s that have been initialized and masked. MultiProcessor Specification 1.4, 3.6.2.2
   * "Virtual Wire Mode".
   */
  leaveAsFirmware(): void {
    const bsp = this.apics[0]!;
    bsp.writeMmio(APIC.SVR, 4, SVR.ENABLE | 0xff);
    bsp.writeMmio(APIC.LVT_LINT0, 4, DELIVERY.EXTINT << 8);
    bsp.writeMmio(APIC.LVT_LINT1, 4, DELIVERY.NMI << 8);
    for (const [chip, base, wiring] of [
      [this.pic.master, 0x08, 0x04],
      [this.pic.slave, 0x70, 0x02],
    ] as const) {
      chip.writePort(0, 1, 0x11);
      chip.writePort(1, 1, base);
      chip.writePort(1, 1, wiring);
      chip.writePort(1, 1, 0x01);
      chip.writePort(1, 1, 0xff);
    }
  }

  save(): IrqChipState {
    return {
      apics: this.apics.map((apic) => apic.save()),
      ioApic: this.ioApic.save(),
      pic: this.pic.save(),
      pit: this.pit.save(),
      asserted: Array.from(this.#asserted),
      sources: this.#sources.map((source) => source.level),
      extInt: [...this.#extInt],
    };
  }

  /** Into a chip with the same vCPUs and the same lines taken in the same order. */
  load(state: IrqChipState): void {
    assert(state.apics.length === this.apics.length, 'a snapshot has the vCPUs of the machine it is loaded into');
    assert(
      state.sources.length === this.#sources.length,
      'a snapshot has the devices of the machine it is loaded into',
    );
    this.#asserted.set(state.asserted);
    this.#sources.forEach((source, index) => {
      source.level = state.sources[index]!;
    });
    state.extInt.forEach((pending, cpu) => {
      this.#extInt[cpu] = pending;
    });
    this.ioApic.load(state.ioApic);
    this.pic.load(state.pic);
    for (const [cpu, apic] of this.apics.entries()) apic.load(state.apics[cpu]!);
    this.pit.load(state.pit);
  }

  // For the local APICs.

  sendIpi(source: number, icr: number, destination: number, wide: boolean): void {
    const mode = deliveryMode(icr);
    // 10.6.1 "Level": INIT level de-assert resets arbitration IDs on processors that had them; no one hears it.
    if (mode === DELIVERY.INIT && has(icr, ICR.LEVEL) && !has(icr, ICR.ASSERT)) return;
    const shorthand = (icr >>> ICR_SHORTHAND_SHIFT) & 3;
    const vector = icr & 0xff;
    if (shorthand === SHORTHAND.NONE) {
      this.#deliver(destination, has(icr, ICR.LOGICAL), wide, mode, vector, false);
      return;
    }
    if (shorthand === SHORTHAND.SELF) {
      this.#deliverTo(source, mode, vector, false);
      return;
    }
    for (let cpu = 0; cpu < this.apics.length; cpu++) {
      if (shorthand === SHORTHAND.ALL || cpu !== source) this.#deliverTo(cpu, mode, vector, false);
    }
  }

  broadcastEoi(vector: number): void {
    this.ioApic.endOfInterrupt(vector);
  }

  #intrChanged(level: boolean): void {
    for (const apic of this.apics) apic.setLint(0, level);
    this.ioApic.setPin(EXTINT_PIN, level);
  }

  #sourceChanged(gsi: number, level: boolean): void {
    const sources = this.#asserted[gsi]! + (level ? 1 : -1);
    this.#asserted[gsi] = sources;
    if (sources !== (level ? 1 : 0)) return; // neither the first to assert the line nor the last to let go
    if (gsi < 16) this.pic.setLine(gsi, level);
    if (gsi === TIMER_IRQ) this.ioApic.setPin(TIMER_PIN, level || this.#asserted[TIMER_PIN]! > 0);
    else if (gsi === TIMER_PIN) this.ioApic.setPin(TIMER_PIN, level || this.#asserted[TIMER_IRQ]! > 0);
    else this.ioApic.setPin(gsi, level);
  }

  /**
   * A message to whom its destination names. SDM 3A 10.6.2.
   *
   * @param wide  The destination has 32 bits (from an x2APIC), not 8.
   */
  #deliver(
    destination: number,
    logical: boolean,
    wide: boolean,
    mode: number,
    vector: number,
    level: boolean,
  ): boolean {
    let taken = false;
    let lowest = -1;
    for (let cpu = 0; cpu < this.apics.length; cpu++) {
      const apic = this.apics[cpu]!;
      if (!apic.isEnabled || !this.#isAddressed(apic, destination, logical, wide)) continue;
      if (mode !== DELIVERY.LOWEST) {
        if (this.#deliverTo(cpu, mode, vector, level)) taken = true;
      } else if (apic.isSoftwareEnabled) {
        // 10.6.2.4 "Lowest Priority Delivery Mode". Equal priorities: the lowest number, so that runs repeat.
        if (lowest < 0 || apic.priority < this.apics[lowest]!.priority) lowest = cpu;
      }
    }
    return lowest >= 0 ? this.#deliverTo(lowest, mode, vector, level) : taken;
  }

  #isAddressed(apic: LocalApic, destination: number, logical: boolean, wide: boolean): boolean {
    if (isBroadcast(destination, wide)) return true;
    const ldr = apic.words[APIC.LDR >>> 2]!;
    if (apic.isX2apic) {
      return logical ? matchesX2apicLogical(ldr, destination) : destination === apic.initialId;
    }
    if (destination > 0xff) return false;
    return logical
      ? matchesXapicLogical(ldr, apic.words[APIC.DFR >>> 2]!, destination)
      : destination === apic.words[APIC.ID >>> 2]! >>> 24;
  }

  /** SDM 3A 10.6.1 "Delivery Mode". @returns whether the local APIC took it. */
  #deliverTo(cpu: number, mode: number, vector: number, level: boolean): boolean {
    const apic = this.apics[cpu]!;
    if (!apic.isEnabled) return false;
    switch (mode) {
      case DELIVERY.FIXED:
      case DELIVERY.LOWEST:
        return apic.accept(vector, level);
      case DELIVERY.NMI:
        this.#sink.nmi(cpu);
        return true;
      case DELIVERY.INIT:
        this.#sink.init(cpu);
        return true;
      case DELIVERY.STARTUP:
        this.#sink.startup(cpu, vector);
        return true;
      case DELIVERY.EXTINT:
        this.#extInt[cpu] = true;
        this.#sink.wake(cpu);
        return true;
      default: // SMI: this machine has no SMM. Remote read: not on any processor since the Pentium.
        return false;
    }
  }
}
