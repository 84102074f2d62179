import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { BORN_DOUBLE } from '../../base/bits.ts';
import { SPTE, SPTE_PRESENT } from '../../contracts/second-stage.ts';
import type { EngineHost, EngineVcpu } from '../core/cpu.ts';
import { EXIT, X } from '../core/exits.ts';
import { ALLOW, QUICK, S, STATUS, TABLE_RIGHTS, TABLES, TLB, WALKS } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { ACCESS, PFEC, TRANSLATE } from './access.ts';
import { SecondStage } from './second-stage.ts';
import type { TlbContexts } from './tlb.ts';
import type { Watchpoints } from './watchpoints.ts';

/** Told by whoever keeps decoded code. */
export interface CodePages {
  /** Does this host page hold decoded code? */
  holds(hostPage: number): boolean;
  /** Bytes of a host page changed. */
  written(host: number, bytes: number): void;
}

/** Told what a walk is about to change, for who must be able to take it back: tiers/lockstep. */
export interface WalkJournal {
  /** The TLB entry at this address. */
  entry(address: number, forWriting: boolean): void;
  /** The page of this host address: it is written now, or from now on through a TLB entry. */
  page(host: number): void;
  /** Accessed and dirty `bits` of the table entry at this host address, on account of such an access. */
  mark(host: number, bits: number, access: number): void;
}

/**
 * Walks the page tables of whoever is running: linear address in, host address or fault out, and a TLB entry filled.
 *
 * Owns    the order of the checks, the accessed and dirty updates, the composition of the guest's tables with the
 *         second stage that L0 loaded, and the cache of guest-physical translations.
 * Never   raises a JavaScript exception, and never decides what a fault means: it fills in the fault or exit record,
 *         because only the caller knows whether a hypervisor intercepts #PF.
 *
 * Source  SDM 3A 4.3 to 4.6 "32-Bit Paging" … "Access Rights"; 3C 28.3 "The Extended Page Table Mechanism (EPT)";
 *         nested-mmu.md 7 "Contract with the execution engine".
 */
export class PageWalker {
  readonly #memory: EngineMemory;
  readonly #tlb: TlbContexts;
  readonly #host: EngineHost;
  readonly #code: CodePages;
  readonly secondStage: SecondStage;
  /** MAXPHYADDR. */
  physicalBits = 46;
  /** 1 GiB pages exist. */
  gigabytePages = true;

  /** L1- or L2-physical address of the last translation that ended at a device or a tracked page. */
  physical = BORN_DOUBLE;
  /** After a translation for writing: the page holds code, or is tracked; the store must be followed by `stored`. */
  oddPage = 0;

  /** Those of L0's debugger, if it has set any. */
  watchpoints: Watchpoints | undefined;

  journal: WalkJournal | undefined;

  constructor(memory: EngineMemory, tlb: TlbContexts, host: EngineHost, code: CodePages) {
    this.#memory = memory;
    this.#tlb = tlb;
    this.#host = host;
    this.#code = code;
    this.secondStage = new SecondStage(memory);
  }

  /** A data breakpoint is armed: data accesses leave no TLB entries, so that each one is seen. */
  get watching(): boolean {
    return this.#watching;
  }
  set watching(watching: boolean) {
    this.#watching = watching;
    if (watching) this.#memory.u32[S.QUICK >>> 2] = 0;
  }
  #watching = false;

  /**
   * Tells generated code whether it may walk the tables in force by itself (quick-walk.ts): after a change of CR0, CR4,
   * EFER, the root, or of whether accesses are looked at one by one (`careful`).
   */
  modeChanged(vcpu: EngineVcpu, careful: boolean): void {
    const { u32 } = this.#memory;
    const { root } = vcpu;
    const cr4 = u32[S.CR4 >>> 2]!;
    const efer = u32[S.EFER >>> 2]!;
    const two = (u32[S.CR0 >>> 2]! & CR0.PG) !== 0 && (efer & EFER.LMA) !== 0 && !root.linear && !root.mbec;
    let quick = 0;
    if (two && !careful && !this.#watching && !this.journal && !this.watchpoints?.any) {
      quick = cr4 & CR4.LA57 ? 5 : 4;
      if (root.accessedDirty) quick |= QUICK.WRITES_TABLES;
      if (this.gigabytePages) quick |= QUICK.GIGABYTE_PAGES;
    }
    u32[S.QUICK >>> 2] = quick;
    u32[S.QUICK_RESERVED >>> 2] = this.#reservedHigh(true, (efer & EFER.NXE) !== 0);
    u32[S.ROOT >>> 2] = root.id;
  }

