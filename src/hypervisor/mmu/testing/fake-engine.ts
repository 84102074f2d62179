/**
 * A machine for tests of the MMU: RAM, one or more vCPUs whose engine is a small software walker over the second-stage
 * tables with a TLB model, and the skeleton of nested VMX (entry, exit, the current VMCS12's MMU fields).
 *
 * It walks guest tables with code of its own, so that it shares nothing with walker.ts.
 */
import { CR0, CR4, EFER } from '../../../arch/registers.ts';
import { assert } from '../../../base/assert.ts';
import { SPTE, SPTE_PRESENT } from '../../../contracts/second-stage.ts';
import { EPT_CAP } from '../ept.ts';
import type { Capabilities } from '../format.ts';
import type { OracleResult, OracleWorld } from '../oracle.ts';
import { compose } from '../oracle.ts';
import type { EngineViolation, NestedPort, VcpuRegs } from '../ports.ts';
import { addSlot } from '../slots.ts';
import { VcpuMmu } from '../vcpu-mmu.ts';
import { DEFAULT_CONFIG, type MmuConfig, VmMmu } from '../vm-mmu.ts';
import { guestStored } from '../zap.ts';
import { FakeTlb } from './fake-tlb.ts';

export const ALL_CAPS: Capabilities = {
  physicalAddressBits: 40,
  gbPages: true,
  linearAddressBits: 48,
  amd: false,
  ept: Object.values(EPT_CAP).reduce((a, b) => a | b, 0),
  vpid: 0xf01,
};

export class FakeRegs implements VcpuRegs {
  cr0 = 0;
  cr3Lo = 0;
  cr3Hi = 0;
  cr4 = 0;
  efer = 0;
  pkru = 0;
  ac = false;
  cpl = 0;
  smm = false;
  ripLo = 0;
  ripHi = 0;
  readonly pdptrs = new Uint32Array(8);
  setCr3(lo: number, hi: number): void {
    this.cr3Lo = lo;
    this.cr3Hi = hi;
  }
  pdptrLo(i: number): number {
    return this.pdptrs[2 * i]!;
  }
  pdptrHi(i: number): number {
    return this.pdptrs[2 * i + 1]!;
  }
  setPdptr(i: number, lo: number, hi: number): void {
    this.pdptrs[2 * i] = lo;
    this.pdptrs[2 * i + 1] = hi;
  }
}

export interface PagingMode {
  readonly cr0: number;
  readonly cr3: number;
  readonly cr4: number;
  readonly efer: number;
}

export const FLAT: PagingMode = { cr0: CR0.PE, cr3: 0, cr4: 0, efer: 0 };
export const longMode = (cr3: number, more: Partial<PagingMode> = {}): PagingMode => ({
  cr0: CR0.PE | CR0.PG | CR0.WP,
  cr4: CR4.PAE,
  efer: EFER.LME | EFER.LMA | EFER.NXE,
  cr3,
  ...more,
});
export const legacyMode = (cr3: number, cr4 = 0): PagingMode => ({ cr0: CR0.PE | CR0.PG | CR0.WP, cr4, efer: 0, cr3 });
export const paeMode = (cr3: number): PagingMode => ({
  cr0: CR0.PE | CR0.PG | CR0.WP,
  cr4: CR4.PAE,
  efer: EFER.NXE,
  cr3,
});

export interface ExitToL1 {
  readonly reason: number;
  readonly qualification: number;
  readonly guestPhysical: number;
  readonly linear: number;
}

