import { assert, UserError } from '../../base/assert.ts';
import { byteSize } from '../../base/format.ts';
import { TEMPLATES } from '../decode/templates.ts';
import { CODE_TABLE, CONTEXT_BYTES, FUSIONS, REC, TLB, TLB_EMPTY, VMCS_CELLS, VMCS_MAP } from './layout.ts';
import type { ModuleSource } from './module-source.ts';

const WASM_PAGE = 65_536;
const LARGE_PAGE = 0x20_0000;

/** What runs hot code: `lockstep` is the compiler with the interpreter behind it, compared at each region's end. */
export const ACCELERATORS = ['interpreter', 'compiler', 'lockstep'] as const;
export type Accelerator = (typeof ACCELERATORS)[number];

/** How the linear memory is divided. All addresses are bytes, page-aligned. */
export interface MemoryPlan {
  /** TLB contexts that can be alive at once, all vCPUs together. */
  readonly contexts: number;
  /** Bytes for decoded code: both parts of records. */
  readonly codeBytes: number;
  /** Bytes of guest RAM. */
  readonly ramBytes: number;
  /** Parked state blocks. */
  readonly vcpus: number;
  /** Count executions by handler: bench/hot-forms. */
  readonly profile?: boolean;
  /** What runs hot code; the interpreter by default. */
  readonly accel?: Accelerator;
  /** Lockstep: instructions of a vCPU before which nothing is compared. */
  readonly lockstepFrom?: number;
  /** Times a run of instructions is entered before it is compiled. */
  readonly jitThreshold?: number;
  /** Pages compiled together; 1: each as soon as it is hot. */
  readonly jitBatch?: number;
  /** Most bytes of compiled WebAssembly alive. */
  readonly jitBytes?: number;
  /** Has modules from earlier runs. Not in lockstep. */
  readonly jitModules?: ModuleSource;
}

/** Most regions of compiled code alive. */
export const REGIONS_MAX = 4096;
/** Most pages that they can have between them. */
export const REGION_PAGES_MAX = 4096;

/** Bytes for their POOLs. */
export const REGION_POOL_BYTES = 16 << 20;

/** A table of blocks by page offset: their numbers and 1. */
export const REGION_MAP_BYTES = 2 * 4096;

/** Most pages that lockstep can take back at once. */
export const LOCKSTEP_PAGES = 4096;
/** Its area: offsets from `lockstep`. */
export const LOCKSTEP = {
  STATE_BEFORE: 0,
  STATE_FIRST: 0x1000,
  STATE_MASK: 0x2000,
  /** Host addresses of pages, u32 each; images of them as they were, and as the first run left them. */
  HOSTS: 0x3000,
  BEFORE: 0x3000 + 4 * LOCKSTEP_PAGES,
  FIRST: 0x3000 + 4 * LOCKSTEP_PAGES + 4096 * LOCKSTEP_PAGES,
  BYTES: 0x3000 + 4 * LOCKSTEP_PAGES + 2 * 4096 * LOCKSTEP_PAGES,
} as const;

/** VMCSs of one vCPU whose fields are in linear memory at once. */
export const VMCS_BLOCKS = 8;
const VMCS_BYTES = VMCS_MAP.BYTES + VMCS_BLOCKS * VMCS_CELLS.BYTES;

/** Most instructions of one run of decoded code: bounds how much a step over part of it copies. */
export const RUN_MAX = 64;
/** And what ends it. */
const STEP_RECORDS = RUN_MAX + 4;

/** CODE_TABLEs may take this part of what the records may: a page that is jumped into here and there costs both. */
const TABLES_SHARE = 0.75;

const LIMIT_BYTES = 4 * 1024 ** 3 - WASM_PAGE;

/**
 * The one linear memory: who lives where, and the views on it. Nothing is committed before it is touched, so a large
 * guest costs what it uses.
 */