  /** Forgets guest-physical translations: whenever L0 flushes anything but linear mappings. */
  flushPhysical(): void {
    this.secondStage.flush();
    this.#tlb.forgetTables();
  }

  /** After a store through an address for which `oddPage` was set. */
  stored(host: number, bytes: number): void {
    if (this.#code.holds(host >>> 12)) this.#code.written(host, bytes);
    if (this.oddPage & 2) this.#host.trackWrite(host, bytes);
  }

  /**
   * Host address of `linear` for an access, or a TRANSLATE answer. Fills the TLB. The access must not cross a page.
   */
  translate(vcpu: EngineVcpu, low: number, high: number, access: number): number {
    const { u32 } = this.#memory;
    const set = this.#setOf(access);
    const base = this.#tlb.set(vcpu.context, set);
    const array = access & ACCESS.FETCH ? TLB.EXECUTE : access & ACCESS.WRITE ? TLB.WRITE : 0;
    const entry = (base + array + ((low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES))) >>> 2;
    this.oddPage = 0;
    const page = (low & ~0xfff) >>> 0;
    if (u32[entry] === page && u32[entry + 1] === high >>> 0) return (low + u32[entry + 2]!) >>> 0;
    const { watchpoints } = this;
    if (watchpoints === undefined || access & ACCESS.FETCH) return this.#fill(vcpu, low, high >>> 0, access, set, base);
    const marked = u32[entry] === (page | TLB.WATCHED) >>> 0 && u32[entry + 1] === high >>> 0;
    const host = marked ? (low + u32[entry + 2]!) >>> 0 : this.#fill(vcpu, low, high >>> 0, access, set, base);
    if (host === TRANSLATE.FAULT || !watchpoints.trapping || !watchpoints.isWatched(low, high)) return host;
    this.leaveForWatchpoint();
    return TRANSLATE.FAULT;
  }

  /** The instruction, which has changed nothing so far, is to be run by itself. The status to leave it with. */
  leaveForWatchpoint(): number {
    this.#exit(EXIT.WATCHED);
    return STATUS.EXIT_BEFORE;
  }

  /** Host address of a canonical address for reading, if the TLB has it, else 0. */
  known(vcpu: EngineVcpu, low: number, high: number, access: number): number {
    const { u32 } = this.#memory;
    const set = this.#setOf(access);
    const entry = (this.#tlb.set(vcpu.context, set) + ((low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES))) >>> 2;
    if (u32[entry] !== (low & ~0xfff) >>> 0 || u32[entry + 1] !== high >>> 0) return 0;
    return (low + u32[entry + 2]!) >>> 0;
  }

  /** The TLB set that an access goes by. */
  #setOf(access: number): number {
    if (access & ACCESS.USER) return TLB.USER;
    const { u32 } = this.#memory;
    if (access & ACCESS.FETCH || !(u32[S.CR4 >>> 2]! & CR4.SMAP)) return TLB.SUPERVISOR;
    const suspended = (u32[S.RFLAGS >>> 2]! & RFLAGS.AC) !== 0 && !(access & ACCESS.IMPLICIT);
    return suspended ? TLB.SUPERVISOR : TLB.SUPERVISOR_SMAP;
  }

  #fill(vcpu: EngineVcpu, low: number, high: number, access: number, set: number, base: number): number {
    const { u32 } = this.#memory;
    this.#tlb.filled();
    if (vcpu.root.linear) return this.#fillShadow(vcpu, low, high, access, base, set);
    const cr0 = u32[S.CR0 >>> 2]!;
    if (!(cr0 & CR0.PG)) {
      this.#guestRights = RIGHTS_ALL;
      this.#guestGlobal = false;
      this.#guestPhysical = low >>> 0;
    } else if (!this.#walkGuest(vcpu, low, high, access)) return TRANSLATE.FAULT;
    return this.#finish(vcpu, low, high, access, set, base);
  }

  // ---- the guest's tables -----------------------------------------------------------------------------------------

  #guestPhysical = BORN_DOUBLE;
  /** Rights of the guest's leaf for this set: RIGHTS bits. */
  #guestRights = 0;
  /** Its page is global: it outlives a MOV to CR3. */
  #guestGlobal = false;

  /** Walks the guest's tables and checks the access. False: the fault or exit record is filled in. */
  #walkGuest(vcpu: EngineVcpu, low: number, high: number, access: number): boolean {
    const { u32 } = this.#memory;
    const cr0 = u32[S.CR0 >>> 2]!;
    const cr4 = u32[S.CR4 >>> 2]!;
    const efer = u32[S.EFER >>> 2]!;
    const write = access & ACCESS.WRITE;
    const pae = (cr4 & CR4.PAE) !== 0;
    const long = (efer & EFER.LMA) !== 0;
    const nxe = pae && (efer & EFER.NXE) !== 0;
    let code = write ? PFEC.W : 0;
    if (access & ACCESS.USER) code |= PFEC.U;
    if (access & ACCESS.FETCH && (nxe || cr4 & CR4.SMEP)) code |= PFEC.F;
    u32[X.ACCESS >>> 2] = access;
    // 63:MAXPHYADDR of a PAE-format entry, upper half
    const reservedHigh = pae ? this.#reservedHigh(long, nxe) : 0;

    let table = u32[S.CR3 >>> 2]! + (u32[(S.CR3 + 4) >>> 2]! & 0xf_ffff) * 0x1_0000_0000;
    let level: number;
    let user = true;
    let writable = true;
    let executable = true;
    if (long) {
      level = cr4 & CR4.LA57 ? 5 : 4;
      table -= table % 4096;
    } else if (pae) {
      const at = (S.PDPTE + 8 * (low >>> 30)) >>> 2;
      if (!(u32[at]! & 1)) return this.#pageFault(low, high, code);
      table = (u32[at]! & ~0xfff) >>> 0;
      table += u32[at + 1]! * 0x1_0000_0000;
      level = 2;
    } else {
      level = 2;
      table = (u32[S.CR3 >>> 2]! & ~0xfff) >>> 0;
    }

    const entries = this.#entries;
    let tableHost = 0;
    // What was found by a walk that is taken back has not set its accessed bits: under a journal walks begin at the top
    if (long && !this.journal) {
      const known = this.#knownTable(low, high);
      if (known !== 0) {
        level = known < TABLES2_AT ? 1 : 2;
        table = u32[known + (TABLES.PHYSICAL >>> 2)]! + u32[known + (TABLES.PHYSICAL >>> 2) + 1]! * 0x1_0000_0000;
        tableHost = u32[known + (TABLES.HOST >>> 2)]!;
        const rights = u32[known + (TABLES.RIGHTS >>> 2)]!;
        user = (rights & TABLE_RIGHTS.USER) !== 0;
        writable = (rights & TABLE_RIGHTS.WRITABLE) !== 0;
        executable = (rights & TABLE_RIGHTS.EXECUTABLE) !== 0;
      }
    }
    // Of the tables of level 1 and 2, as far as the walk sees them
    let above1 = 0;
    let above2 = 0;
    let depth = 0;
    let entryLow = 0;
    let entryHigh = 0;
    for (;;) {
      let index: number;
      if (!pae) index = level === 2 ? low >>> 22 : (low >>> 12) & 0x3ff;
      else if (level === 1) index = (low >>> 12) & 0x1ff;
      else if (level === 2) index = (low >>> 21) & 0x1ff;
      else if (level === 3) index = ((low >>> 30) | (high << 2)) & 0x1ff;
      else if (level === 4) index = (high >>> 7) & 0x1ff;
      else index = (high >>> 16) & 0x1ff;
      const at = table + index * (pae ? 8 : 4);
      if (level <= 2) {
        const above =
          (user ? TABLE_RIGHTS.USER : 0) |
          (writable ? TABLE_RIGHTS.WRITABLE : 0) |
          (executable ? TABLE_RIGHTS.EXECUTABLE : 0) |
          SEEN;
        if (level === 1) above1 = above;
        else above2 = above;
      }
      const host =
        tableHost !== 0 ? tableHost + 8 * index : this.#tableHost(vcpu, at, low, high, vcpu.root.accessedDirty);
      tableHost = 0;
      // No memory there, and L0 knows: no entry is present, as it has it in its own walks
      if (host === OPEN_BUS) return this.#pageFault(low, high, code);
      if (host < 0) return false;
      entryLow = u32[host >>> 2]!;
      entryHigh = pae ? u32[(host >>> 2) + 1]! : 0;
      entries[2 * depth] = at;
      entries[2 * depth + 1] = host;
      this.#raw[depth] = entryLow;
      depth += 1;
      if (!(entryLow & 1)) return this.#pageFault(low, high, code);
      const large = (entryLow & 0x80) !== 0;
      const leaf = level === 1 || (large && (level === 2 ? pae || (cr4 & CR4.PSE) !== 0 : level === 3 && pae && long));
      if (pae) {
        let bad = (entryHigh & reservedHigh) !== 0;
        if (level >= 4) bad ||= large;
        else if (level === 3 && large) bad ||= !this.gigabytePages || (entryLow & 0x3fff_e000) !== 0;
        else if (level === 2 && large) bad ||= (entryLow & 0x1f_e000) !== 0;
        if (bad) return this.#pageFault(low, high, code | PFEC.P | PFEC.RSVD);
      } else if (leaf && level === 2) {
        // PSE-36: bits 20:13 are address bits 39:32 as far as MAXPHYADDR goes; bit 21 is reserved
        const known = Math.max(0, Math.min(this.physicalBits, 40) - 32);
        if (entryLow & (0x3f_e000 & ~(((1 << known) - 1) << 13)))
          return this.#pageFault(low, high, code | PFEC.P | PFEC.RSVD);
      }
      user &&= (entryLow & 4) !== 0;
      writable &&= (entryLow & 2) !== 0;
      if (nxe && entryHigh & 0x8000_0000) executable = false;
      if (leaf) break;
      table = ((entryLow & ~0xfff) >>> 0) + (entryHigh & 0xf_ffff) * 0x1_0000_0000;
      level -= 1;
    }

    // Rights. Raw ones go into the TLB sets; the access itself is judged here.
    const wp = (cr0 & CR0.WP) !== 0;
    const userAccess = (access & ACCESS.USER) !== 0;
    const smapSuspended = (u32[S.RFLAGS >>> 2]! & RFLAGS.AC) !== 0 && !(access & ACCESS.IMPLICIT);
    let mayRead = userAccess ? user : !(user && cr4 & CR4.SMAP && !smapSuspended);
    let mayWrite = mayRead && (writable || (!userAccess && !wp));
    const mayFetch = executable && (userAccess ? user : !(user && cr4 & CR4.SMEP));
    let keyFault = false;
    if (user && long && cr4 & CR4.PKE) {
      const key = (entryHigh >>> 27) & 15;
      const rights = u32[S.PKRU >>> 2]! >>> (2 * key);
      u32[WALKS.KEYS >>> 2] = u32[WALKS.KEYS >>> 2]! | (1 << key);
      if (rights & 1) {
        keyFault = !(access & ACCESS.FETCH);
        mayRead = false;
        mayWrite = false;
      } else if (rights & 2 && (userAccess || wp)) {
        keyFault = write !== 0;
        mayWrite = false;
      }
    }
    const allowed = access & ACCESS.FETCH ? mayFetch : write ? mayWrite : mayRead;
    if (!allowed) return this.#pageFault(low, high, code | PFEC.P | (keyFault ? PFEC.PK : 0));

    // Accessed and dirty, from the root down; tables are written only after the access is known to be allowed
    for (let i = 0; i < depth; i += 1) {
      const want = i === depth - 1 && write ? 0x60 : 0x20;
      if ((this.#raw[i]! & want) === want) continue;
      const host = this.#tableHost(vcpu, entries[2 * i]!, low, high, true);
      if (host === ROM) continue;
      if (host < 0) return false;
      this.journal?.mark(host, want, access);
      u32[host >>> 2] = u32[host >>> 2]! | want;
      this.#raw[i] = this.#raw[i]! | want;
      if (this.oddPage) {
        this.stored(host, 8);
        this.oddPage = 0;
      } else if (this.#code.holds(host >>> 12)) this.#code.written(host, 8);
    }

    // The entries above have their accessed bits now
    if (long && depth > 1) {
      if (level === 1) {
        this.#keepTable(1, low, high, depth - 1, above1);
        if (above2 !== 0) this.#keepTable(2, low, high, depth - 2, above2);
      } else if (level === 2) this.#keepTable(2, low, high, depth - 1, above2);
    }

    const dirty = (this.#raw[depth - 1]! & 0x40) !== 0;
    this.#guestGlobal = (entryLow & 0x100) !== 0 && (cr4 & CR4.PGE) !== 0;
    this.#guestRights =
      (mayRead ? RIGHTS.READ : 0) |
      (mayWrite && dirty ? RIGHTS.WRITE : 0) |
      (mayFetch ? RIGHTS.FETCH : 0) |
      (user ? RIGHTS.USER : 0) |
      (writable ? RIGHTS.RAW_WRITE : 0) |
      (executable ? 0 : RIGHTS.RAW_NX);
    const frame = ((entryLow & ~0xfff) >>> 0) + (entryHigh & 0xf_ffff) * 0x1_0000_0000;
    if (level === 1) this.#guestPhysical = frame + (low & 0xfff);
    else if (level === 3) this.#guestPhysical = frame - (frame % 0x4000_0000) + (low & 0x3fff_ffff);
    else if (pae) this.#guestPhysical = frame - (frame % 0x20_0000) + (low & 0x1f_ffff);
    else
      this.#guestPhysical =
        ((entryLow & 0xffc0_0000) >>> 0) + ((entryLow >>> 13) & 0xff) * 0x1_0000_0000 + (low & 0x3f_ffff);
    return true;
  }

  /** u32 index of the cache's entry for the lowest table that is known to translate an address, or 0. */
  #knownTable(low: number, high: number): number {
    const first = tableAt(1, low, high);
    if (this.#isTable(first, 1, low, high)) return first;
    const second = tableAt(2, low, high);
    return this.#isTable(second, 2, low, high) ? second : 0;
  }

  #isTable(at: number, level: number, low: number, high: number): boolean {
    const { u32 } = this.#memory;
    return (
      u32[at] === tagLow(level, low, high) &&
      u32[at + 1] === (u32[S.CONTEXT >>> 2]! | tagHigh(level, high)) >>> 0 &&
      u32[at + (TABLES.EPOCH >>> 2)] === u32[WALKS.EPOCH >>> 2]
    );
  }

  /** A table of `level` 1 or 2, of which the walk has used an entry as number `depth`. */
  #keepTable(level: number, low: number, high: number, depth: number, above: number): void {
    const { u32 } = this.#memory;
    const at = tableAt(level, low, high);
    const physical = this.#entries[2 * depth]!;
    const table = physical - (physical % 4096);
    u32[at] = tagLow(level, low, high);
    u32[at + 1] = u32[S.CONTEXT >>> 2]! | tagHigh(level, high);
    u32[at + (TABLES.EPOCH >>> 2)] = u32[WALKS.EPOCH >>> 2]!;
    u32[at + (TABLES.HOST >>> 2)] = this.#entries[2 * depth + 1]! & ~0xfff;
    u32[at + (TABLES.PHYSICAL >>> 2)] = table % 0x1_0000_0000;
    u32[at + (TABLES.PHYSICAL >>> 2) + 1] = Math.floor(table / 0x1_0000_0000);
    u32[at + (TABLES.RIGHTS >>> 2)] = above & TABLE_RIGHTS.ALL;
  }

  readonly #entries = new Float64Array(10);
  readonly #raw = new Uint32Array(5);

  #reservedHigh(long: boolean, nxe: boolean): number {
    const bits = this.physicalBits - 32;
    // Long mode ignores 62:52; PAE reserves 62:MAXPHYADDR. Bit 63 is NX, reserved without EFER.NXE.
    let mask = long ? 0xf_ffff & ~((1 << bits) - 1) : 0x7fff_ffff & ~((1 << bits) - 1);
    if (!nxe) mask |= 0x8000_0000;
    return mask;
  }

  #pageFault(low: number, high: number, code: number): boolean {
    const { u32 } = this.#memory;
    u32[S.FAULT_VECTOR >>> 2] = 14;
    u32[S.FAULT_ERROR >>> 2] = code;
    u32[S.FAULT_ADDRESS >>> 2] = low;
    u32[(S.FAULT_ADDRESS + 4) >>> 2] = high;
    u32[S.ACCESS_STATUS >>> 2] = STATUS.FAULT;
    return false;
  }

