/**
 * Where everything lives in the engine's linear memory, and the shape of a vCPU's state.
 *
 *   0x0000_0000  guard: nothing, so that a zero pointer is caught by looking
 *   0x0000_1000  STATE: the vCPU that runs now (others are parked in their own blocks and copied in when they run)
 *   0x0000_2000  scratch: spill area of odd memory accesses
 *   0x0000_3000  RETURNS
 *   0x0000_3800  WALKS; the caches of page walks: FRAMES, PIECES, TABLES
 *   0x0001_0000  TLB_EMPTY
 *   0x0003_0000  parked vCPUs
 *   …            TLB contexts
 *   …            decoded code: records, their rarely wanted parts, tables of pages
 *   …            guest RAM, page-aligned
 *
 * Generated code addresses the state by constants, which is why the running vCPU is always at the same place.
 */

export const STATE = 0x1000;
/** Bytes of one vCPU's state block. */
export const STATE_BYTES = 0x1000;

/** Offsets are absolute addresses of the running vCPU's block. */
const at = (offset: number): number => STATE + offset;

/** General registers, 8 bytes each, in the manual's numbering: RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15. */
export const GPR = at(0x000);
export const gpr = (index: number): number => GPR + 8 * index;

export const S = {
  /** Always zero: base or index that an address does not have; base of a flat segment in 64-bit mode. */
  ZERO: at(0x080),
  /** Architectural RIP. Exact whenever generated code is not running; inside it RIP is `RIP_PAGE - CS base + offset`. */
  RIP: at(0x088),
  /** Linear address of the page that runs. Base register of RIP-relative operands. */
  RIP_PAGE: at(0x090),
  /** Linear address where execution goes on after a control transfer. */
  NEXT_LINEAR: at(0x098),

  // Lazy flags: see isa/flags.ts
  CC_KIND: at(0x0a0), // u32
  CC_A: at(0x0a8), // i64
  CC_B: at(0x0b0), // i64
  /** RFLAGS without CF PF AF ZF SF OF: those come from CC_*. Bit 1 is set. u32 */
  RFLAGS: at(0x0b8),
  /** 1 or -1 (i64), from RFLAGS.DF: kept in step by whoever writes RFLAGS. */
  DIRECTION: at(0x0c0),

  /** Base addresses of ES CS SS DS FS GS as the address calculation uses them (0 where 64-bit mode ignores them). */
  SEG_BASE: at(0x0c8), // 6 × i64, to 0x0f8

  /** Instructions still to run before `run` returns; may go below zero inside it. i32 */
  BUDGET: at(0x100),
  /** Address of the TLB set in force: context, privilege, SMAP. u32 */
  TLB: at(0x104),
  /** Address of the jump cache in force. u32. With JUMP_TAG, as one i64, it says under which translations and mode code was found. */
  JUMP_CACHE: at(0x108),
  /** What an entry of the jump cache in force must carry: the mode word, and from bit 12 the cache's generation. u32 */
  JUMP_TAG: at(0x10c),
  /** Record whose `link` the next look-up fills in, or 0. u32 */
  PENDING_LINK: at(0x110),
  /** What the single-stepped instruction may do that would otherwise leave: see ALLOW. u32 */
  ALLOW: at(0x114),
  /** Effective address left by a TypeScript helper. i64 */
  EA: at(0x118),
  /** Value handed to or from a slow memory access. i64 */
  VALUE: at(0x120),
  /** CPL, also the RPL of CS. u32 */
  CPL: at(0x128),
  /** Status of the last slow access: 0 or a STATUS. u32 */
  ACCESS_STATUS: at(0x12c),
  /** Non-zero: an odd read-modify-write waits in SCRATCH for its commit. u32 */
  COMMIT: at(0x130),

  /** 16, or 7 with 5-level paging: how far a canonical address is shifted to test it. u32 */
  CANONICAL_SHIFT: at(0x134),

  // Fault about to be delivered, written by whoever returns STATUS.FAULT
  FAULT_VECTOR: at(0x138), // u32
  FAULT_ERROR: at(0x13c), // u32
  FAULT_ADDRESS: at(0x140), // i64, CR2 or DR6 bits

  // Exit record, written by whoever returns STATUS.EXIT or EXIT_BEFORE; layout in core/exits.ts
  EXIT: at(0x150), // to 0x1a0

  /** Record that `run` left at, or 0 if a look-up failed. u32 */
  EXIT_RECORD: at(0x198),

  // System registers
  CR2: at(0x1a0), // i64
  XCR0: at(0x1a8), // u32
  PKRU: at(0x1ac), // u32
  DR: at(0x1b0), // 8 × i64, to 0x1f0
  // From here to PDPTE: what a switch between a hypervisor and its guest exchanges, SWITCHED
  CR0: at(0x1f0), // u32
  CR3: at(0x1f8), // i64
  CR4: at(0x200), // u32
  SYSENTER_CS: at(0x208),
  SYSENTER_ESP: at(0x210),
  SYSENTER_EIP: at(0x218),
  GDTR_BASE: at(0x220),
  GDTR_LIMIT: at(0x228),
  IDTR_BASE: at(0x230),
  IDTR_LIMIT: at(0x238),
  /** ES CS SS DS FS GS LDTR TR: 32 bytes each; see SEG. */
  SEGMENTS: at(0x240), // to 0x340
  /** PDPTEs loaded by PAE paging: 4 × i64 */
  PDPTE: at(0x340),
  EFER: at(0x360), // u32
  // MSRs that the engine itself uses
  STAR: at(0x368),
  LSTAR: at(0x370),
  CSTAR: at(0x378),
  FMASK: at(0x380),
  KERNEL_GS_BASE: at(0x388),
  PAT: at(0x390),
  TSC_AUX: at(0x398),
  XSS: at(0x3a0),
  /** Instruction count at which a STI or MOV SS shadow ends, as i64, and its kind: 0 none, 1 STI, 2 MOV SS. */
  SHADOW_AT: at(0x3a8),
  SHADOW_KIND: at(0x3b0),

  // x87, MMX, SSE
  FCW: at(0x3c0), // u16
  FSW: at(0x3c4), // u16 without TOP
  FTOP: at(0x3c8), // u32, 0..7
  /** One byte per physical register: 1 if empty. Full tags are computed when asked for. */
  FEMPTY: at(0x3d0), // 8 bytes
  FOP: at(0x3d8), // u16
  FCS: at(0x3dc), // u16
  FDS: at(0x3e0), // u16
  FIP: at(0x3e8), // i64
  FDP: at(0x3f0), // i64
  MXCSR: at(0x3f8), // u32
  /** Physical x87 registers: 8 × 16 bytes: i64 significand, u16 sign and exponent. MM registers are the significands. */
  FPR: at(0x400), // to 0x480
  /** XMM0–15, 16 bytes each. */
  XMM: at(0x480), // to 0x580
  /** Upper halves of YMM0–15. */
  YMMH: at(0x580), // to 0x680
  /** Bytes of a 16- or 32-byte operand that went the slow way. */
  WIDE: at(0x680), // to 0x6c0
  /** Softfloat and x87 helpers' scratch. */
  FLOAT_SCRATCH: at(0x6c0), // to 0x780

  /** 1 from the delivery of an NMI to the next IRET: SDM 3A 6.7.1. u32 */
  NMI_BLOCKED: at(0x780),
  /** IA32_DEBUGCTL. u32 */
  DEBUGCTL: at(0x784),
  /** Bits of DR6 for a #DB of trap class that is due behind the instruction that runs: core/debug.ts. u32 */
  PENDING_DEBUG: at(0x788),
  /** Fields that VMREAD and VMWRITE reach without leaving: address of the VMCS_CELLS block in force, or 0: all leave. u32 */
  VMCS: at(0x78c),
  /** Address of the VMCS_MAP that says which encoding is which cell. u32 */
  VMCS_MAP: at(0x790),
  /** What decoded code depends on besides its bytes: see decode/mode.ts. u32 */
  MODE: at(0x794),
  /** Instructions retired when the budget is used up: what has retired is this less BUDGET. i64 */
  RETIRED_AT_END: at(0x798),
  /** Time-stamp counter less TSC_RATE × instructions retired, in the run under way. i64 */
  TSC_BASE: at(0x7a0),
  /** Ticks of the time-stamp counter an instruction, or 0 if only L0 can tell. u32 */
  TSC_RATE: at(0x7a8),
  /** INTERCEPT bits of what leaves in the run under way, and WINDOW. u32 */
  INTERCEPTED: at(0x7ac),
  /** ffffH if CPUID deprecates FCS and FDS (leaf 7, EBX bit 13): they are saved as 0 whatever was loaded. u32 */
  NO_X87_SELECTORS: at(0x7b0),
  /** Address of the TLB context in force. u32 */
  CONTEXT: at(0x7b4),
  /** Address of the execute array in force. u32 */
  EXECUTE: at(0x7b8),
  /** QUICK bits if generated code may walk the tables in force itself, else 0. u32 */
  QUICK: at(0x7bc),
  /** Bits that must be clear in the upper half of their entries. u32 */
  QUICK_RESERVED: at(0x7c0),
  /** Id of the second-stage root in force. u32 */
  ROOT: at(0x7c4),
  /** Pages whose bits say, by encoding, which VMREADs and VMWRITEs leave although S.VMCS has the field, or 0: none. u32 */
  VMREAD_BITMAP: at(0x7c8),
  VMWRITE_BITMAP: at(0x7cc),
  /** PAUSE-loop exiting, in ticks of the time-stamp counter: SDM 3C 24.6.13. u32 each */
  PLE_GAP: at(0x7d0),
  PLE_WINDOW: at(0x7d4),
  /** When the loop of PAUSEs and its last one were seen; 0: none. i64 each */
  PAUSE_FIRST: at(0x7d8),
  PAUSE_LAST: at(0x7e0),
  /** A task switch that has left in the middle, in the new task: TASK bits, and the event's error code; 0: none. u32 each */
  TASK: at(0x7e8),
  TASK_ERROR: at(0x7ec),
  /** Its CR3, as long as TASK.LOADS_CR3. u32 */
  TASK_CR3: at(0x7f0),
  /** Page of a VMX MSR bitmap: it says which RDMSRs and WRMSRs of OPEN_MSRS leave. 0: none, 1: all. u32 */
  MSR_BITMAP: at(0x7f4),
  /** IA32_SPEC_CTRL. u32 */
  SPEC_CTRL: at(0x7f8),
  /** What is written to an MSR that cannot be read. u32 */
  WRITE_ONLY_MSR: at(0x7fc),
  /** Not 0: instructions that leave are offered to the function behind TURN_SLOT first; LOADS_VMCS is the engine's. u32 */
  TURNS: at(0x880),
  /** That function's own: to 0x8a0. */
  TURN: at(0x888),
  /** VMPTRLDs so far: orders VMCS_LIST by use. i64 */
  VMPTRLD_CLOCK: at(0x8a0),
  /** VMPTRLDs and VMCLEARs that L0 has not been asked about, and has not counted yet. u32 each, side by side */
  VMPTRLDS: at(0x8a8),
  VMCLEARS: at(0x8ac),
} as const;