export class EngineMemory {
  readonly memory: WebAssembly.Memory;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly parked: number;
  /** For each vCPU: a VMCS_MAP, then VMCS_BLOCKS blocks of VMCS_CELLS. */
  readonly vmcs: number;
  readonly contexts: number;
  readonly contextCount: number;
  /** Records that run a counted number of instructions: CodeCache.stepRecords. */
  readonly stepRecords: number;
  /** Records; their cold parts are REC.COLD behind them. */
  readonly code: number;
  readonly codeEnd: number;
  /** CODE_TABLEs. */
  readonly codeTables: number;
  readonly codeTablesEnd: number;
  /** The decoder's tables: decode/templates.ts. */
  readonly templates: number;
  /** FUSIONS. */
  readonly fusions: number;
  /** By host page: address of its first CODE_TABLE, or 0. u32 each */
  readonly codeHeads: number;
  /** By host page: u32 index of its write entry in a TLB: paging/tlb.ts. u32 each */
  readonly writers: number;
  readonly ram: number;
  /** Execution counts by handler number, u32 each, or 0. */
  readonly profile: number;
  readonly ramBytes: number;
  /** For each page of a region of compiled code: blocks by page offset, a u16 each. 0: there is no compiler. */
  readonly regionMaps: number;
  /** By region slot: address of its POOL. u32 each; behind them the pools. */
  readonly regionPools: number;
  /** LOCKSTEP, or 0. */
  readonly lockstep: number;

  constructor(plan: MemoryPlan) {
    this.parked = TLB_EMPTY + TLB.EXECUTE;
    this.vmcs = this.parked + plan.vcpus * 0x1000;
    this.contexts = (this.vmcs + plan.vcpus * VMCS_BYTES + 0xffff) & ~0xffff;
    this.contextCount = plan.contexts;
    this.stepRecords = this.contexts + plan.contexts * CONTEXT_BYTES;
    this.code = this.stepRecords + STEP_RECORDS * REC.BYTES;
    const records = Math.floor(plan.codeBytes / (REC.BYTES + REC.COLD_BYTES));
    this.codeEnd = this.code + records * REC.BYTES;
    assert(this.codeEnd - this.stepRecords <= REC.COLD, 'records end in front of their cold parts');
    const coldEnd = this.stepRecords + REC.COLD + (STEP_RECORDS + records) * REC.COLD_BYTES;
    this.profile = plan.profile ? Math.ceil(coldEnd / 4096) * 4096 : 0;
    // On 2 MiB, so that L0 can map RAM by large pages
    const maps = plan.profile ? this.profile + WASM_PAGE : coldEnd;
    this.regionMaps = (plan.accel ?? 'interpreter') !== 'interpreter' ? Math.ceil(maps / 4096) * 4096 : 0;
    this.regionPools = this.regionMaps + REGION_PAGES_MAX * REGION_MAP_BYTES;
    const regionsEnd = this.regionMaps === 0 ? maps : this.regionPools + 4 * REGIONS_MAX + REGION_POOL_BYTES;
    this.lockstep = plan.accel === 'lockstep' ? regionsEnd : 0;
    const end = this.lockstep === 0 ? regionsEnd : this.lockstep + LOCKSTEP.BYTES;
    this.codeTables = (end + 63) & ~63;
    this.codeTablesEnd =
      this.codeTables + Math.ceil((plan.codeBytes * TABLES_SHARE) / CODE_TABLE.BYTES) * CODE_TABLE.BYTES;
    this.templates = (this.codeTablesEnd + 4095) & ~4095;
    this.fusions = (this.templates + TEMPLATES.BYTES + 4095) & ~4095;
    this.codeHeads = (this.fusions + FUSIONS.BYTES + 4095) & ~4095;
    // Two words for each page up to the end of RAM, whose start they move
    const hostPages = Math.ceil((this.codeHeads + LARGE_PAGE + plan.ramBytes) / (4096 - 8));
    this.writers = this.codeHeads + 4 * hostPages;
    this.ram = Math.ceil((this.writers + 4 * hostPages) / LARGE_PAGE) * LARGE_PAGE;
    this.ramBytes = plan.ramBytes;
    const total = this.ram + plan.ramBytes;
    if (total > LIMIT_BYTES) {
      throw new UserError(
        `the machine has room for ${byteSize(LIMIT_BYTES - this.ram)} of RAM in one WebAssembly memory, ` +
          `but ${byteSize(plan.ramBytes)} are asked for: give a smaller -m`,
      );
    }
    const pages = Math.ceil(total / WASM_PAGE);
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const { buffer } = this.memory;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.u8.fill(0xff, TLB_EMPTY, TLB_EMPTY + TLB.EXECUTE);
    assert(this.ram % 4096 === 0, 'guest RAM starts on a page');
  }

  vmcsMap(vcpu: number): number {
    return this.vmcs + vcpu * VMCS_BYTES;
  }

  vmcsCells(vcpu: number, block: number): number {
    return this.vmcsMap(vcpu) + VMCS_MAP.BYTES + block * VMCS_CELLS.BYTES;
  }
}
