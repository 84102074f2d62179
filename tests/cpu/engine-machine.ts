/**
 * The engine as a machine for tests/cpu: runs one user-mode instruction with the pages of protocol.ts mapped.
 */
import { CR0, CR4, EFER, RFLAGS } from '../../src/arch/registers.ts';
import type { EngineVcpu } from '../../src/engine/core/cpu.ts';
import { EXIT, X } from '../../src/engine/core/exits.ts';
import { gpr, REC, S, SEG, segment } from '../../src/engine/core/layout.ts';
import type { Accelerator } from '../../src/engine/core/memory.ts';
import { Engine } from '../../src/engine/engine.ts';
import type { Machine } from './lockstep.ts';
import { type CpuCase, type CpuOutcome, type CpuState, DONE, PAGES, TIMEOUT, untouchedMemory } from './protocol.ts';

const CODE_FRAME = 0x10;
const DATA_FRAME = 0x12;
const RODATA_FRAME = 0x14;
const STACK_FRAME = 0x15;
const TABLES = 0x20;
const RAM_BYTES = 1 << 20;

export class EngineMachine implements Machine {
  readonly engine: Engine;
  readonly vcpu: EngineVcpu;
  readonly #ram: number;
  #tables = TABLES;

  readonly #compiled: boolean;