  // ---- the second stage -------------------------------------------------------------------------------------------

  /** Host address of a guest table entry, or -1 with an EPT violation in the exit record, or OPEN_BUS. */
  #tableHost(vcpu: EngineVcpu, physical: number, low: number, high: number, write: boolean): number {
    const host = this.secondStage.host(vcpu, physical);
    const rights = this.secondStage.entry;
    if (host >= 0 && rights & SPTE.R && !(rights & SPTE.MMIO) && (!write || rights & SPTE.W || rights & SPTE.TRACKED)) {
      if (write && rights & SPTE.TRACKED) this.oddPage |= 2;
      return host;
    }
    if (host >= 0 && rights & SPTE.MMIO) {
      const { u32 } = this.#memory;
      if (u32[S.ALLOW >>> 2]! & ALLOW.MMIO) return OPEN_BUS;
      this.#misconfiguration(physical, low, high);
      // Hardware tells nothing here; L0 wants to know that it was a table
      u32[X.QUALIFICATION >>> 2] = (write ? 3 : 1) | 0x80;
      return -1;
    }
    if (host >= 0 && write && rights & SPTE.R && this.#memory.u32[S.ALLOW >>> 2]! & ALLOW.ROM_TABLE) return ROM;
    // Table accesses count as writes under EPT accessed/dirty flags: SDM 3C 28.3.3.2
    this.#violation(physical, (write ? 3 : 1) | (host >= 0 ? (rights & 7) << 3 : 0) | 0x80, low, high);
    return -1;
  }