export class FakeNested implements NestedPort {
  guestMode = false;
  usesEpt = false;
  usesMbec = false;
  usesVpid = false;
  vpid = 1;
  eptPointerLo = 0;
  eptPointerHi = 0;
  eptpSwitching = false;
  eptpListAddress = 0;
  usesPml = false;
  pmlAddress = 0;
  pmlIndex = 511;
  exits: ExitToL1[] = [];
  faults: { code: number; address: number }[] = [];
  onExit: () => void = () => {};
  setEptPointer(lo: number, hi: number): void {
    this.eptPointerLo = lo;
    this.eptPointerHi = hi;
  }
  exitForEpt(reason: number, qualification: number, guestPhysical: number, lo: number, hi: number): void {
    this.exits.push({ reason, qualification, guestPhysical, linear: hi * 2 ** 32 + lo });
    this.onExit();
  }
  injectPageFault(code: number, lo: number, hi: number): void {
    this.faults.push({ code, address: hi * 2 ** 32 + lo });
  }
}

export interface Access {
  readonly write?: boolean;
  readonly user?: boolean;
  readonly fetch?: boolean;
}

export type AccessResult =
  | { readonly kind: 'ram'; readonly host: number }
  | { readonly kind: 'mmio'; readonly gpa: number }
  | { readonly kind: '#PF'; readonly code: number; readonly address: number }
  | { readonly kind: 'exit'; readonly exit: ExitToL1 };

export interface EnterOptions {
  readonly eptp?: number;
  readonly vpid?: number;
  readonly mbec?: boolean;
  readonly mode?: PagingMode;
}

/** RAM of `pages` pages at gfn 0, from host page 512 on (so that 2 MiB pages are possible). */
export const HOST_BASE = 512;

export class FakeMachine {
  readonly memory: { u32: Uint32Array; u8: Uint8Array };
  readonly vm: VmMmu;
  readonly vcpus: FakeVcpu[] = [];
  /** Host addresses at which L0 has stored. */
  readonly stored = new Set<number>();

  constructor(config: Partial<MmuConfig> = {}, pages = 2048, hostPages = HOST_BASE + pages) {
    const u32 = new Uint32Array(hostPages * 1024);
    this.memory = { u32, u8: new Uint8Array(u32.buffer) };
    const remote = {
      flushVmWide: () => {
        for (const { tlb } of this.vcpus) tlb.flushVmWide();
      },
      stored: (host: number) => {
        this.stored.add(host);
      },
      kick: () => {},
    };
    const full = { ...DEFAULT_CONFIG, capabilities: ALL_CAPS, pageLimit: 512, ...config };
    this.vm = new VmMmu(full, this.memory, remote);
    addSlot(this.vm, { id: 0, baseGfn: 0, pages, hostBase: HOST_BASE, readOnly: false, dirtyLog: false });
    this.addVcpu();
  }

  get cpu(): FakeVcpu {
    return this.vcpus[0]!;
  }

  addVcpu(): FakeVcpu {
    const vcpu = new FakeVcpu(this);
    this.vcpus.push(vcpu);
    return vcpu;
  }

  /** Linear-memory index of an L1-physical address; -1 in a hole. */
  at(gpa: number): number {
    const gfn = Math.floor(gpa / 4096);
    const slot = this.vm.slots.find(gfn);
    return slot === null ? -1 : slot.hostPage(gfn) * 1024 + ((gpa % 4096) >>> 2);
  }

  /** Sets memory before anyone looks, or behind L0's back. */
  poke64(gpa: number, lo: number, hi = 0): void {
    const at = this.at(gpa);
    this.memory.u32[at] = lo;
    this.memory.u32[at + 1] = hi;
  }

  poke32(gpa: number, value: number): void {
    this.memory.u32[this.at(gpa)] = value;
  }

  peek(gpa: number): number {
    return this.memory.u32[this.at(gpa)]!;
  }

  /** A device or L0 writes guest memory, and says so. */
  dma64(gpa: number, lo: number, hi = 0): void {
    this.poke64(gpa, lo, hi);
    guestStored(this.vm, gpa, 8);
  }
}

/** Guest rights in TLB entries. */
const G = { R: 1, W: 2, U: 4, X: 8 } as const;