/** Bit of S.TURNS: VMPTRLD and VMCLEAR of VMCSs in VMCS_LIST need not leave. L0's own bits are below it. */
export const LOADS_VMCS = 4;
/**
 * VMCSs that VMPTRLD makes current without asking L0, as long as their region begins with IDENTIFIER. VMCLEAR needs nothing of
 * L0 where IDENTIFIER is a shadow VMCS's (bit 31), which is kept in its region, and the launch state says "clear".
 */
export const VMCS_LIST = {
  AT: at(0x980),
  ENTRIES: 15,
  ENTRY_BYTES: 32,
  /** Guest-physical address of the region. i64 */
  ADDRESS: 0,
  /** What S.VMCS is to be; 0: no entry. u32 */
  CELLS: 8,
  /** Address of the region's revision identifier, and what is there. u32 each */
  REGION: 12,
  IDENTIFIER: 16,
  /** What S.TURNS is to be. u32 */
  TURNS: 20,
  /** When VMPTRLD made it current last, by S.VMPTRLD_CLOCK. i64 */
  LAST: 24,
  /** Offset of the launch state in a region: 0 is "clear". u32 */
  LAUNCHED: 8,
} as const;

/** In S.TASK, above the vector, type and error bit of the event (interruption information) that has come through a gate. */
export const TASK = {
  PENDING: 0x8000_0000,
  BY_EVENT: 1 << 30,
  LOADS_CR3: 1 << 29,
  /** L0, which watches CR3, has found that it cannot be loaded: #GP(0) in the new task. */
  CR3_REFUSED: 1 << 28,
  /** The T bit of the TSS. */
  TRAPS: 1 << 27,
  EVENT: 0xfff,
  /** Of EVENT: it has an error code. */
  ERROR: 0x800,
} as const;

