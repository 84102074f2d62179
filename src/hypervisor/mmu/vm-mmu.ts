/**
 * The MMU state that all vCPUs of a VM share: slots, shadow pages, formats, generations.
 *
 * Owns    the state, the access to guest tables, and the rule "weaken, flush, then free" (`commit`).
 * Knows   of vCPUs only that they have request bits and can be kicked.
 *
 * Source  nested-mmu.md 3.1 "Per VM", 4.18, 5.5.
 */
import { assert } from '../../base/assert.ts';
import type { SecondStageTables } from '../../contracts/second-stage.ts';
import { MemorySlots } from '../vm/memory-slots.ts';
import { createCounters, type MmuCounters } from './counters.ts';
import { type Capabilities, PageFormats } from './format.ts';
import type { HostMemory, VmTlbPort } from './ports.ts';
import { REQUEST } from './requests.ts';
import { ROLE } from './role.ts';
import { ENTRIES, ShadowPages } from './shadow-pages.ts';
import { zapAllFast } from './zap.ts';

/**
 * How much of the design is in force; all three are correct, only the cost differs (DESIGN.md 5).
 *   split   this design
 *   reinit  every switch re-initialises: formats are computed anew each time, as before the 2018 series
 *   shared  one root cache for all levels, emptied at each switch, and one TLB context, as before the series
 */
export type ComparisonMode = 'split' | 'reinit' | 'shared';

export interface MmuConfig {
  /** L0 runs L1 on a direct map (EPT01). Without it L0 shadows L1's tables, and offers L1 no EPT. */
  readonly tdp: boolean;
  readonly tdpLevels: 4 | 5;
  readonly capabilities: Capabilities;
  readonly mode: ComparisonMode;
  /** Checked build: every skipped re-initialisation is done all the same, and compared. */
  readonly force: boolean;
  readonly previousRoots: number;
  /** Shadow pages in use at most; reclaim keeps to it. */
  readonly pageLimit: number;
  /** Keep guest_mmu's roots when a VMCS12 is released (nested-mmu.md 2.5 item 6), or free them as upstream does. */
  readonly keepRootsOnRelease: boolean;
  /** One TLB tag per VPID of L1, or one VPID02 for all of them as upstream has it (4.11). */
  readonly vpidTags: 'per-vpid12' | 'single';
  /** Map up to 8 neighbours whose guest entries are ready when one of them faults. */
  readonly prefetch: boolean;
  /** For equivalence runs: every root switch also syncs and flushes, as if no root were ever reused. */
  readonly syncOnSwitch: boolean;
}

export const DEFAULT_CONFIG: Omit<MmuConfig, 'capabilities'> = {
  tdp: true,
  tdpLevels: 4,
  mode: 'split',
  force: false,
  previousRoots: 3,
  pageLimit: 4096,
  keepRootsOnRelease: true,
  vpidTags: 'per-vpid12',
  prefetch: true,
  syncOnSwitch: false,
};

/** Pages beyond the limit: special roots, and what one fault may still need after room was made. */
const SLACK = 128;

/** Tables for a VM of `config`, for whoever allocates them in linear memory. */
export const tableCount = (pageLimit: number): number => pageLimit + SLACK;

/** What a VM knows of its vCPUs. */
export interface RequestTarget {
  requests: number;
  /** CPUID or the VMX capability MSRs changed: no role computed so far may match. */
  invalidateRoles(): void;
}

export class VmMmu {
  readonly config: MmuConfig;
  readonly counters: MmuCounters = createCounters();
  readonly formats: PageFormats;
  readonly slots = new MemorySlots();
  readonly pages: ShadowPages;
  readonly host: HostMemory;
  readonly remote: VmTlbPort;
  readonly vcpus: RequestTarget[] = [];
  /** A shadow page of another generation is obsolete. */
  validGeneration = 1;
  /** Bumped whenever what a fault in progress has read may be out of date. */
  invalidateSequence = 0;
  /**
   * Frames of L1 that are APIC-access pages of an L2: for guest mode they are no memory, so that accesses leave. One stays
   * such a frame until an L2 has it as memory: hypervisor/nested finds out when it is accessed.
   */
  readonly apicAccess = new Set<number>();
  /** Shadow pages with guest entries behind them; 0 makes trackWrite free. */
  indirectPages = 0;
  /** A table of zeros: the root of a guest whose own root lies in a hole. */
  readonly dummyRoot: number;
  /** Last entry read by `readEntry`. */
  entryLo = 0;
  entryHi = 0;
  /** The page of the last entry read may be written by the guest. */
  entryWritable = false;
  /** An SPTE lost rights since the last flush. */
  weakened = false;
  readonly #zapped: number[] = [];