  /**
   * Host address of guest-physical memory that the processor itself reads, not on behalf of a linear address (PDPTEs), or
   * -1 with an EPT violation or misconfiguration in the exit record, or with #GP(0) where L0 has said that there is no
   * memory (PDPTEs of all ones have reserved bits). Not for linear (shadow) roots.
   */
  readPhysical(vcpu: EngineVcpu, physical: number): number {
    const { u32 } = this.#memory;
    const host = this.secondStage.host(vcpu, physical);
    const rights = this.secondStage.entry;
    if (host >= 0 && rights & SPTE.R && !(rights & SPTE.MMIO)) return host;
    if (host >= 0 && rights & SPTE.MMIO) {
      if (u32[S.ALLOW >>> 2]! & ALLOW.MMIO) {
        u32[S.FAULT_VECTOR >>> 2] = 13;
        u32[S.FAULT_ERROR >>> 2] = 0;
        u32[S.ACCESS_STATUS >>> 2] = STATUS.FAULT;
        return -1;
      }
      this.#misconfiguration(physical, 0, 0);
    } else this.#violation(physical, 1 | (host >= 0 ? (rights & 7) << 3 : 0), 0, 0);
    u32[X.LINEAR_VALID >>> 2] = 0;
    return -1;
  }

  #exit(reason: number): void {
    const { u32 } = this.#memory;
    u32[X.REASON >>> 2] = reason;
    u32[X.VECTORING >>> 2] = 0;
    u32[S.ACCESS_STATUS >>> 2] = STATUS.EXIT_BEFORE;
  }

  #where(physical: number, low: number, high: number): void {
    const { u32 } = this.#memory;
    u32[X.PHYSICAL >>> 2] = physical % 0x1_0000_0000;
    u32[(X.PHYSICAL + 4) >>> 2] = Math.floor(physical / 0x1_0000_0000);
    u32[X.LINEAR >>> 2] = low;
    u32[(X.LINEAR + 4) >>> 2] = high;
    u32[X.LINEAR_VALID >>> 2] = 1;
  }

  #violation(physical: number, qualification: number, low: number, high: number): void {
    const { u32 } = this.#memory;
    // L0 may add rights without a flush: a refused translation is not kept (nested-mmu.md 7.4)
    this.secondStage.forget(physical);
    this.#exit(EXIT.EPT_VIOLATION);
    this.#where(physical, low, high);
    u32[X.QUALIFICATION >>> 2] = qualification;
    u32[(X.QUALIFICATION + 4) >>> 2] = 0;
  }

  #misconfiguration(physical: number, low: number, high: number): void {
    const { u32 } = this.#memory;
    this.#exit(EXIT.EPT_MISCONFIG);
    this.#where(physical, low, high);
    u32[X.QUALIFICATION >>> 2] = 0;
    u32[(X.QUALIFICATION + 4) >>> 2] = 0;
  }

  /** Second stage of the final address, its checks, and the TLB entries. */
  #finish(vcpu: EngineVcpu, low: number, high: number, access: number, set: number, base: number): number {
    const physical = this.#guestPhysical;
    const host = this.secondStage.host(vcpu, physical);
    const rights = this.secondStage.entry;
    const guest = this.#guestRights;
    if (host >= 0 && rights & SPTE.MMIO) {
      const { u32 } = this.#memory;
      // A device can be read and written only by the instruction that L0 steps; who fetches from it makes that a fault
      this.physical = this.secondStage.mmioFrame(vcpu, physical) * 4096 + (physical % 4096);
      if (u32[S.ALLOW >>> 2]! & ALLOW.MMIO) return TRANSLATE.MMIO;
      this.#misconfiguration(physical, low, high);
      // Hardware tells nothing here; L0 wants to know what kind of access its device page saw
      u32[X.QUALIFICATION >>> 2] = (access & ACCESS.FETCH ? 4 : access & ACCESS.WRITE ? 2 : 1) | 0x180;
      return TRANSLATE.FAULT;
    }
    const executeBit = vcpu.root.mbec && guest & RIGHTS.USER ? SPTE.U : SPTE.X;
    const needed = access & ACCESS.FETCH ? executeBit : access & ACCESS.WRITE ? SPTE.W : SPTE.R;
    const tracked = (rights & SPTE.TRACKED) !== 0 && (access & ACCESS.WRITE) !== 0;
    if (host < 0 || (!(rights & needed) && !tracked)) {
      const kind = access & ACCESS.FETCH ? 4 : access & ACCESS.WRITE ? 2 : 1;
      let qualification = kind | 0x180;
      if (host >= 0) qualification |= ((rights & 7) << 3) | (vcpu.root.mbec && rights & SPTE.U ? 0x40 : 0);
      if (guest & RIGHTS.USER) qualification |= 0x200;
      if (guest & RIGHTS.RAW_WRITE) qualification |= 0x400;
      if (guest & RIGHTS.RAW_NX) qualification |= 0x800;
      this.#violation(physical, qualification, low, high);
      return TRANSLATE.FAULT;
    }
    this.#install(vcpu, low, high, access, set, base, host, guest, rights, this.#guestGlobal);
    if (access & ACCESS.WRITE) {
      this.journal?.page(host);
      if (tracked) {
        this.oddPage = 2;
        this.physical = physical;
      } else if (this.#code.holds(host >>> 12)) this.oddPage = 1;
    }
    return host;
  }

  #install(
    vcpu: EngineVcpu,
    low: number,
    high: number,
    access: number,
    set: number,
    base: number,
    host: number,
    guest: number,
    rights: number,
    global: boolean,
  ): void {
    const { u32 } = this.#memory;
    const page = (low & ~0xfff) >>> 0;
    const addend = ((host & ~0xfff) - page) >>> 0;
    const index = (base + ((low >>> 8) & ((TLB.ENTRIES - 1) * TLB.ENTRY_BYTES))) >>> 2;
    if (access & ACCESS.FETCH) {
      const at = index + (TLB.EXECUTE >>> 2);
      if (!global) this.#tlb.touchLocalCode(vcpu.context, (access & ACCESS.USER) !== 0);
      this.#tlb.touchSet(vcpu.context, set, at, global);
      u32[at] = page;
      u32[at + 1] = high;
      u32[at + 2] = addend;
      return;
    }
    if (this.watching) return;
    this.#tlb.touchSet(vcpu.context, set, index, global);
    const tag = this.watchpoints?.isWatched(low, high) ? (page | TLB.WATCHED) >>> 0 : page;
    if (guest & RIGHTS.READ && rights & SPTE.R) {
      this.journal?.entry(index << 2, false);
      u32[index] = tag;
      u32[index + 1] = high;
      u32[index + 2] = addend;
    }
    if (guest & RIGHTS.WRITE && rights & SPTE.W && !(rights & SPTE.TRACKED) && !this.#code.holds(host >>> 12)) {
      const at = index + (TLB.WRITE >>> 2);
      if (this.journal) {
        // A page that is only read is none of its business
        if (!(access & ACCESS.WRITE)) return;
        this.journal.entry(at << 2, true);
      }
      u32[at] = tag;
      u32[at + 1] = high;
      u32[at + 2] = addend;
      this.#tlb.touchWriter(at, host >>> 12);
    }
  }

  // ---- shadow paging: the root maps linear addresses --------------------------------------------------------------

  #fillShadow(vcpu: EngineVcpu, low: number, high: number, access: number, base: number, set: number): number {
    const { u32 } = this.#memory;
    const { lo, hi } = this.secondStage.tables;
    const cr4 = u32[S.CR4 >>> 2]!;
    let { table, levels: level } = vcpu.root;
    const user = (access & ACCESS.USER) !== 0;
    let entry = 0;
    let at = 0;
    for (;;) {
      let index: number;
      if (level === 1) index = (low >>> 12) & 0x1ff;
      else if (level === 2) index = (low >>> 21) & 0x1ff;
      else if (level === 3) index = ((low >>> 30) | (high << 2)) & 0x1ff;
      else if (level === 4) index = (high >>> 7) & 0x1ff;
      else index = (high >>> 16) & 0x1ff;
      at = table * 512 + index;
      entry = lo[at]!;
      if (!(entry & SPTE_PRESENT) || entry & SPTE.LEAF || entry & SPTE.MMIO || level === 1) break;
      table = hi[at]!;
      level -= 1;
    }
    const present = (entry & SPTE_PRESENT) !== 0;
    const smapSuspended = (u32[S.RFLAGS >>> 2]! & RFLAGS.AC) !== 0 && !(access & ACCESS.IMPLICIT);
    const pageUser = (entry & SPTE.U) !== 0;
    const paging = (u32[S.CR0 >>> 2]! & CR0.PG) !== 0;
    const mayRead = present && (!paging || (user ? pageUser : !(pageUser && cr4 & CR4.SMAP && !smapSuspended)));
    const mayWrite = mayRead && (entry & (SPTE.W | SPTE.TRACKED)) !== 0;
    const mayFetch =
      present && (entry & SPTE.X) !== 0 && (!paging || (user ? pageUser : !(pageUser && cr4 & CR4.SMEP)));
    const allowed = access & ACCESS.FETCH ? mayFetch : access & ACCESS.WRITE ? mayWrite : mayRead;
    if (entry & SPTE.MMIO && present) {
      this.physical = hi[at]! * 4096 + (low & 0xfff);
      if (u32[S.ALLOW >>> 2]! & ALLOW.MMIO) return TRANSLATE.MMIO;
    }
    const marker = entry & SPTE.MMIO && present ? PFEC.RSVD : 0;
    if (!allowed || marker) {
      this.#exit(EXIT.SHADOW_FAULT);
      this.#where(0, low, high);
      u32[X.QUALIFICATION >>> 2] = (present ? PFEC.P : 0) | marker | access;
      u32[(X.QUALIFICATION + 4) >>> 2] = 0;
      return TRANSLATE.FAULT;
    }
    const inLarge = level === 1 ? 0 : (low >>> 12) & (2 ** (9 * (level - 1)) - 1);
    const host = (hi[at]! + inLarge) * 4096 + (low & 0xfff);
    const rights = RIGHTS.READ | (mayWrite ? RIGHTS.WRITE : 0) | (mayFetch ? RIGHTS.FETCH : 0);
    this.#install(vcpu, low, high, access, set, base, host, rights, entry | SPTE.R, false);
    if (access & ACCESS.WRITE) {
      this.journal?.page(host);
      if (entry & SPTE.TRACKED) {
        this.oddPage = 2;
      } else if (this.#code.holds(host >>> 12)) this.oddPage = 1;
    }
    return host;
  }
}