/**
 * MSRs that RDMSR and WRMSR reach without asking L0, as S.MSR_BITMAP lets them: a slot for each, found by `openMsrSlot`. None
 * is above 1FFFH, and none has more than 32 bits that are not 0.
 */
export const OPEN_MSRS = {
  AT: at(0x800),
  SLOTS: 8,
  SLOT_BYTES: 16,
  /** u32 */
  INDEX: 0,
  /** Address of its value, or 0: there is none in this slot. u32 */
  CELL: 4,
  /** Values that WRMSR may write have no other bits. Others are for L0. u32 */
  WRITABLE: 8,
  /** OPEN_MSR. u32 */
  ACCESS: 12,
} as const;
export const OPEN_MSR = { READ: 1, WRITE: 2 } as const;
export const openMsrSlot = (index: number): number => (index ^ (index >>> 3)) & (OPEN_MSRS.SLOTS - 1);

/** In S.QUICK. */
export const QUICK = {
  /** Levels of the guest's tables: 4 or 5. */
  LEVELS: 7,
  /** Tables must be writable in the second stage: its accessed and dirty flags are in force. */
  WRITES_TABLES: 1 << 3,
  GIGABYTE_PAGES: 1 << 4,
} as const;

/** Segment register records at S.SEGMENTS. The order is the instruction encoding's, then LDTR and TR. */
export const SEG = {
  ES: 0,
  CS: 1,
  SS: 2,
  DS: 3,
  FS: 4,
  GS: 5,
  LDTR: 6,
  TR: 7,
  BYTES: 32,
  /** u16 */
  SELECTOR: 0,
  /** u32 access rights as VMCS fields hold them: SDM 3C 24.4.1, bit 16 "unusable". */
  ACCESS: 4,
  /** u32, in bytes, granularity applied */
  LIMIT: 8,
  /** i64 */
  BASE: 16,
} as const;
export const segment = (index: number): number => S.SEGMENTS + SEG.BYTES * index;