  constructor(config: MmuConfig, host: HostMemory, remote: VmTlbPort, tables?: SecondStageTables) {
    const { physicalAddressBits } = config.capabilities;
    assert(config.tdpLevels === 5 || physicalAddressBits <= 48, 'four levels map 48 address bits');
    assert(config.pageLimit >= 32, 'a VM may use at least 32 shadow pages');
    this.config = config;
    this.host = host;
    this.remote = remote;
    this.formats = new PageFormats(config.capabilities, this.counters, config.mode !== 'reinit');
    const capacity = tableCount(config.pageLimit);
    const own = { lo: new Uint32Array(capacity * ENTRIES), hi: new Uint32Array(capacity * ENTRIES) };
    this.pages = new ShadowPages(capacity, tables ?? own);
    this.dummyRoot = this.pages.allocateSpecial();
  }

  /** What the engine walks. */
  get tables(): SecondStageTables {
    return this.pages;
  }

  isObsolete(page: number): boolean {
    const { pages } = this;
    return (pages.role[page]! & ROLE.INVALID) !== 0 || pages.generation[page] !== this.validGeneration;
  }

  requestAll(request: number): void {
    for (const vcpu of this.vcpus) vcpu.requests |= request;
    this.remote.kick();
  }

  /** A dead page: given back after the next flush, once no root names it any more. */
  bury(page: number): void {
    this.weakened = true;
    this.#zapped.push(page);
  }

  /** Dead pages that wait for a flush. */
  get buried(): number {
    return this.#zapped.length;
  }

  /** Flushes if anything lost rights, and only then gives dead pages back (5.5 "commit"). */
  commit(): void {
    if (!this.weakened) return;
    this.weakened = false;
    this.counters.tlbFlushVmWide += 1;
    this.remote.flushVmWide();
    while (this.#zapped.length > 0) this.pages.free(this.#zapped.pop()!);
  }

  /** Every visible frame that this host page backs: slots may alias. For rare paths; allocates. */
  gfnsOfHostPage(hostPage: number): number[] {
    return this.slots.all
      .filter((slot) => slot.visible && hostPage >= slot.hostBase && hostPage < slot.hostBase + slot.pages)
      .map((slot) => slot.baseGfn + (hostPage - slot.hostBase));
  }

  /** Reads a guest table entry at an L1-physical address into `entryLo`, `entryHi`. False: no RAM there. */
  readEntry(gpa: number, bytes: number): boolean {
    const gfn = Math.floor(gpa / 4096);
    const slot = this.slots.find(gfn);
    if (slot === null) return false;
    const at = slot.hostPage(gfn) * 1024 + ((gpa % 4096) >>> 2);
    const { u32 } = this.host;
    this.entryLo = u32[at]!;
    this.entryHi = bytes === 8 ? u32[at + 1]! : 0;
    this.entryWritable = !slot.readOnly;
    return true;
  }

  /** New CPUID or VMX capabilities (3.6 "Epoch rule"). */
  setCapabilities(capabilities: Capabilities): void {
    this.formats.setCapabilities(capabilities);
    // Shadow pages were made by the old rules, and their roles do not say so.
    zapAllFast(this);
    for (const vcpu of this.vcpus) vcpu.invalidateRoles();
    this.requestAll(REQUEST.FLUSH_ALL);
  }

  requestFreeObsolete(): void {
    this.requestAll(REQUEST.FREE_OBSOLETE_ROOTS);
  }
}