/** Answer of #tableHost: a table lies where there is no memory, and L0 knows. */
const OPEN_BUS = -2;
/** Another: a table can be read there and not written, and L0 has said to leave it. */
const ROM = -3;

/** Beside TABLE_RIGHTS: there is a table. */
const SEEN = 8;
/** u32 index where the paging-structure cache begins to have tables of level 2. */
const TABLES2_AT = (TABLES.AT + TABLES.ENTRIES1 * TABLES.ENTRY_BYTES) >>> 2;

/** u32 index of the cache's entry for the table of level 1 or 2 that translates an address. */
const tableAt = (level: number, low: number, high: number): number =>
  level === 1
    ? (TABLES.AT >>> 2) + (((low >>> 21) ^ high) & (TABLES.ENTRIES1 - 1)) * (TABLES.ENTRY_BYTES >>> 2)
    : TABLES2_AT + (((low >>> 30) ^ (high << 2)) & (TABLES.ENTRIES2 - 1)) * (TABLES.ENTRY_BYTES >>> 2);
/** Its tag: the address without what the table translates; in the upper half the context's address is added. */
const tagLow = (level: number, low: number, high: number): number =>
  (level === 1 ? (high << 11) | (low >>> 21) : (high << 2) | (low >>> 30)) >>> 0;
const tagHigh = (level: number, high: number): number => (level === 1 ? (high >>> 21) & 0xf : 0);

/** What a translation allows the set it was made for, and the raw bits of the guest's entries. */
const RIGHTS = { READ: 1, WRITE: 2, FETCH: 4, USER: 8, RAW_WRITE: 16, RAW_NX: 32 } as const;
/** Paging off: everything is allowed; linear addresses count as user-mode and writable (SDM 3C Table 27-7 notes). */
const RIGHTS_ALL = RIGHTS.READ | RIGHTS.WRITE | RIGHTS.FETCH | RIGHTS.USER | RIGHTS.RAW_WRITE;