/** Control registers, SYSENTER's MSRs, descriptor tables and segments: core/state-image.ts moves them as one block. */
export const SWITCHED = { FIRST: S.CR0, BYTES: S.PDPTE - S.CR0 } as const;

/**
 * Which VMREADs and VMWRITEs do not leave, and where their fields are: what VMCS shadowing is on a processor
 * (SDM 3C 24.10 "VMCS Types: Ordinary and Shadow"), with L0's choice of fields.
 *
 *   map     READ and WRITE: u16 by slot, offset of the field's cell in the block, or 0: leaves. A slot is made of an
 *           encoding's index, kind and width; encodings with any other bit set leave
 *   block   a cell of 8 bytes a field, from 8 on; DIRTY: a bit for each cell that VMWRITE has changed; behind that L0's own:
 *           GUEST, HOST: what it makes of cells, SWITCHED registers as the state has them; TURN: what it prepares for turns;
 *           KNOWN: the cells as L0 has last looked at them
 */
export const VMCS_MAP = {
  READ: 0,
  WRITE: 0x800,
  /** i64 by cell offset: what a VMWRITE keeps. */
  MASK: 0x1000,
  BYTES: 0x1800,
  /** Bits of an encoding that make the slot: index 6:1, kind 11:10, width 14:13. */
  ENCODING_BITS: 0x6c7e,
} as const;
export const VMCS_CELLS = {
  DIRTY: 0x7e0,
  DIRTY_BYTES: 0x20,
  GUEST: 0x800,
  TURN: 0x950,
  HOST: 0xa00,
  KNOWN: 0xc00,
  BYTES: 0x1400,
} as const;
export const vmcsSlot = (encoding: number): number =>
  ((encoding >>> 1) & 0x3f) | ((encoding >>> 4) & 0xc0) | ((encoding >>> 5) & 0x300);