export class FakeVcpu {
  readonly machine: FakeMachine;
  readonly regs = new FakeRegs();
  readonly tlb = new FakeTlb();
  readonly nested = new FakeNested();
  readonly mmu: VcpuMmu;
  /** L1's registers while L2 runs. */
  l1: PagingMode = FLAT;
  violations = 0;
  /** How often an L2 was entered. */
  entries = 0;
  readonly #fault: EngineViolation = { gpa: 0, qualification: 0, linearLo: 0, linearHi: 0, mmio: false, access: 0 };

  constructor(machine: FakeMachine) {
    this.machine = machine;
    this.mmu = new VcpuMmu(machine.vm, this.regs, this.tlb, this.nested);
    this.nested.onExit = () => this.exitL2();
  }

  // ── modes and nesting ──

  #registers(mode: PagingMode): void {
    this.regs.cr0 = mode.cr0;
    this.regs.cr4 = mode.cr4;
    this.regs.efer = mode.efer;
  }

  /** Sets the running level's paging mode as MOV CR0/CR4/CR3 and WRMSR would. */
  setMode(mode: PagingMode): void {
    const { cr0, cr4, efer } = this.regs;
    this.#registers(mode);
    this.regs.setCr3(mode.cr3 >>> 0, Math.floor(mode.cr3 / 2 ** 32));
    if ((mode.cr0 & CR0.PG) !== 0 && (mode.cr4 & CR4.PAE) !== 0 && (mode.efer & EFER.LMA) === 0) {
      this.mmu.loadPdptrs(mode.cr3);
    }
    this.mmu.cr4Written(cr4);
    this.mmu.eferWritten(efer);
    this.mmu.cr0Written(cr0);
    if (!this.mmu.mmuIsNested) this.mmu.newPgd(this.regs.cr3Lo, this.regs.cr3Hi);
    this.mmu.requests |= 1 << 5;
  }

  writeCr3(cr3: number, noFlush = false): boolean {
    const hi = Math.floor(cr3 / 2 ** 32);
    return this.mmu.writeCr3(cr3 >>> 0, noFlush ? (hi | 0x8000_0000) >>> 0 : hi);
  }

  /** VM entry, 4.10. */
  enterL2(options: EnterOptions = {}): void {
    const { mmu, nested, regs } = this;
    assert(!nested.guestMode, 'entry is from L1');
    this.entries += 1;
    this.l1 = { cr0: regs.cr0, cr4: regs.cr4, efer: regs.efer, cr3: regs.cr3Hi * 2 ** 32 + regs.cr3Lo };
    mmu.serviceLocalRequests();
    nested.usesEpt = options.eptp !== undefined;
    nested.usesMbec = options.mbec ?? false;
    nested.usesVpid = options.vpid !== undefined;
    nested.vpid = options.vpid ?? 0;
    if (options.eptp !== undefined) nested.setEptPointer(options.eptp >>> 0, Math.floor(options.eptp / 2 ** 32));
    nested.guestMode = true;
    mmu.transitionTlbFlush(true);
    if (nested.usesEpt) mmu.nestedEptInit();
    else mmu.nestedEnterWithoutEpt();
    const mode = options.mode ?? FLAT;
    this.#registers(mode);
    const result = mmu.loadCr3(mode.cr3 >>> 0, Math.floor(mode.cr3 / 2 ** 32), nested.usesEpt, true);
    assert(result === 'ok', `entry loads CR3 (${result})`);
  }

  /** VM exit, 4.13. */
  exitL2(): void {
    const { mmu, nested } = this;
    assert(nested.guestMode, 'exit is from L2');
    mmu.serviceLocalRequests();
    nested.guestMode = false;
    this.#registers(this.l1);
    mmu.nestedEptUninit();
    mmu.loadCr3(this.l1.cr3 >>> 0, Math.floor(this.l1.cr3 / 2 ** 32), false, true);
    mmu.transitionTlbFlush(false);
  }

  // ── accesses ──

  read(linear: number, more: Access = {}): AccessResult {
    return this.access(linear, more);
  }

  /** Runs one access as the engine would, until it succeeds or someone else must act. */
  access(linear: number, access: Access = {}): AccessResult {
    const lo = linear >>> 0;
    const hi = Math.floor(linear / 2 ** 32);
    for (let attempt = 0; attempt < 40; attempt += 1) {
      assert(this.mmu.reload(), 'a root can be loaded');
      const { exits, faults } = this.nested;
      const seen = exits.length;
      const pfs = faults.length;
      const result = this.#once(lo, hi, access);
      if (result !== null) return result;
      if (exits.length > seen) return { kind: 'exit', exit: exits.at(-1)! };
      if (faults.length > pfs) return { kind: '#PF', ...faults.at(-1)! };
    }
    throw new Error(`access to ${linear.toString(16)} does not settle`);
  }

  /** Stores eight bytes through the running level's translation. */
  store64(linear: number, lo: number, hi = 0): AccessResult {
    const result = this.access(linear, { write: true });
    if (result.kind === 'ram') {
      const { u32 } = this.machine.memory;
      u32[result.host >>> 2] = lo;
      u32[(result.host >>> 2) + 1] = hi;
      this.#notify(result.host, 8);
    }
    return result;
  }

  store32(linear: number, value: number): AccessResult {
    const result = this.access(linear, { write: true });
    if (result.kind === 'ram') {
      this.machine.memory.u32[result.host >>> 2] = value;
      this.#notify(result.host, 4);
    }
    return result;
  }

  #tracked = false;

  #notify(host: number, bytes: number): void {
    if (this.#tracked) this.mmu.trackWriteHost(host, bytes);
  }

  #once(lo: number, hi: number, a: Access): AccessResult | null {
    this.#tracked = false;
    const root = this.tlb.root;
    const page = hi * 2 ** 20 + (lo >>> 12);
    const pcid = (this.regs.cr4 & CR4.PCIDE) !== 0 ? this.regs.cr3Lo & 0xfff : 0;
    const key = `${this.tlb.tag}:${root.id}:${pcid}:${page}`;
    const cached = this.tlb.enabled ? this.tlb.entries.get(key) : undefined;
    if (cached !== undefined) {
      if (this.#allowed(cached.guest, cached.pkey, cached.spte, a)) {
        this.#tracked = a.write === true && (cached.spte & SPTE.TRACKED) !== 0;
        return { kind: 'ram', host: cached.hostPage * 4096 + (lo & 0xfff) };
      }
      this.tlb.entries.delete(key);
    }
    return root.linear ? this.#linear(lo, hi, a, key, page, pcid) : this.#twoLevel(lo, hi, a, key, page, pcid);
  }

  /** Live checks at a hit. Anything else takes the full walk. */
  #allowed(guest: number, pkey: number, spte: number, a: Access): boolean {
    if (a.write && (spte & (SPTE.W | SPTE.TRACKED)) === 0) return false;
    if (!a.write && !a.fetch && (spte & SPTE.R) === 0) return false;
    const mbecUser = this.tlb.root.mbec && (guest & G.U) !== 0;
    if (a.fetch && (spte & (mbecUser ? SPTE.U : SPTE.X)) === 0) return false;
    return this.#guestError(guest, pkey, a) === 0;
  }

  /** 0, or P and PK. */
  #guestError(guest: number, pkey: number, a: Access): number {
    const { cr0, cr4, efer, pkru, ac } = this.regs;
    if ((cr0 & CR0.PG) === 0) return 0;
    const user = a.user === true;
    const wp = (cr0 & CR0.WP) !== 0;
    // PK does not depend on what else forbids the access
    if ((cr4 & CR4.PKE) !== 0 && (efer & EFER.LMA) !== 0 && (guest & G.U) !== 0 && !a.fetch) {
      const bits = pkru >>> (2 * pkey);
      if ((bits & 1) !== 0 || ((bits & 2) !== 0 && a.write && (user || wp))) return 1 | 32;
    }
    if (user && (guest & G.U) === 0) return 1;
    if (a.fetch && (guest & G.X) === 0) return 1;
    if (a.fetch && !user && (guest & G.U) !== 0 && (cr4 & CR4.SMEP) !== 0) return 1;
    if (a.write && (guest & G.W) === 0 && (user || wp)) return 1;
    if (!a.fetch && !user && (guest & G.U) !== 0 && (cr4 & CR4.SMAP) !== 0 && !ac) return 1;
    return 0;
  }

  // ── shadow paging: the root maps linear addresses ──

  #linear(lo: number, hi: number, a: Access, key: string, page: number, pcid: number): AccessResult | null {
    const [spte, host] = this.#walkTables(page);
    const code = (a.write ? 2 : 0) | (a.user ? 4 : 0) | (a.fetch ? 16 : 0);
    const paging = (this.regs.cr0 & CR0.PG) !== 0;
    let error = -1;
    if ((spte & SPTE_PRESENT) === 0) error = 0;
    else if ((spte & SPTE.MMIO) !== 0) error = 9;
    else {
      const guest =
        G.R | (spte & (SPTE.W | SPTE.TRACKED) ? G.W : 0) | (spte & SPTE.U ? G.U : 0) | (spte & SPTE.X ? G.X : 0);
      // Under a linear root CR0.WP counts as 1.
      if (a.write && (guest & G.W) === 0) error = 1;
      else if (paging && this.#guestError(guest, 0, a) !== 0) error = 1;
      else {
        if (this.tlb.enabled) {
          this.tlb.entries.set(key, {
            tag: this.tlb.tag,
            root: this.tlb.root.id,
            pcid,
            global: false,
            page,
            hostPage: host,
            guest,
            pkey: 0,
            spte,
          });
        }
        this.#tracked = a.write === true && (spte & SPTE.TRACKED) !== 0;
        return { kind: 'ram', host: host * 4096 + (lo & 0xfff) };
      }
    }
    this.violations += 1;
    return this.#answer(this.mmu.handlePageFault(lo, hi, code | error));
  }

  // ── two levels ──

  #twoLevel(lo: number, hi: number, a: Access, key: string, page: number, pcid: number): AccessResult | null {
    const { cr0 } = this.regs;
    let guest: number = G.R | G.W | G.U | G.X;
    let pkey = 0;
    let gpa = lo;
    let raw = guest;
    if ((cr0 & CR0.PG) !== 0) {
      const end = this.#walkGuest(lo, hi, a);
      if (end === null || 'kind' in end) return end;
      ({ guest, pkey, gpa, raw } = end);
    }
    const [spte, host] = this.#physical(gpa);
    const mbecUser = this.tlb.root.mbec && (raw & G.U) !== 0;
    let ok = (spte & SPTE_PRESENT) !== 0 && (spte & SPTE.MMIO) === 0;
    if (a.write) ok &&= (spte & (SPTE.W | SPTE.TRACKED)) !== 0;
    else if (a.fetch) ok &&= (spte & (mbecUser ? SPTE.U : SPTE.X)) !== 0;
    else ok &&= (spte & SPTE.R) !== 0;
    if (!ok) {
      let q = (a.write ? 2 : a.fetch ? 4 : 1) | ((spte & SPTE.MMIO) === 0 ? (spte & 7) << 3 : 0) | 0x180;
      if ((raw & G.U) !== 0) q |= 0x200;
      if ((raw & G.W) !== 0) q |= 0x400;
      if ((raw & G.X) === 0) q |= 0x800;
      return this.#violation(gpa, q, lo, hi, (spte & SPTE.MMIO) !== 0, a);
    }
    if ((cr0 & CR0.PG) !== 0) {
      const refused = this.#setAccessedDirty(a, lo, hi);
      if (refused !== undefined) return refused;
    }
    if (this.tlb.enabled) {
      this.tlb.entries.set(key, {
        tag: this.tlb.tag,
        root: this.tlb.root.id,
        pcid,
        global: false,
        page,
        hostPage: host,
        guest,
        pkey,
        spte,
      });
    }
    this.#tracked = a.write === true && (spte & SPTE.TRACKED) !== 0;
    return { kind: 'ram', host: host * 4096 + (gpa % 4096) };
  }

  /** [address, entry low half, level is leaf] of the last guest walk. */
  readonly #path: { gpa: number; entry: number; leaf: boolean }[] = [];

  #walkGuest(
    lo: number,
    hi: number,
    a: Access,
  ): { guest: number; raw: number; pkey: number; gpa: number } | AccessResult | null {
    const { cr4, efer, cr0 } = this.regs;
    const { u32 } = this.machine.memory;
    const pae = (cr4 & CR4.PAE) !== 0;
    const long = (efer & EFER.LMA) !== 0;
    const nxe = pae && (efer & EFER.NXE) !== 0;
    const code = (a.write ? 2 : 0) | (a.user ? 4 : 0) | (a.fetch && (nxe || (cr4 & CR4.SMEP) !== 0) ? 16 : 0);
    const fault = (more: number): AccessResult => ({ kind: '#PF', code: code | more, address: hi * 2 ** 32 + lo });
    let table = this.regs.cr3Hi * 2 ** 32 + ((this.regs.cr3Lo & ~0xfff) >>> 0);
    let level = long ? ((cr4 & CR4.LA57) !== 0 ? 5 : 4) : 2;
    if (pae && !long) {
      const i = lo >>> 30;
      if ((this.regs.pdptrLo(i) & 1) === 0) return fault(0);
      table = this.regs.pdptrHi(i) * 2 ** 32 + ((this.regs.pdptrLo(i) & ~0xfff) >>> 0);
    }
    const linear = hi * 2 ** 32 + lo;
    let guest: number = G.R | G.W | G.U | G.X;
    this.#path.length = 0;
    const maxHigh = 2 ** (this.machine.vm.formats.capabilities.physicalAddressBits - 32);
    for (; ; level -= 1) {
      const shift = pae ? 12 + 9 * (level - 1) : 12 + 10 * (level - 1);
      const index = Math.floor(linear / 2 ** shift) % (pae ? 512 : 1024);
      const at = table + index * (pae ? 8 : 4);
      const host = this.#tableHost(at, lo, hi, this.tlb.root.accessedDirty, a);
      if (typeof host !== 'number') return host;
      const entry = u32[host >>> 2]!;
      const high = pae ? u32[(host >>> 2) + 1]! : 0;
      if ((entry & 1) === 0) return fault(0);
      const size = (entry & 0x80) !== 0;
      const leaf = level === 1 || (size && (level === 2 ? pae || (cr4 & CR4.PSE) !== 0 : level === 3));
      let reserved = false;
      if (pae) {
        reserved ||= (high & (long ? 0xf_ffff : 0x7fff_ffff)) >= maxHigh;
        reserved ||= !nxe && high >>> 31 !== 0;
        if (level >= 4) reserved ||= size;
        if (level === 3 && size) reserved ||= (entry & 0x3fff_e000) !== 0;
        if (level === 2 && size) reserved ||= (entry & 0x1f_e000) !== 0;
      } else if (leaf && level === 2) reserved = (entry & 0x3e_0000) !== 0;
      if (reserved) return fault(9);
      if ((entry & 2) === 0) guest &= ~G.W;
      if ((entry & 4) === 0) guest &= ~G.U;
      if (nxe && high >>> 31 !== 0) guest &= ~G.X;
      this.#path.push({ gpa: at, entry, leaf });
      const frame = (high & 0xf_ffff) * 2 ** 32 + ((entry & ~0xfff) >>> 0);
      if (!leaf) {
        table = frame;
        continue;
      }
      const pkey = (high >>> 27) & 15;
      const error = this.#guestError(guest, pkey, a);
      if (error !== 0) return fault(error);
      const span = 2 ** shift;
      const base =
        pae || level === 1 ? frame - (frame % span) : ((entry & 0xffc0_0000) >>> 0) + ((entry >>> 13) & 15) * 2 ** 32;
      const dirty = a.write || (entry & 0x40) !== 0;
      // A supervisor may write through a read-only entry with CR0.WP = 0; raw rights stay in the TLB entry.
      const raw = guest;
      void cr0;
      return { guest: dirty ? guest : guest & ~G.W, raw, pkey, gpa: base + (linear % span) };
    }
  }

  #setAccessedDirty(a: Access, lo: number, hi: number): AccessResult | null | undefined {
    const { u32 } = this.machine.memory;
    for (const { gpa, entry, leaf } of this.#path) {
      const wanted = entry | 0x20 | (leaf && a.write ? 0x40 : 0);
      if (wanted === entry) continue;
      const place = this.#tableHost(gpa, lo, hi, true, a);
      if (typeof place !== 'number') return place;
      u32[place >>> 2] = u32[place >>> 2]! | wanted;
      const [spte] = this.#physical(gpa);
      if ((spte & SPTE.TRACKED) !== 0) this.mmu.trackWriteHost(place, 4);
    }
    return undefined;
  }

  /** Host address of a table entry, or what the violation led to. */
  #tableHost(gpa: number, lo: number, hi: number, write: boolean, a: Access): number | AccessResult | null {
    const [spte, host] = this.#physical(gpa);
    const mmio = (spte & SPTE.MMIO) !== 0;
    if (!mmio && (spte & SPTE.R) !== 0 && (!write || (spte & (SPTE.W | SPTE.TRACKED)) !== 0))
      return host * 4096 + (gpa % 4096);
    return this.#violation(gpa, (write ? 3 : 1) | (mmio ? 0 : (spte & 7) << 3) | 0x80, lo, hi, mmio, a);
  }

  #violation(
    gpa: number,
    qualification: number,
    lo: number,
    hi: number,
    mmio: boolean,
    a: Access,
  ): AccessResult | null {
    this.violations += 1;
    this.tlb.physical.delete(`${this.tlb.root.id}:${Math.floor(gpa / 4096)}`);
    const f = this.#fault;
    f.gpa = gpa;
    f.qualification = qualification;
    f.linearLo = lo;
    f.linearHi = hi;
    f.mmio = mmio;
    f.access = (a.write ? 2 : 0) | (a.user ? 4 : 0) | (a.fetch ? 16 : 0);
    return this.#answer(this.mmu.handleEptViolation(f));
  }

  #answer(result: ReturnType<VcpuMmu['handleEptViolation']>): AccessResult | null {
    switch (result) {
      case 'mmio':
        assert(!this.mmu.mmio.table, 'a table without RAM is a #PF, and these tests have none in ROM');
        return { kind: 'mmio', gpa: this.mmu.mmio.gpa };
      case 'tracked':
        throw new Error('this engine stores to tracked pages without asking');
      case 'no-pages':
        throw new Error('no shadow pages');
      default:
        return null;
    }
  }

  /** A guest-physical translation, through the cache of such. */
  #physical(gpa: number): readonly [number, number] {
    const page = Math.floor(gpa / 4096);
    const key = `${this.tlb.root.id}:${page}`;
    const cached = this.tlb.enabled ? this.tlb.physical.get(key) : undefined;
    if (cached !== undefined) return cached;
    const found = this.#walkTables(page);
    if (this.tlb.enabled && (found[0] & SPTE_PRESENT) !== 0 && (found[0] & SPTE.MMIO) === 0)
      this.tlb.physical.set(key, found);
    return found;
  }

  #walkTables(page: number): [number, number] {
    const { lo, hi } = this.machine.vm.tables;
    let { table, levels } = this.tlb.root;
    for (; ; levels -= 1) {
      const span = 512 ** (levels - 1);
      const at = table * 512 + (Math.floor(page / span) % 512);
      const entry = lo[at]!;
      if ((entry & SPTE_PRESENT) === 0) return [0, 0];
      if ((entry & (SPTE.LEAF | SPTE.MMIO)) !== 0 || levels === 1) return [entry, hi[at]! + (page % span)];
      table = hi[at]!;
    }
  }

  // ── the oracle ──

  world(): OracleWorld {
    const { regs, nested, machine } = this;
    const { capabilities: caps } = machine.vm.formats;
    const { u32 } = machine.memory;
    return {
      read: (gpa, bytes) => {
        const at = machine.at(gpa);
        if (at < 0) return null;
        return bytes === 4 ? BigInt(u32[at]!) : BigInt(u32[at]!) | (BigInt(u32[at + 1]!) << 32n);
      },
      frame: (gfn) => {
        const slot = machine.vm.slots.find(gfn);
        return slot === null ? null : { hostPage: slot.hostPage(gfn), readOnly: slot.readOnly };
      },
      physicalAddressBits: caps.physicalAddressBits,
      gbPages: caps.gbPages,
      cr0: { pg: (regs.cr0 & CR0.PG) !== 0, wp: (regs.cr0 & CR0.WP) !== 0 },
      cr3: (BigInt(regs.cr3Hi) << 32n) | BigInt(regs.cr3Lo),
      cr4: {
        pse: (regs.cr4 & CR4.PSE) !== 0,
        pae: (regs.cr4 & CR4.PAE) !== 0,
        la57: (regs.cr4 & CR4.LA57) !== 0,
        smep: (regs.cr4 & CR4.SMEP) !== 0,
        smap: (regs.cr4 & CR4.SMAP) !== 0,
        pke: (regs.cr4 & CR4.PKE) !== 0,
      },
      efer: { lma: (regs.efer & EFER.LMA) !== 0, nxe: (regs.efer & EFER.NXE) !== 0 },
      pkru: regs.pkru,
      ac: regs.ac,
      pdptrs: [0, 1, 2, 3].map((i) => BigInt(regs.pdptrLo(i)) | (BigInt(regs.pdptrHi(i)) << 32n)),
      ept:
        nested.guestMode && nested.usesEpt
          ? {
              eptp: (BigInt(nested.eptPointerHi) << 32n) | BigInt(nested.eptPointerLo),
              execOnly: (caps.ept & EPT_CAP.EXECUTE_ONLY) !== 0,
              mbec: nested.usesMbec,
              pages2m: (caps.ept & EPT_CAP.PAGE_2M) !== 0,
              pages1g: (caps.ept & EPT_CAP.PAGE_1G) !== 0,
            }
          : null,
    };
  }

  /** What the manuals say about the same access, on memory as it is now. */
  oracle(linear: number, access: Access = {}): OracleResult {
    return compose(this.world(), BigInt(linear), {
      write: access.write === true,
      user: access.user === true,
      fetch: access.fetch === true,
      implicit: false,
    });
  }
}

/** Both in the same words, for comparison. Qualification bits 9 to 11 are left out: the oracle does not say them. */
export function describeResult(result: AccessResult | OracleResult, linear: number): string {
  switch (result.kind) {
    case 'ram':
      return 'host' in result ? `ram ${Math.floor(result.host / 4096)}` : `ram ${result.hostPage}`;
    case 'mmio':
      return `mmio ${result.gpa}`;
    case '#PF':
      return `#PF ${result.code} at ${Number(result.address)}`;
    case 'exit':
      return result.exit.reason === 49
        ? `misconfiguration ${result.exit.guestPhysical}`
        : `violation ${result.exit.qualification & 0x1ff} ${result.exit.guestPhysical} for ${result.exit.linear}`;
    case 'violation':
      return `violation ${result.qualification} ${result.ngpa} for ${linear}`;
    case 'misconfiguration':
      return `misconfiguration ${result.ngpa}`;
  }
}