  /** @param options.accel  Not the interpreter: the instruction runs as a region, with the INT3 behind it. */
  constructor(
    has: (feature: string) => boolean = () => true,
    options: { vendor?: 'intel' | 'amd'; accel?: Accelerator } = {},
  ) {
    const accel = options.accel ?? 'interpreter';
    this.#compiled = accel !== 'interpreter';
    this.engine = new Engine(
      {
        contexts: 4,
        codeBytes: 4 << 20,
        ramBytes: RAM_BYTES,
        vcpus: 1,
        accel,
        jitThreshold: 1,
        jitBatch: 1,
      },
      {
        physicalBits: 48,
        gigabytePages: true,
        // The processor that vectors come from has no LA57: its segment bases have 48 bits
        cr4: 0x7f_ffff & ~CR4.LA57,
        efer: EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE,
        xcr0: 7,
        vendor: options.vendor ?? 'amd',
        has,
      },
      {
        mmioRead: () => 0,
        mmioWrite() {},
        portRead: () => 0,
        portWrite() {},
        opensPort: () => false,
        closesPort: () => 0,
        trackWrite() {},
        pdptesLegal: () => true,
        tsc: (n) => n,
        tscHigh: 0,
        msrRead: () => false,
        msrWrite: () => false,
        msrLow: 0,
        msrHigh: 0,
        tscRate: 0,
        ticks: (n) => n,
      },
    );
    this.vcpu = this.engine.createVcpu(0);
    this.#ram = this.engine.memory.ram;
    // Second stage: 1 MiB from 0, in 4 KiB leaves
    const lo = new Uint32Array(512 * 4);
    const hi = new Uint32Array(512 * 4);
    for (let level = 0; level < 3; level += 1) {
      lo[level * 512] = 7;
      hi[level * 512] = level + 1;
    }
    for (let page = 0; page < RAM_BYTES / 4096; page += 1) {
      lo[3 * 512 + page] = 7 | 0x10;
      hi[3 * 512 + page] = (this.#ram >>> 12) + page;
    }
    this.engine.tables = { lo, hi };
    this.engine.loadRoot(this.vcpu, { table: 0, id: 1, levels: 4, accessedDirty: false, mbec: false, linear: false });
    this.#tables += 1;
    for (const high of [0n, PAGES.HIGH]) {
      for (let i = 0; i < 2; i += 1) {
        this.#map(high + BigInt(PAGES.CODE + 4096 * i), CODE_FRAME + i, true);
        this.#map(high + BigInt(PAGES.DATA + 4096 * i), DATA_FRAME + i, true);
      }
      this.#map(high + BigInt(PAGES.RODATA), RODATA_FRAME, false);
      this.#map(high + BigInt(PAGES.STACK), STACK_FRAME, true);
    }
    this.vcpu.intercepts.exceptions = 0xffff_ffff;
  }

  /** One 4 KiB page at `linear`. */
  #map(linear: bigint, frame: number, writable: boolean): void {
    const { u32 } = this.engine.memory;
    let table = TABLES;
    for (let level = 4; level >= 1; level -= 1) {
      const index = Number((linear >> BigInt(12 + 9 * (level - 1))) & 511n);
      const at = (this.#ram + table * 4096 + index * 8) >>> 2;
      if (level === 1) u32[at] = (frame << 12) | 0x65 | (writable ? 2 : 0);
      else {
        if (!(u32[at]! & 1)) u32[at] = (this.#tables++ << 12) | 0x27;
        table = u32[at]! >>> 12;
      }
    }
  }

  /** Host address of a case's address (low alias). */
  #host(address: number): number {
    const page = Math.floor(address / 4096) * 4096;
    const frame =
      page >= PAGES.STACK
        ? STACK_FRAME
        : page >= PAGES.RODATA
          ? RODATA_FRAME
          : page >= PAGES.DATA
            ? DATA_FRAME + (page - PAGES.DATA) / 4096
            : CODE_FRAME + (page - PAGES.CODE) / 4096;
    return this.#ram + frame * 4096 + (address % 4096);
  }

  run(one: CpuCase): CpuOutcome {
    const { engine, vcpu } = this;
    const { u8 } = engine.memory;
    const cpu = engine.processor;
    for (const { address, bytes } of untouched) u8.set(bytes, this.#host(address));
    for (const { address, bytes } of one.memory) u8.set(bytes, this.#host(address));
    const codeHost = this.#host(PAGES.CODE);
    u8.fill(0xcc, codeHost, codeHost + 8192);
    const codeAt = Number(one.before.rip & 0xffff_ffffn) - PAGES.CODE;
    u8.set(one.code.subarray(0, Math.min(one.code.length, 8192 - codeAt)), codeHost + codeAt);
    for (let page = 0; page < 6; page += 1) engine.code.dropPage((this.#ram >>> 12) + CODE_FRAME + page);
    engine.activate(vcpu);
    this.#load(one);
    cpu.contextChanged();
    let reason: number = EXIT.BUDGET;
    const sequence = one.instructions ?? 0;
    const repeats = sequence === 0 && one.code.some((byte, i) => i < 4 && (byte === 0xf2 || byte === 0xf3));
    // A run that goes on behind the instruction is only entered with a budget for that
    cpu.modeChanged();
    const record = engine.code.entry(codeHost + codeAt, cpu.get(S.MODE));
    const run = cpu.u16[(record + REC.REMAINING) >>> 1]!;
    const budget = sequence > 0 ? sequence + 1 : this.#compiled && !repeats ? Math.min(run, 2) : 1;
    for (let round = 0; round < 20_000; round += 1) {
      reason = engine.run(vcpu, budget);
      if (reason !== EXIT.BUDGET || !repeats || vcpu.state.big(S.RIP) !== one.before.rip) break;
      if (round === 19_999) return this.#outcome(one, TIMEOUT, 0, 0n);
    }
    if (reason === EXIT.BUDGET) return this.#outcome(one, DONE, 0, 0n);
    if (reason !== EXIT.EXCEPTION) throw new Error(`left with exit reason 0x${reason.toString(16)}`);
    const information = cpu.get(X.INTERRUPTION);
    const vector = information & 0xff;
    // The INT3 behind the instruction or the sequence
    if (budget >= 2 && vector === 3) return this.#outcome(one, DONE, 0, 0n);
    const error = information & 0x800 ? cpu.get(X.INTERRUPTION_ERROR) : 0;
    if (((information >>> 8) & 7) >= 5)
      vcpu.state.setU64(S.RIP, cpu.get(S.RIP) + cpu.get(X.LENGTH), cpu.get(S.RIP + 4));
    return this.#outcome(one, vector, error, vector === 14 ? vcpu.state.big(X.QUALIFICATION) : 0n);
  }

  #load(one: CpuCase): void {
    const cpu = this.engine.processor;
    const { state } = this.vcpu;
    const { before } = one;
    const put = (address: number, value: bigint): void =>
      state.setU64(address, Number(value & 0xffff_ffffn), Number((value >> 32n) & 0xffff_ffffn));
    before.gpr.forEach((value, i) => {
      put(gpr(i), value);
    });
    put(S.RIP, before.rip);
    cpu.setRflags(before.rflags | RFLAGS.IF);
    cpu.set(S.CR0, (CR0.PG | CR0.PE | CR0.MP | CR0.ET | CR0.NE | CR0.WP | CR0.AM) >>> 0);
    cpu.set64(S.CR3, TABLES << 12, 0);
    cpu.set(S.CR4, CR4.PAE | CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.FSGSBASE | CR4.OSXSAVE | CR4.PGE);
    cpu.set(S.EFER, EFER.SCE | EFER.LME | EFER.LMA | EFER.NXE);
    cpu.set(S.XCR0, 7);
    cpu.set(S.CPL, 3);
    cpu.set(S.SHADOW_KIND, 0);
    cpu.set64(S.DR + 56, 0x400, 0);
    for (let seg = 0; seg < 6; seg += 1) {
      const at = segment(seg);
      const is32 = one.mode === 32;
      cpu.u16[(at + SEG.SELECTOR) >>> 1] = seg === SEG.CS ? (is32 ? 0x23 : 0x33) : 0x2b;
      cpu.set(at + SEG.ACCESS, seg === SEG.CS ? (is32 ? 0xc0fb : 0xa0fb) : 0xc0f3);
      cpu.set(at + SEG.LIMIT, 0xffff_ffff);
      cpu.set64(at + SEG.BASE, 0, 0);
    }
    put(segment(SEG.FS) + SEG.BASE, before.fsBase);
    put(segment(SEG.GS) + SEG.BASE, before.gsBase);
    const image = before.fxsave;
    const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
    cpu.u16[S.FCW >>> 1] = view.getUint16(0, true);
    const status = view.getUint16(2, true);
    const top = (status >>> 11) & 7;
    cpu.set(S.FSW, 0);
    cpu.u16[S.FSW >>> 1] = status & ~0x3800;
    cpu.set(S.FTOP, top);
    for (let i = 0; i < 8; i += 1) {
      cpu.u8[S.FEMPTY + i] = (image[4]! >>> i) & 1 ? 0 : 1;
      const physical = (top + i) & 7;
      cpu.u8.set(image.subarray(32 + 16 * i, 42 + 16 * i), S.FPR + 16 * physical);
    }
    cpu.u16[S.FOP >>> 1] = view.getUint16(6, true);
    cpu.set64(S.FIP, view.getUint32(8, true), 0);
    cpu.set64(S.FDP, view.getUint32(16, true), 0);
    cpu.set(S.MXCSR, view.getUint32(24, true));
    cpu.u8.set(image.subarray(160, 160 + 256), S.XMM);
    cpu.u8.set(before.ymmHigh, S.YMMH);
  }

  #outcome(one: CpuCase, vector: number, errorCode: number, cr2: bigint): CpuOutcome {
    const cpu = this.engine.processor;
    const { state } = this.vcpu;
    const fxsave = one.before.fxsave.slice();
    const view = new DataView(fxsave.buffer);
    view.setUint16(0, cpu.u16[S.FCW >>> 1]!, true);
    const top = cpu.get(S.FTOP) & 7;
    view.setUint16(2, (cpu.u16[S.FSW >>> 1]! & ~0x3800) | (top << 11), true);
    let tags = 0;
    for (let i = 0; i < 8; i += 1) {
      if (cpu.u8[S.FEMPTY + i] === 0) tags |= 1 << i;
      fxsave.set(cpu.u8.subarray(S.FPR + 16 * ((top + i) & 7), S.FPR + 16 * ((top + i) & 7) + 10), 32 + 16 * i);
    }
    fxsave[4] = tags;
    view.setUint16(6, cpu.u16[S.FOP >>> 1]!, true);
    view.setUint32(24, cpu.get(S.MXCSR), true);
    fxsave.set(cpu.u8.subarray(S.XMM, S.XMM + 256), 160);
    const after: CpuState = {
      gpr: BigUint64Array.from({ length: 16 }, (_, i) => state.big(gpr(i))),
      rip: state.big(S.RIP),
      rflags: cpu.rflags(),
      fsBase: state.big(segment(SEG.FS) + SEG.BASE),
      gsBase: state.big(segment(SEG.GS) + SEG.BASE),
      fxsave,
      ymmHigh: cpu.u8.slice(S.YMMH, S.YMMH + 256),
    };
    const memory = one.memory.map(({ address, bytes }) => ({
      address,
      bytes: cpu.u8.slice(this.#host(address), this.#host(address) + bytes.length),
    }));
    return { vector, errorCode, cr2, after, memory, stray: false, fpChanged: false };
  }
}

const untouched = untouchedMemory();