/** A place for accesses that cannot use guest memory directly: 64 bytes. */
export const SCRATCH = 0x2000;
/** Instructions that regions have retired, all vCPUs together: i64. */
export const REGIONS_RETIRED = 0x2080;
/** Another number, from 1 on, whenever a region has ended. u32 */
export const REGIONS_GENERATION = 0x2088;
/** Where a region that left with FOUND or RETURNED has found it: address of an entry of a jump cache, or of RETURNS. u32 */
export const EXIT_SLOT = 0x208c;

/**
 * Where calls in regions will return to, by the address on the stack where the return address is: entries for 64 slots of the
 * stack. Each flush of translations, and the end of a region, begins another epoch.
 */
export const RETURNS = {
  AT: 0x3000,
  ENTRIES: 64,
  ENTRY_SHIFT: 5,
  ENTRY_BYTES: 32,
  BYTES: 2048,
  /** Return address, linear. i64 */
  LINEAR: 0,
  /** S.JUMP_CACHE and JUMP_TAG when it was called. i64 */
  UNDER: 8,
  /** Address of the POOL of the region that goes on there. u32 */
  POOL: 16,
  /** Number + 1 of the block. u32 */
  ENTRY: 20,
  /** The epoch when it was called. u32 */
  EPOCH: 24,
  /** Where the epoch is that entries must be of. u32 */
  EPOCH_AT: 0x2090,
} as const;

/** Of the cache of decoded code. */
export const DECODING = {
  /** Where the next record goes. u32 */
  TOP: 0x2100,
  /** Instructions decoded, pages that were dropped since included. u32 */
  COUNT: 0x2104,
} as const;

/** What walks share, at fixed places. */
export const WALKS = {
  /** Another number after each flush of anything: what was learnt from paging structures before is to be forgotten. u32 */
  EPOCH: 0x3800,
  /** Bit n: a page of protection key n has been put into the TLB. u32 */
  KEYS: 0x3804,
  /** How often a translation was put into the TLB. i64 */
  FILLS: 0x3808,
} as const;

/** Not 0: each look-up of code that no jump cache has is for TypeScript, where someone wants to hear of it: SEEN_BY bits. u32 */
export const LOOKUPS_ARE_SEEN = 0x3810;
export const SEEN_BY = { DEBUGGER: 1, LOG: 2 } as const;

/**
 * Caches of the second stage: guest-physical frames, and pieces of 2 MiB of its larger pages. An entry: number of the frame
 * or piece, root id, lower half of the SPTE (0: no entry), host page number; u32 each.
 */
export const FRAMES = { AT: 0x4000, ENTRIES: 1024, ENTRY_BYTES: 16, ROOT: 4, SPTE: 8, HOST: 12 } as const;
export const PIECES = { AT: 0x8000, ENTRIES: 256, ENTRY_BYTES: 16, ROOT: 4, SPTE: 8, HOST: 12 } as const;

/**
 * The paging-structure cache: where a walk of 64-bit tables can begin, first tables of level 1, then of level 2.
 * SDM 3A 4.10.3 "Paging-Structure Caches".
 */
export const TABLES = {
  AT: 0x9000,
  ENTRIES1: 256,
  ENTRIES2: 64,
  ENTRY_BYTES: 32,
  /** Linear address as far as it names the table, and the address of the context: i64. */
  TAG: 0,
  EPOCH: 8,
  /** Host address of the table. u32 */
  HOST: 12,
  /** Its guest-physical address. i64 */
  PHYSICAL: 16,
  /** TABLE_RIGHTS. u32 */
  RIGHTS: 24,
} as const;

/** What the entries above a table allow: bits 1 and 2 as in an entry. */
export const TABLE_RIGHTS = { EXECUTABLE: 1, WRITABLE: 2, USER: 4, ALL: 7 } as const;

