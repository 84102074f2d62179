import { CR0, CR4, EFER, RFLAGS } from '../../arch/registers.ts';
import { BORN_DOUBLE } from '../../base/bits.ts';
import type { SecondStageTables } from '../../contracts/second-stage.ts';
import { SPTE, SPTE_PRESENT } from '../../contracts/second-stage.ts';
import type { EngineHost, EngineVcpu } from '../core/cpu.ts';
import { EXIT, X } from '../core/exits.ts';
import { ALLOW, S, STATUS, TLB } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';
import { ACCESS, PFEC, TRANSLATE } from './access.ts';
import type { TlbContexts } from './tlb.ts';

/** Entries of the cache of guest-physical translations. */
const GPA_CACHE = 1024;

/** The same for its large pages, in pieces of 2 MiB. */
const LARGE_CACHE = 64;
/** Entries of the paging-structure cache: tables of level 1, then of level 2. */
const TABLES1 = 256;
const TABLES2 = 64;

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
  tables: SecondStageTables;
  /** MAXPHYADDR. */
  physicalBits = 46;
  /** 1 GiB pages exist. */
  gigabytePages = true;

  /** L1- or L2-physical address of the last translation that ended at a device or a tracked page. */
  physical = BORN_DOUBLE;
  /** After a translation for writing: the page holds code, or is tracked; the store must be followed by `stored`. */
  oddPage = 0;

  /** A data breakpoint is armed: data accesses leave no TLB entries, so that each one is seen. */
  watching = false;

  journal: WalkJournal | undefined;

  // Result of the second stage
  #leafLow = BORN_DOUBLE;
  readonly #gpaTag = new Float64Array(GPA_CACHE).fill(-1);
  readonly #gpaLow = new Uint32Array(GPA_CACHE);
  readonly #gpaHost = new Uint32Array(GPA_CACHE);
  readonly #largeTag = new Float64Array(LARGE_CACHE).fill(-1);
  readonly #largeLow = new Uint32Array(LARGE_CACHE);
  readonly #largeHost = new Uint32Array(LARGE_CACHE);

  // The paging-structure cache: where a walk of 64-bit tables can begin. SDM 3A 4.10.3 "Paging-Structure Caches"
  readonly #tableTag = new Float64Array(TABLES1 + TABLES2).fill(-1);
  readonly #tableAt = new Float64Array(TABLES1 + TABLES2);
  readonly #tableHostAt = new Uint32Array(TABLES1 + TABLES2);
  /** TABLE bits: what the entries above allow. */
  readonly #tableRights = new Uint8Array(TABLES1 + TABLES2);
  #tableEpoch = 0;

  constructor(memory: EngineMemory, tlb: TlbContexts, host: EngineHost, code: CodePages) {
    this.#memory = memory;
    this.#tlb = tlb;
    this.#host = host;
    this.#code = code;
    this.tables = { lo: new Uint32Array(512), hi: new Uint32Array(512) };
  }

  /** Forgets guest-physical translations: whenever L0 flushes anything but linear mappings. */
  flushPhysical(): void {
    this.#gpaTag.fill(-1);
    this.#largeTag.fill(-1);
    this.#tableTag.fill(-1);
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
    if (u32[entry] === (low & ~0xfff) >>> 0 && u32[entry + 1] === high >>> 0) return (low + u32[entry + 2]!) >>> 0;
    return this.#fill(vcpu, low, high >>> 0, access, set, base);
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
    this.#tlb.counters.fills += 1;
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
      if (this.#tableEpoch !== this.#tlb.epoch) {
        this.#tableEpoch = this.#tlb.epoch;
        this.#tableTag.fill(-1);
      }
      const known = this.#knownTable(vcpu.context, low, high);
      if (known >= 0) {
        level = known < TABLES1 ? 1 : 2;
        table = this.#tableAt[known]!;
        tableHost = this.#tableHostAt[known]!;
        const rights = this.#tableRights[known]!;
        user = (rights & TABLE.USER) !== 0;
        writable = (rights & TABLE.WRITABLE) !== 0;
        executable = (rights & TABLE.EXECUTABLE) !== 0;
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
          (user ? TABLE.USER : 0) | (writable ? TABLE.WRITABLE : 0) | (executable ? TABLE.EXECUTABLE : 0) | TABLE.SEEN;
        if (level === 1) above1 = above;
        else above2 = above;
      }
      const host =
        tableHost !== 0 ? tableHost + 8 * index : this.#tableHost(vcpu, at, low, high, vcpu.root.accessedDirty);
      tableHost = 0;
      // No memory there: all ones, and so reserved bits
      if (host === OPEN_BUS) return this.#pageFault(low, high, code | PFEC.P | PFEC.RSVD);
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
      const rights = u32[S.PKRU >>> 2]! >>> (2 * ((entryHigh >>> 27) & 15));
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
        this.#keepTable(0, vcpu.context, low, high, entries, depth - 1, above1);
        if (above2 !== 0) this.#keepTable(1, vcpu.context, low, high, entries, depth - 2, above2);
      } else if (level === 2) this.#keepTable(1, vcpu.context, low, high, entries, depth - 1, above2);
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

  /** Number in the cache of the lowest table that is known to translate an address, or -1. */
  #knownTable(context: number, low: number, high: number): number {
    const first = tableSlot(0, low, high);
    if (this.#tableTag[first] === tableTag(0, context, low, high)) return first;
    const second = tableSlot(1, low, high);
    return this.#tableTag[second] === tableTag(1, context, low, high) ? second : -1;
  }

  /** `kind`: 0 a table of level 1, 1 of level 2. The walk has used its entry as number `depth`. */
  #keepTable(
    kind: number,
    context: number,
    low: number,
    high: number,
    entries: Float64Array,
    depth: number,
    above: number,
  ): void {
    const slot = tableSlot(kind, low, high);
    const at = entries[2 * depth]!;
    const host = entries[2 * depth + 1]!;
    this.#tableTag[slot] = tableTag(kind, context, low, high);
    this.#tableAt[slot] = at - (at % 4096);
    this.#tableHostAt[slot] = host - (host % 4096);
    this.#tableRights[slot] = above;
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
    const host = this.#secondStage(vcpu, physical);
    const rights = this.#leafLow;
    if (host >= 0 && rights & SPTE.R && !(rights & SPTE.MMIO) && (!write || rights & SPTE.W || rights & SPTE.TRACKED)) {
      if (write && rights & SPTE.TRACKED) this.oddPage |= 2;
      return host;
    }
    if (host >= 0 && rights & SPTE.MMIO) {
      if (this.#memory.u32[S.ALLOW >>> 2]! & ALLOW.MMIO) return OPEN_BUS;
      this.#misconfiguration(physical, low, high);
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
    const host = this.#secondStage(vcpu, physical);
    const rights = this.#leafLow;
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

  /**
   * Walks the second stage. Returns the host address, or -1 where an entry is not present; #leafLow has the rights.
   * MMIO entries return 0.
   */
  #secondStage(vcpu: EngineVcpu, physical: number): number {
    const frame = Math.floor(physical / 4096);
    const slot = frame & (GPA_CACHE - 1);
    const tag = frame + vcpu.root.id * 0x100_0000_0000;
    if (this.#gpaTag[slot] === tag) {
      this.#leafLow = this.#gpaLow[slot]!;
      return this.#gpaHost[slot]! * 4096 + (physical % 4096);
    }
    const region = Math.floor(physical / LARGE_BYTES);
    const largeSlot = region & (LARGE_CACHE - 1);
    const largeTag = region + vcpu.root.id * 0x8000_0000;
    if (this.#largeTag[largeSlot] === largeTag) {
      this.#leafLow = this.#largeLow[largeSlot]!;
      return this.#largeHost[largeSlot]! * 4096 + (physical % LARGE_BYTES);
    }
    const { lo, hi } = this.tables;
    let { table, levels: level } = vcpu.root;
    let size = 2 ** (12 + 9 * (level - 1));
    if (physical >= size * 512) {
      this.#leafLow = 0;
      return -1;
    }
    for (;;) {
      const at = table * 512 + (Math.floor(physical / size) & 511);
      const low = lo[at]!;
      this.#leafLow = low;
      if (!(low & SPTE_PRESENT)) return -1;
      if (low & SPTE.MMIO) return 0;
      if (low & SPTE.LEAF || level === 1) {
        const page = hi[at]! + (Math.floor(physical / 4096) & (size / 4096 - 1));
        if (level > 1) {
          this.#largeTag[largeSlot] = largeTag;
          this.#largeLow[largeSlot] = low;
          this.#largeHost[largeSlot] = page - (frame & 511);
          return page * 4096 + (physical % 4096);
        }
        this.#gpaTag[slot] = tag;
        this.#gpaLow[slot] = low;
        this.#gpaHost[slot] = page;
        return page * 4096 + (physical % 4096);
      }
      table = hi[at]!;
      level -= 1;
      size /= 512;
    }
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
    this.#gpaTag[Math.floor(physical / 4096) & (GPA_CACHE - 1)] = -1;
    this.#largeTag[Math.floor(physical / LARGE_BYTES) & (LARGE_CACHE - 1)] = -1;
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
    const host = this.#secondStage(vcpu, physical);
    const rights = this.#leafLow;
    const guest = this.#guestRights;
    if (host >= 0 && rights & SPTE.MMIO) {
      const { u32 } = this.#memory;
      // A device can be read and written only by the instruction that L0 steps; who fetches from it makes that a fault
      this.physical = (this.tables === undefined ? 0 : this.#mmioFrame(vcpu, physical)) * 4096 + (physical % 4096);
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

  /** L1-physical frame of a device page: what L0 wrote into the marker. */
  #mmioFrame(vcpu: EngineVcpu, physical: number): number {
    const { lo, hi } = this.tables;
    let { table, levels: level } = vcpu.root;
    let size = 2 ** (12 + 9 * (level - 1));
    for (;;) {
      const at = table * 512 + (Math.floor(physical / size) & 511);
      if (lo[at]! & SPTE.MMIO) return hi[at]!;
      table = hi[at]!;
      level -= 1;
      size /= 512;
    }
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
    if (guest & RIGHTS.READ && rights & SPTE.R) {
      this.journal?.entry(index << 2, false);
      u32[index] = page;
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
      u32[at] = page;
      u32[at + 1] = high;
      u32[at + 2] = addend;
      this.#tlb.touchWriter(at, host >>> 12);
    }
  }

  // ---- shadow paging: the root maps linear addresses --------------------------------------------------------------

  #fillShadow(vcpu: EngineVcpu, low: number, high: number, access: number, base: number, set: number): number {
    const { u32 } = this.#memory;
    const { lo, hi } = this.tables;
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
      const fetch = access & ACCESS.FETCH ? PFEC.F : 0;
      u32[X.QUALIFICATION >>> 2] =
        (present ? PFEC.P : 0) | marker | (access & (PFEC.W | PFEC.U)) | fetch | (access & ACCESS.IMPLICIT ? 0x100 : 0);
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

const LARGE_BYTES = 0x20_0000;

/** Rights of the entries above a table; SEEN: there are any. */
const TABLE = { USER: 1, WRITABLE: 2, EXECUTABLE: 4, SEEN: 8 } as const;
const tableSlot = (kind: number, low: number, high: number): number =>
  kind === 0 ? ((low >>> 21) ^ high) & (TABLES1 - 1) : TABLES1 + (((low >>> 30) ^ (high << 2)) & (TABLES2 - 1));
/** Context, kind and what is above the table's reach of a linear address, in less than 53 bits. */
const tableTag = (kind: number, context: number, low: number, high: number): number =>
  (2 * context + kind) * 2 ** 36 +
  (kind === 0 ? (high & 0x1ff_ffff) * 2048 + (low >>> 21) : (high & 0x1ff_ffff) * 4 + (low >>> 30));

/** What a translation allows the set it was made for, and the raw bits of the guest's entries. */
const RIGHTS = { READ: 1, WRITE: 2, FETCH: 4, USER: 8, RAW_WRITE: 16, RAW_NX: 32 } as const;
/** Paging off: everything is allowed; linear addresses count as user-mode and writable (SDM 3C Table 27-7 notes). */
const RIGHTS_ALL = RIGHTS.READ | RIGHTS.WRITE | RIGHTS.FETCH | RIGHTS.USER | RIGHTS.RAW_WRITE;