/** From a record to its rarely wanted part, REC.COLD_BYTES long: not a multiple of what the host's caches repeat after. */
const COLD = 0x300_1840;

/**
 * One decoded instruction. Addresses are absolute, those of registers and base cells below 64 KiB.
 *
 * A record is as short as can be, since wide code, a kernel's for instance, costs the host its caches. What is rarely wanted
 * stands apart, with offsets that lead there.
 */
export const REC = {
  BYTES: 32,
  HANDLER: 0, // u16
  /** Offset of the instruction in its page. u16 */
  OFFSET: 2,
  LENGTH: 4, // u8
  /** 0–3: index is shifted by this. u8 */
  SCALE: 5,
  /** Instructions from this one to the end of its run, itself included. u16 */
  REMAINING: 6,
  /** Register operands in the order of the instruction's operands: addresses. u16 */
  RA: 8,
  RB: 10,
  RC: 12,
  /** Relative branches, which have no such operands, and pseudo records: record of the target in the same page, or 0. u32 */
  LINK: 8,
  /** Address of the segment's base cell. u16 */
  SEG: 14,
  /** Addresses of base and index. u16 */
  BASE: 16,
  INDEX: 18,
  DISP: 20, // i32
  /** Relative branches, which have no displacement: target, relative to the page. i32 */
  TARGET: 20,
  /** Immediate. i32 */
  IMM: 24,
  /** How often a run was entered here: the compiler tier's measure. i32 */
  HEAT: 28,

  COLD,
  COLD_BYTES: 32,
  /** AUX fields. u32 */
  AUX: COLD,
  /** ModRM (bits 0–7), opcode (8–15), map. u32 */
  EXTRA: COLD + 4,
  /** Upper half of an immediate or a full-size offset (moffs, in DISP) of 64 bits; selector of a far pointer; else 0. u32 */
  UPPER: COLD + 8,
  /** Bits 0–19: host page. From bit 20: at an entry of a region, the number of its block there. u32 */
  PLACE: COLD + 12,
} as const;
export const PLACE_ENTRY_SHIFT = 20;

/** Bit fields of a record's AUX: what the general address calculation and TypeScript helpers want to know. */
export const AUX = {
  SEGMENT_SHIFT: 0, // 3 bits: SEG number of the memory operand
  ADDRESS_SIZE_SHIFT: 4, // 2 bits: 0 16-bit, 1 32-bit, 2 64-bit
  OPERAND_SIZE_SHIFT: 6, // 2 bits: 0 byte, 1 word, 2 dword, 3 qword
  REP: 1 << 8, // F3
  REPNE: 1 << 9, // F2
  LOCK: 1 << 10,
  OPERAND16: 1 << 11, // 66
  REX_W: 1 << 12,
  MEMORY: 1 << 13, // ModRM names memory
  /** Number of the register operand in ModRM.reg and r/m, with REX bits. 4 bits each. */
  REG_SHIFT: 16,
  RM_SHIFT: 20,
} as const;

/**
 * TLB: per context, three sets (user; supervisor with SMAP in force; supervisor), each a read and a write array, and an
 * execute array, which supervisors have one of: SMAP is not about fetching.
 */
export const TLB = {
  ENTRY_BYTES: 16,
  ENTRIES: 4096,
  ARRAY_BYTES: 64 * 1024,
  /** Read array, then write array, then execute array. */
  SET_BYTES: 3 * 64 * 1024,
  WRITE: 64 * 1024,
  EXECUTE: 128 * 1024,
  SETS: 3,
  USER: 0,
  SUPERVISOR_SMAP: 1,
  SUPERVISOR: 2,
  /** In an entry: i64 tag (linear page, or -1), i32 addend. */
  ADDEND: 8,
  /** In the tag of an entry that is good, but of a page with a watchpoint: generated code must not find it. */
  WATCHED: 1,
} as const;

/**
 * A read and a write array that never get an entry, in place of the set in force while alignment checks are armed: every
 * access goes the slow way, which checks.
 */
export const TLB_EMPTY = 0x1_0000;

/**
 * Jump cache: linear address → record, per context and privilege (user, supervisor). Behind its entries stands what a
 * flush wants to know.
 */
export const JUMP_CACHE = {
  ENTRY_SHIFT: 5,
  ENTRY_BYTES: 32,
  ENTRIES: 4096,
  BYTES: 128 * 1024,
  RECORD: 8,
  /** Mode word, and from this bit on the cache's generation. */
  TAG: 12,
  GENERATION_SHIFT: 12,
  /** If the record is an entry of a region: its slot and, from bit 16 on, its block's number + 1. u32 */
  ENTRY: 16,
  /** REGIONS_GENERATION for which ENTRY is right. u32 */
  REGIONS: 20,
  /** HAS_JUMPS bits. u32 */
  HAS: 128 * 1024,
  /** Flushing is a new one: entries of another are no hits. u32 */
  GENERATION: 128 * 1024 + 4,
  /** Pages that there may be entries for, as a bit for each of 4096 groups of pages. */
  FILTER: 128 * 1024 + 64,
  FILTER_BYTES: 512,
  /** From one cache to the next. */
  STRIDE: 128 * 1024 + 1024,
} as const;

/** A jump cache has entries; it may have some for pages that are not global, now or from its context's execute entries. */
export const HAS_JUMPS = { ENTRIES: 1, LOCAL: 2 } as const;

/** What a context has been filled with since its last flush. Offsets in the context. */
export const FILLS = {
  /** Bit n: set n has entries. u32 */
  DIRTY: TLB.SETS * TLB.SET_BYTES + 2 * JUMP_CACHE.STRIDE,
  /** Entries for pages that are not global, and for those that are: how many (u32), and u32 indices of the first so many. */
  LOCAL: TLB.SETS * TLB.SET_BYTES + 2 * JUMP_CACHE.STRIDE + 4,
  GLOBAL: TLB.SETS * TLB.SET_BYTES + 2 * JUMP_CACHE.STRIDE + 8,
  LOCAL_ENTRIES: TLB.SETS * TLB.SET_BYTES + 2 * JUMP_CACHE.STRIDE + 64,
  GLOBAL_ENTRIES: TLB.SETS * TLB.SET_BYTES + 2 * JUMP_CACHE.STRIDE + 64 + 4 * 2048,
  /** More are not remembered: then a flush has to empty the arrays whole. */
  MAX: 2048,
} as const;

export const CONTEXT_BYTES = (FILLS.GLOBAL_ENTRIES + 4 * FILLS.MAX + 4095) & ~4095;

/** Decoded code of a host page under one mode word. Tables of a page hang on one another, the first on `codeHeads`. */
export const CODE_TABLE = {
  /** Record of the instruction at each offset, or 0: u32. */
  ENTRIES: 0,
  ENTRIES_BYTES: 4 * 4096,
  /** Mode word. u32 */
  MODE: 4 * 4096,
  /** Address of the next table, or 0. u32 */
  NEXT: 4 * 4096 + 4,
  /** REC.HEAT of what is decoded now: code that replaces hot code is likely to be hot. i32 */
  HEAT: 4 * 4096 + 8,
  /** Last record of the last stretch that was decoded, or 0; it is a pseudo record, with a STRETCH. u32 */
  STRETCHES: 4 * 4096 + 12,
  /** Not 0: TypeScript decodes, as what was known to become hot has been patched. u32 */
  PATCHED_HOT: 4 * 4096 + 16,
  /** Writes to the page since it holds code: those that count against it, and all. u32 each */
  WRITES: 4 * 4096 + 20,
  CHANGES: 4 * 4096 + 24,
  /** As many as in earlier runs before it was compiled: then what is known counts; 0: it does. u32 */
  WAITS: 4 * 4096 + 28,
  /** Not 0: it has instructions that are patched again and again: tiers/code-cache.ts. u32 */
  PATCHED: 4 * 4096 + 32,
  BYTES: 4 * 4096 + 64,
} as const;

/** In a pseudo record at the end of a stretch, decoded in one go: its first record, and the last one of another stretch. u32 each */
export const STRETCH = { FIRST: REC.AUX, NEXT: REC.EXTRA } as const;

/**
 * Which pairs of handlers run as one: EngineMemory.fusions. Numbers of first ones and of second ones make the index of a
 * handler, u16 each. 0: no pair.
 */
export const FUSIONS = {
  /** By handler: its number as the first of pairs, as the second. u8 each */
  FIRST: 0,
  SECOND: 0x4000,
  PAIRS: 0x8000,
  FIRST_SHIFT: 8,
  BYTES: 0x8000 + 2 * 0x1_0000,
} as const;

/** Added to the number of bytes of a slow access: it goes through SS although the memory operand may not. */
export const STACK_ACCESS = 0x100;
/** Added to the number of bytes that compiled code wants in the TLB: for writing. */
export const FILL_WRITE = 0x200;
/** Added likewise: #AC is not for this load or store. */
export const UNALIGNED_ACCESS = 0x400;
/** Added likewise where memory is to be modified: only asks whether it can be written, whatever its alignment. */
export const PROBE_ACCESS = 0x800;

/** What a handler or a helper tells the dispatcher. */
export const STATUS = {
  /** Go on with the next record. */
  NEXT: 0,
  /** S.FAULT_* is to be delivered; the instruction has changed nothing. */
  FAULT: 1,
  /** Done; go on at S.NEXT_LINEAR. */
  JUMP: 2,
  /** Done, RIP is set; return to L0 with S.EXIT. */
  EXIT: 3,
  /** Nothing has changed, RIP is the instruction's; return to L0 with S.EXIT. */
  EXIT_BEFORE: 4,
  /** A branch not taken: go on with the next record, which starts a run of its own. */
  ENTER: 5,
  /** A branch taken: go on at the record's LINK, or look for its target. */
  LINKED: 6,
  // Only from regions, with REGION
  /** Go on with this record; its run is charged. */
  RESUME: 7,
  /** Go on with this record, and charge its run. */
  GO: 8,
  /** Nothing has changed; the interpreter is to run this record, of a run that is charged. */
  REDO: 9,
  /** Done; go on with this record, in another page perhaps, and charge its run. EXIT_SLOT has it, too. */
  FOUND: 10,
  /** Nothing has changed; S.EA is not in the TLB, where the instruction at this PLACE wants it. */
  MISS: 11,
  /** As LINKED, to S.NEXT_LINEAR in another page. */
  ACROSS: 12,
  /** Done; go on in the region, at the block, that the entry of RETURNS at EXIT_SLOT says. */
  RETURNED: 13,
  /** Set in whatever a region returns. */
  REGION: 16,
  /** Above these bits a region may say which of its PLACEs it left at, instead of setting S.EXIT_RECORD. */
  PLACE_SHIFT: 8,
} as const;

/**
 * What a region's function does not know of itself, so that the same code serves wherever the guest's code is decoded: the
 * function has the address of its pool, and numbers of places in it. Places are units of 8 bytes, counted from the pool's
 * start; those of the blocks come first.
 */
export const POOL = {
  UNIT_SHIFT: 3,
  /** Its handler number. u16 */
  SLOT: 0,
  /** Not 0 while its code is that of the guest. u8 */
  ALIVE: 2,
  /** The place of the first block. u32 */
  FIRST: 4,
  /** For each page of guest code the address of a table: number + 1 by page offset, of the blocks that can be entered. u32 each */
  MAPS: 8,
} as const;
/** A place of a POOL. */
export const PLACE = {
  /** u32 */
  RECORD: 0,
  /** Instructions that are charged when the region leaves here: its run counts as charged to its end. u16 */
  TAIL: 4,
  /** What STATUS.MISS wants: bytes, and FILL_WRITE. u16 */
  ACCESS: 6,
  /** Where the instruction is called, instead of TAIL: the handler. u16 */
  HANDLER: 4,
} as const;

/** What the instruction run by `step` may do: L0 has decided. */
export const ALLOW = {
  MMIO: 1,
  PORT: 2,
  INTERCEPT: 4,
  /** The guest's paging structures may be where nothing can be stored: accessed and dirty bits stay as they are there. */
  ROM_TABLE: 8,
} as const;
