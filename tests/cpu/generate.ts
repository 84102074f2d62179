/**
 * Cases for instruction forms: random operands weighted towards edges, in every mode, size and way of addressing that
 * the form has.
 *
 * Owns    the choice of encodings, values and memory places. The forms come as rows of the ISA tables.
 * Never   knows what the right outcome is: that is the oracle's.
 */
import { type Choice, encode, type Form, immediateBytes, type Memory, memoryBytes } from './forms.ts';
import { floatingState } from './generate-fp.ts';
import { areaBefore, areaBytes, areaPlace, isStateForm, stateBefore } from './generate-state.ts';
import { type CpuCase, type CpuState, freshState, type MemoryWindow, PAGES, untouchedMemory } from './protocol.ts';
import { FLOAT_32, FLOAT_64, float, integer, type Random } from './random.ts';
import { SHIFTS, STATUS_FLAGS, undefinedAfterShift, undefinedFlags, undefinedStatus } from './undefined.ts';

export interface GeneratedCase {
  readonly form: string;
  readonly undefinedFlags: number;
  readonly undefinedStatus: number;
  readonly case: CpuCase;
  /** Where it saves processor state: not all of that can be compared. */
  readonly savesAt?: number;
}

/** Why no cases are made of a mnemonic: the outcome is not the instruction's alone. */
const LEFT_OUT: readonly [pattern: RegExp, why: string][] = [
  [/^(SYSCALL|SYSENTER|SYSEXIT|SYSRET|IRET[DQ]?|INT1|ICEBP|UIRET)$/, 'it enters or leaves the operating system'],
  [/^(RDTSCP?|CPUID|RDRAND|RDSEED|RDPID|XGETBV|RDPMC|PAUSE_TIME)$/, 'its result differs from run to run or CPU to CPU'],
  [/^(SGDT|SIDT|SLDT|STR|SMSW|LAR|LSL|VERR|VERW|ARPL)$/, 'its result is the operating system’s'],
  [/^(LDS|LES|LFS|LGS|LSS|JMPF|CALLF|RETF)$/, 'it needs descriptors of its own'],
  [
    /^(VM(CALL|CLEAR|FUNC|LAUNCH|PTRLD|PTRST|READ|RESUME|WRITE|XOFF|XON|MCALL|RUN|LOAD|SAVE)|INV(EPT|VPID|LPGA)|STGI|CLGI|SKINIT|MONITORX?|MWAITX?|GETSEC|ENCL.*|RSM|XBEGIN|XABORT|XTEST)$/,
    'the CPU decides whether it exists',
  ],
  [/^(FN?SAVE|FN?STENV)$/, 'it stores FIP and FDP, which vendors keep differently'],
  [/^(V?RCP[PS]S|V?RSQRT[PS]S)$/, 'it is an approximation that each CPU makes differently'],
  [/^(FSIN|FCOS|FSINCOS|FPTAN|FPATAN|F2XM1|FYL2X|FYL2XP1)$/, 'its last bit is the CPU’s own'],
];

/** Why `form` gets no cases, or undefined. */
export function leftOut(form: Form): string | undefined {
  if (/(^|\s)far\b/.test(form.row.opcode + form.row.instruction)) return 'it concerns far pointers';
  if (/\b([CD]Rn?\d*|Sreg|ptr16.*|m16:.*)\b/.test(form.operands.join(' '))) {
    return 'it concerns system registers, segments or far pointers';
  }
  if (form.operands.some((operand) => /^[CDEFGS]S$/.test(operand))) {
    return 'a 32-bit push of a segment register writes 2 or 4 bytes: SDM 2B "PUSH" allows both';
  }
  if (form.row.opcode.startsWith('0F 0D')) return 'its register form is #UD on AMD and does nothing on Intel';
  return LEFT_OUT.find(([pattern]) => pattern.test(form.mnemonic))?.[1];
}

const STRINGS = /^(MOVS|STOS|LODS|SCAS|CMPS)[BWDQ]?$/;
const STACK = /^(PUSH|POP|CALL|RET|ENTER|LEAVE|PUSHA|POPA|PUSHF|POPF)[ADQ]*$/;
const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;
const DATA_END = PAGES.DATA + 0x2000;
const STACK_END = PAGES.STACK + 0x1000;
const AC = 1 << 18;
const MASK_32 = 0xffff_ffffn;
const MASK_64 = (1n << 64n) - 1n;

const isFp = (form: Form) =>
  isStateForm(form) ||
  /\b(xmm|mm|ST[0i(]|ymm)/.test(form.operands.join(' ')) ||
  /^(F|EMMS|V?LDMXCSR|V?STMXCSR|V[A-Z])/.test(form.mnemonic);

/** `count` cases of `form`. */
export function generateCases(form: Form, count: number, random: Random): GeneratedCase[] {
  const cases: GeneratedCase[] = [];
  while (cases.length < count) {
    const made = new Builder(form, random).build();
    if (made) cases.push(made);
  }
  return cases;
}

/** An instruction for the middle of a sequence: it asks nothing of the state before it. */
export interface FreeInstruction {
  readonly code: Uint8Array;
  readonly undefinedFlags: number;
  readonly undefinedStatus: number;
}

/**
 * `form` at `rip`, between registers or with memory at an absolute address; undefined if the manual leaves its result
 * undefined, or if its operands need more.
 */
export function freeInstruction(form: Form, mode: 32 | 64, rip: bigint, random: Random): FreeInstruction | undefined {
  return form.modes.includes(mode) ? new Builder(form, random, mode).free(rip) : undefined;
}

export const usesFp = (form: Form): boolean => isFp(form);
export const usesYmm = (form: Form): boolean =>
  isStateForm(form) || form.vex !== undefined || form.operands.some((operand) => operand.includes('ymm'));

/** Memory operands of sequences lie here. */
export const SEQUENCE_WINDOW = { address: PAGES.DATA + 0x800, bytes: 0x100 } as const;

/** One case in the making. */
class Builder {
  readonly #form: Form;
  readonly #random: Random;
  readonly #mode: 32 | 64;
  readonly #size: number;
  readonly #state: CpuState = freshState();
  readonly #windows: MemoryWindow[] = [];
  /** Registers whose value is settled: no memory operand may use them as base or index. */
  readonly #taken = new Set<number>();
  readonly #prefixes: number[] = [];
  #override67 = false;

  constructor(form: Form, random: Random, mode?: 32 | 64) {
    this.#form = form;
    this.#random = random;
    this.#mode = mode ? mode : form.modes.length === 2 ? (random.chance(70) ? 64 : 32) : form.modes[0]!;
    const sizes = form.sizes(this.#mode);
    this.#size = sizes.length === 0 ? 0 : random.pick(sizes);
    // REX.W: the width of FIP and FDP
    if (isStateForm(form) && this.#mode === 64) this.#size = random.pick([32, 64]);
  }

  /** Undefined if the manual leaves the result itself undefined. */
  build(): GeneratedCase | undefined {
    const form = this.#form;
    const random = this.#random;
    const state = this.#state;
    const high = this.#mode === 64 && random.chance(30);
    const place = random.chance(5) ? 0x1000 - random.below(8) : 0x800;
    state.rip = BigInt(PAGES.CODE + place) + (high ? PAGES.HIGH : 0n);
    for (let i = 0; i < 16; i++) {
      if (this.#mode === 64) state.gpr[i] = integer(random);
      else state.gpr[i] = i < 8 ? integer(random) & MASK_32 : 0n;
    }
    // CF PF AF ZF SF OF, and DF now and then; AC would make unaligned accesses fault.
    state.rflags =
      0x202 |
      (random.u32() & 0x8d5) |
      (random.chance(15) ? 0x400 : 0) |
      (random.chance(3) && !this.#isMaskedStore && !isStateForm(form) ? AC : 0);
    this.#implicitOperands();
    const fp = isFp(form);
    const ymm = usesYmm(form);
    if (fp || ymm) floatingState(form, state, random);
    if (isStateForm(form)) {
      stateBefore(state, random);
      this.#taken.add(RAX).add(RDX);
    }

    const bytes = isStateForm(form) ? areaBytes(form) : memoryBytes(form, this.#size || (this.#mode === 64 ? 64 : 32));
    const wantsMemory =
      bytes !== undefined &&
      form.modrm !== undefined &&
      form.modrm.only !== 'r' &&
      (form.modrm.only === 'm' || random.chance(50));
    const register = () => random.below(this.#mode === 64 ? 16 : 8);
    const regNames = form.operands.join(' ');
    // Ahead of the memory operand: its offset is the bit number's.
    const reg = this.#pickReg(register(), regNames);
    const operandBytes = bytes === 0 ? 64 : (bytes ?? 0);
    const lock = form.row.lockable === true && wantsMemory && random.chance(15);
    if (lock) this.#prefixes.push(0xf0);
    const vsib = form.operands.find((operand) => operand.startsWith('vm'));
    const memory = vsib
      ? this.#vectorOperand(Number(vsib.slice(2, 4)) / 8, operandBytes)
      : wantsMemory
        ? this.#memoryOperand(operandBytes, reg)
        : undefined;
    const moffs = form.operands.some((operand) => operand.startsWith('moffs')) ? this.#moffs(operandBytes) : undefined;
    const plain = /\bmm\b|mm\/|STi|Sreg/.test(regNames) ? random.below(8) : register();
    const immediates = form.immediates.map((kind) => this.#immediate(kind));
    this.#target(memory, plain);
    const shiftCount = this.#shiftCount(immediates);
    // SDM 2B "SHLD": "If a count is greater than the operand size, the result is undefined."
    if (/^SH[LR]D$/.test(form.mnemonic) && (shiftCount & 31) > this.#size && this.#size === 16) return undefined;

    const choice: Choice = {
      mode: this.#mode,
      size: this.#size,
      reg,
      rm: memory ?? plain,
      ...this.#vexFields(),
      prefixes: this.#prefixes,
      redundantRex: random.chance(25),
      addressSizeOverride: this.#override67,
      immediates,
      moffs,
    };
    let code = encode(form, choice);
    if (memory?.ripRelative) code = this.#fixRipRelative(code);
    const made: CpuCase = { mode: this.#mode, code, before: state, memory: this.#windows, fp: fp || ymm, ymm };
    return {
      form: `${form.row.opcode}  ${form.row.instruction}`,
      undefinedFlags: this.#undefinedFlags(shiftCount),
      undefinedStatus: undefinedStatus(form.mnemonic),
      case: made,
      ...this.#saves(),
    };
  }

  #saves(): Pick<GeneratedCase, 'savesAt'> {
    const area = this.#operand?.low;
    return area !== undefined && /^F?XSAVE/.test(this.#form.mnemonic) ? { savesAt: area } : {};
  }

  /** MASKMOVQ, MASKMOVDQU, VMASKMOVDQU: through RDI. */
  get #isMaskedStore(): boolean {
    return /MASKMOV(Q|DQU)$/.test(this.#form.mnemonic) && this.#form.operands.length === 2;
  }

  free(rip: bigint): FreeInstruction | undefined {
    const form = this.#form;
    const random = this.#random;
    const bytes = memoryBytes(form, this.#size || (this.#mode === 64 ? 64 : 32));
    if (isStateForm(form) || form.operands.some((operand) => /^(moffs|vm)/.test(operand))) return undefined;
    const bitString = /^BT[SRC]?$/.test(form.mnemonic) && form.operands[1] === 'rv';
    const only = form.modrm?.only;
    const wantsMemory =
      bytes !== undefined &&
      form.modrm !== undefined &&
      only !== 'r' &&
      (only === 'm' || (!bitString && random.chance(35)));
    const names = form.operands.join(' ');
    const register = () => random.below(this.#mode === 64 ? 16 : 8);
    const reg = register();
    const target = random.chance(97)
      ? SEQUENCE_WINDOW.address + 64 + (random.below(64) & (random.chance(70) ? ~31 : ~0))
      : random.pick([DATA_END - 4, PAGES.RODATA + 16, PAGES.RODATA - 8]);
    const absolute: Memory = {
      base: undefined,
      index: undefined,
      scale: 0,
      displacement: target,
      displacementBytes: 4,
      ripRelative: this.#mode === 64,
    };
    const immediates = form.immediates.map((kind) => this.#immediate(kind));
    const shiftCount = this.#shiftCount(immediates);
    // By CL nobody knows how far: whatever is undefined at some count
    const byCl = SHIFTS.has(form.mnemonic) && form.operands.at(-1) === 'CL';
    if (/^SH[LR]D$/.test(form.mnemonic) && (byCl || ((shiftCount & 31) > this.#size && this.#size === 16)))
      return undefined;
    const choice: Choice = {
      mode: this.#mode,
      size: this.#size,
      reg,
      rm: wantsMemory ? absolute : /\bmm\b|mm\/|STi/.test(names) ? random.below(8) : register(),
      ...this.#vexFields(),
      prefixes: [],
      redundantRex: random.chance(25),
      addressSizeOverride: false,
      immediates,
      moffs: undefined,
    };
    const length = encode(form, choice).length;
    const relative = Number(BigInt.asIntN(64, BigInt(target) - (rip & MASK_32)));
    const memory = { ...absolute, displacement: relative };
    const code =
      wantsMemory && this.#mode === 64
        ? this.#fixRipRelative(encode(form, { ...choice, rm: memory }))
        : encode(form, choice);
    if (code.length !== length) return undefined;
    return {
      code,
      undefinedFlags: byCl ? STATUS_FLAGS : this.#undefinedFlags(shiftCount),
      undefinedStatus: undefinedStatus(form.mnemonic),
    };
  }

  /** VEX.vvvv, W, L: where a form does not use one, it is ignored or #UD, which is tried. */
  #vexFields(): Pick<Choice, 'vvvv' | 'vex'> {
    const random = this.#random;
    const { operands, vex } = this.#form;
    const long = random.chance(20);
    const used = operands.some((operand) => operand.endsWith('V'));
    let vvvv = used ? random.below(this.#mode === 64 ? 16 : 8) : vex && random.chance(2) ? random.below(16) : 0;
    const widthIsW = this.#size !== 0;
    const w = widthIsW && this.#mode === 64 ? this.#size === 64 : random.chance(30);
    // C5 has no room for W; in 32-bit mode it has none for the top bit of vvvv either
    if (!long && this.#mode === 32) vvvv &= 7;
    return { vvvv, vex: { w: w ? 1 : 0, length: random.chance(50) ? 1 : 0, long } };
  }

  /** The register in ModRM.reg; for a bit test of memory, made a small bit number. */
  #pickReg(register: number, names: string): number {
    if (/\bmm\b|mm\//.test(names)) return this.#random.chance(90) ? register & 7 : register;
    if (/^BT[SRC]?$/.test(this.#form.mnemonic) && this.#form.operands[1] === 'rv') {
      const reg = register === RSP ? RBX : register;
      const small = BigInt(this.#random.below(this.#random.chance(20) ? 2048 : 128) - 64);
      this.#set(reg, small & (this.#mode === 64 ? MASK_64 : MASK_32));
    }
    return register;
  }

  #set(register: number, value: bigint): void {
    this.#state.gpr[register] = value & (this.#mode === 64 ? MASK_64 : MASK_32);
    this.#taken.add(register);
  }

  /** Registers that a mnemonic uses without naming them. */
  #implicitOperands(): void {
    const { mnemonic, operands } = this.#form;
    const random = this.#random;
    const base = this.#mode === 64 && random.chance(30) ? PAGES.HIGH : 0n;
    if (STRINGS.test(mnemonic)) {
      const near = (): bigint => BigInt(this.#place(random.pick([1, 2, 4, 8]))) + base;
      this.#set(RSI, near());
      this.#set(RDI, near());
      if (random.chance(50)) this.#prefixes.push(random.pick([0xf3, 0xf2]));
      this.#set(RCX, BigInt(random.below(random.chance(20) ? 60 : 6)));
      this.#window(Number(this.#state.gpr[RSI]! & MASK_32) - 512, 1024);
      this.#window(Number(this.#state.gpr[RDI]! & MASK_32) - 512, 1024);
      if (random.chance(60)) this.#repeatBytes(); // so that CMPS and SCAS do not stop at once
    }
    if (STACK.test(mnemonic) || operands.includes('rSP')) {
      // A POPA that faults half-way has loaded some registers on one processor and none on another.
      const at = random.chance(mnemonic.startsWith('POPA') ? 100 : 80)
        ? 0x400 + random.below(0x800)
        : random.pick([0, 1, 2, 4, 6, 8, 0xff8, 0xffc, 0xffe, 0x1000]);
      this.#set(RSP, BigInt(PAGES.STACK + (random.chance(80) ? at & ~7 : at)) + base);
      this.#window(PAGES.STACK + at - 256, 512);
      if (/^(LEAVE|ENTER)/.test(mnemonic)) {
        this.#set(RBP, BigInt(PAGES.STACK + 0x200 + random.below(0x800)) + base);
        this.#window(Number(this.#state.gpr[RBP]! & MASK_32) - 256, 512);
      }
      if (/^RET/.test(mnemonic)) this.#putTarget(at);
    }
    if (/^XLAT/.test(mnemonic)) this.#set(RBX, BigInt(this.#place(256)) + base);
    if (/^V?MASKMOV(Q|DQU)$/.test(mnemonic)) {
      this.#set(RDI, BigInt(this.#place(16)) + base);
      this.#window(Number(this.#state.gpr[RDI]! & MASK_32) - 16, 48);
    }
    if (/^(LOOP|J.*CXZ)/.test(mnemonic) && random.chance(60)) this.#set(RCX, BigInt(random.below(3)));
    if (/^I?DIV$/.test(mnemonic) && random.chance(70))
      this.#set(2, random.pick([0n, 0n, 1n, MASK_64, BigInt(random.below(100))]));
    if (operands.includes('CL') && random.chance(70))
      this.#state.gpr[RCX] = BigInt(random.below(70)) | (this.#state.gpr[RCX]! & MASK_32 & ~255n);
    // Half of the comparisons succeed.
    if (mnemonic.startsWith('CMPXCHG') && random.chance(50)) this.#matchAccumulator = true;
  }
  #matchAccumulator = false;

  #repeatBytes(): void {
    const fill = this.#random.below(256);
    this.#state.gpr[RAX] = BigInt(fill) * 0x0101_0101n;
    for (const { bytes } of this.#windows)
      if (this.#random.chance(80)) bytes.fill(fill, 0, bytes.length - this.#random.below(40));
  }

  /** Address below 4 GiB for an operand of `bytes`: usually inside, sometimes at or over an edge. */
  #place(bytes: number): number {
    const random = this.#random;
    if (isStateForm(this.#form)) return areaPlace(this.#form, random);
    const aligned = (address: number) =>
      random.chance(75) && bytes > 0 ? address - (address % Math.min(bytes, 64)) : address;
    // Whether bytes that the mask leaves out can fault is the processor's choice: SDM 2B "MASKMOVQ".
    if (/MASKMOV(Q|DQU)$/.test(this.#form.mnemonic) && this.#form.operands.length === 2)
      return PAGES.DATA + 64 + random.below(0x1f00);
    // An unaligned access where nothing is mapped: whether #AC or #PF comes first is the vendor's choice.
    const kind = this.#state.rflags & AC ? random.below(72) : random.below(100);
    if (kind < 62) return aligned(PAGES.DATA + 64 + random.below(0x2000 - 128 - bytes));
    if (kind < 72) return PAGES.DATA + 0x1000 - random.below(bytes + 1); // over the border of two mapped pages
    if (kind < 80) return DATA_END - bytes; // ends with the last mapped byte
    if (kind < 87) return DATA_END - random.below(bytes + 1); // goes on where nothing is mapped
    if (kind < 91) return PAGES.DATA - random.below(bytes + 1); // starts there
    if (kind < 97) return aligned(PAGES.RODATA + random.below(0x1000 - bytes));
    return random.pick([PAGES.RODATA - 1, DATA_END + 0x10, 0, 0x5000, 0xffff_f000]);
  }

  #window(from: number, length: number): void {
    for (const [start, end] of [
      [PAGES.DATA, DATA_END],
      [PAGES.STACK, STACK_END],
    ] as const) {
      const first = Math.max(from, start);
      const last = Math.min(from + length, end);
      if (first >= last) continue;
      // One window for each byte: a second one would write its own bytes over the first's.
      const other = this.#windows.find(({ address, bytes }) => address < last && first < address + bytes.length);
      if (other) {
        const end = other.address + other.bytes.length;
        if (first < other.address) this.#window(first, other.address - first);
        if (last > end) this.#window(end, last - end);
        continue;
      }
      const untouched = untouched_(first, last - first);
      this.#windows.push({ address: first, bytes: untouched });
    }
  }

  #memoryOperand(bytes: number, reg: number): Memory {
    const random = this.#random;
    const long = this.#mode === 64;
    const low = this.#place(bytes);
    this.#override67 = random.chance(long ? 6 : 3);
    const wide = long && !this.#override67;
    let target = BigInt(low) + (wide && random.chance(35) ? PAGES.HIGH : 0n);
    if (wide && random.chance(2) && !(this.#state.rflags & AC))
      target = random.pick([1n << 47n, 0x8000_0000_0000_0000n, MASK_64 - 3n, random.u64()]);
    // Not canonical in SS and not aligned either: which one is told is the vendor's choice
    if (isStateForm(this.#form) && target >= 1n << 47n) target &= ~63n;
    this.#fillOperand(low, bytes);

    if (random.chance(10)) this.#segment(random.pick(long ? [0x64, 0x65, 0x2e, 0x36] : [0x2e, 0x36, 0x3e, 0x26]));
    if (this.#form.mnemonic.startsWith('BT') && this.#form.operands[1] === 'rv') {
      // The bit number moves the access: SDM 2A "BT": the offset is a signed number of operands.
      this.#window(low - 16, 48);
    }
    const segmentBase = this.#prefixes.includes(0x64)
      ? this.#state.fsBase
      : this.#prefixes.includes(0x65)
        ? this.#state.gsBase
        : 0n;
    const mask = wide ? MASK_64 : this.#override67 && !long ? 0xffffn : MASK_32;
    const offset = (target - segmentBase) & mask;
    if (!long && this.#override67)
      return { base: RBX, index: undefined, scale: 0, displacement: 0, ripRelative: false, displacementBytes: 0 };

    const none = { base: undefined, index: undefined, scale: 0, displacementBytes: 4, ripRelative: false } as const;
    const signed = BigInt.asIntN(32, offset);
    if (random.chance(6) && (signed & mask) === offset) return { ...none, displacement: Number(signed) };
    const distance = BigInt.asIntN(64, offset - (this.#state.rip & mask));
    if (wide && random.chance(12) && distance > -0x7000_0000n && distance < 0x7000_0000n) {
      return { ...none, displacement: Number(distance), ripRelative: true };
    }
    const free = Array.from({ length: long ? 16 : 8 }, (_, i) => i).filter(
      (i) => !this.#taken.has(i) && !(i === RSP && this.#taken.size > 0),
    );
    if (this.#matchAccumulator) this.#matchComparand(bytes);
    const usable = free.filter((i) => !(this.#matchAccumulator && (i === RAX || i === 2)));
    const base = random.chance(92) ? random.pick(usable) : undefined;
    const indexable = usable.filter((i) => i !== RSP && i !== base);
    const index = base === undefined || random.chance(45) ? random.pick(indexable) : undefined;
    const scale = index === undefined ? 0 : random.below(4);
    const needsDisplacement = base === undefined || (base & 7) === 5;
    const displacementBytes: 0 | 1 | 4 =
      base === undefined ? 4 : random.pick<0 | 1 | 4>(needsDisplacement ? [1, 4] : [0, 0, 1, 4]);
    let displacement =
      displacementBytes === 0 ? 0 : displacementBytes === 1 ? random.below(256) - 128 : random.u32() | 0;
    if (index !== undefined && base !== undefined && random.chance(50))
      this.#state.gpr[index] = BigInt(random.below(64)) & mask;
    if (base !== undefined) {
      const scaled = index === undefined ? 0n : this.#state.gpr[index]! << BigInt(scale);
      this.#aim(base, (offset - scaled - BigInt(displacement)) & mask, wide);
    } else {
      // No base: index × scale + disp32 must meet the target, so the displacement takes the remainder.
      displacement = Number(offset & 7n) + 8 * random.below(100);
      this.#aim(index!, ((offset - BigInt(displacement)) & mask) >> BigInt(scale), wide);
      displacement += Number((offset - BigInt(displacement)) & ((1n << BigInt(scale)) - 1n));
    }
    // The destination of a load may be the base itself; a bit number may not.
    if (reg === base && this.#form.mnemonic.startsWith('BT')) this.#state.gpr[reg] = this.#state.gpr[base]!;
    return { base, index, scale, displacement, ripRelative: false, displacementBytes };
  }

  /** With 32-bit addresses in 64-bit mode, what is above bit 31 of a base must not matter. */
  #aim(register: number, value: bigint, wide: boolean): void {
    const upper = this.#mode === 64 && !wide && this.#random.chance(50) ? this.#random.u64() & ~MASK_32 : 0n;
    this.#state.gpr[register] = (value & MASK_64) | upper;
    this.#taken.add(register);
  }

  #segment(prefix: number): void {
    this.#prefixes.push(prefix);
    if (prefix === 0x64) this.#state.fsBase = this.#random.pick([0n, 0x10n, 0x1234_5000n, 0x7000_0000_1238n]);
    if (prefix === 0x65) this.#state.gsBase = this.#random.pick([0n, 0x20n, 0x0fff_f000n, 0x7000_0000_0008n]);
  }

  /** What the operand holds before: like a register of the same use. */
  #fillOperand(low: number, bytes: number): void {
    const random = this.#random;
    this.#window(low - 16, bytes + 32);
    const window = this.#windows.find(({ address, bytes: b }) => low >= address && low < address + b.length);
    if (!window) return;
    if (isStateForm(this.#form)) {
      const area = areaBefore(this.#form, random);
      window.bytes.set(area.subarray(0, window.address + window.bytes.length - low), low - window.address);
      this.#operand = { low, window };
      return;
    }
    const { mnemonic } = this.#form;
    const values: number[] = [];
    const step =
      /S[SD]$|P[SD]$/.test(mnemonic) || isFp(this.#form)
        ? bytes === 4 || /[SP]S$/.test(mnemonic)
          ? 4
          : 8
        : Math.min(bytes, 8);
    for (let at = 0; at < bytes; at += Math.max(step, 1)) {
      const value =
        isFp(this.#form) && random.chance(75)
          ? float(random, step === 4 ? FLOAT_32 : FLOAT_64)
          : integer(random, Math.max(8, step * 8));
      for (let i = 0; i < step; i++) values.push(Number((value >> BigInt(8 * i)) & 255n));
    }
    if (/LDMXCSR/.test(mnemonic)) values.splice(1, 3, random.below(256), random.chance(90) ? 0 : 1, 0);
    const from = low - window.address;
    values.slice(0, Math.min(bytes, window.bytes.length - from)).forEach((value, i) => {
      window.bytes[from + i] = value;
    });
    this.#operand = { low, window };
  }
  #operand: { low: number; window: MemoryWindow } | undefined;

  /** Makes EDX:EAX or the accumulator equal to the operand, so that CMPXCHG succeeds. */
  #matchComparand(bytes: number): void {
    if (!this.#operand) return;
    const { low, window } = this.#operand;
    const at = low - window.address;
    const word = (from: number, count: number) => {
      let value = 0n;
      for (let i = count - 1; i >= 0; i--) value = (value << 8n) | BigInt(window.bytes[at + from + i] ?? 0);
      return value;
    };
    const wide = this.#form.mnemonic !== 'CMPXCHG';
    this.#set(RAX, word(0, wide ? bytes / 2 : bytes));
    if (wide) this.#set(2, word(bytes / 2, bytes / 2));
  }

  /** A base in reach of DATA and a vector of indices, each of which leads to a place of its own. */
  #vectorOperand(indexBytes: number, bytes: number): Memory {
    const random = this.#random;
    const long = this.#mode === 64;
    this.#override67 = random.chance(long ? 6 : 2);
    const wide = long && !this.#override67;
    const high = wide && random.chance(35) ? PAGES.HIGH : 0n;
    const mask = wide ? MASK_64 : MASK_32;
    const scale = random.below(4);
    const index = random.below(long ? 16 : 8);
    if (random.chance(10)) this.#segment(random.pick(long ? [0x64, 0x65] : [0x2e, 0x36, 0x3e, 0x26]));
    const segmentBase = this.#prefixes.includes(0x64)
      ? this.#state.fsBase
      : this.#prefixes.includes(0x65)
        ? this.#state.gsBase
        : 0n;
    const displacementBytes = random.pick<0 | 1 | 4>([1, 4]);
    const displacement = displacementBytes === 1 ? random.below(256) - 128 : (random.u32() | 0) >> random.below(24);
    const origin = BigInt(PAGES.DATA + 8 * random.below(1024));
    const base = random.below(long ? 16 : 8);
    this.#aim(base, (origin + high - segmentBase - BigInt(displacement)) & mask, wide);
    const vector = { low: new DataView(this.#state.fxsave.buffer), high: new DataView(this.#state.ymmHigh.buffer) };
    const faulty = random.chance(50);
    for (let at = 0; at < 32; at += indexBytes) {
      const target = BigInt(
        faulty && random.chance(25) ? this.#place(bytes) : PAGES.DATA + random.below(0x2000 - bytes),
      );
      let value = (target - origin) >> BigInt(scale);
      // What is shifted out of the address does not matter, and neither do wild addresses of elements that are left out
      if (indexBytes === 8 && random.chance(10)) value ^= random.u64() << BigInt(64 - scale);
      if (random.chance(2)) value = random.u64();
      const view = at < 16 ? vector.low : vector.high;
      const offset = at < 16 ? 160 + 16 * index + at : 16 * index + at - 16;
      if (indexBytes === 8) view.setBigUint64(offset, value & MASK_64, true);
      else view.setUint32(offset, Number(value & MASK_32), true);
    }
    const indexed = random.chance(98);
    return { base, index: indexed ? index : undefined, scale, displacement, ripRelative: false, displacementBytes };
  }

  #moffs(bytes: number): bigint {
    const low = this.#place(bytes);
    this.#fillOperand(low, bytes);
    return BigInt(low >>> 0) + (this.#mode === 64 && this.#random.chance(40) ? PAGES.HIGH : 0n);
  }

  #immediate(kind: string): bigint {
    const random = this.#random;
    const bits = immediateBytes(kind, this.#size) * 8;
    if (kind.startsWith('c')) {
      if (bits === 8) return BigInt(random.pick([random.below(128), 128 + random.below(112)])); // not into the instruction itself
      return BigInt(
        random.pick([random.below(0x380), -16 - random.below(0x380), random.below(0x700), random.u32() | 0]),
      );
    }
    if (this.#form.mnemonic === 'INT') return BigInt(random.pick([0x05, 0x21, 0x33, 0xf0])); // gates that user code may not use
    if (SHIFTS.has(this.#form.mnemonic) && random.chance(80)) return BigInt(random.below(66));
    if (this.#form.mnemonic === 'ENTER')
      return BigInt(kind === 'iw' ? random.below(64) : random.below(random.chance(80) ? 3 : 40));
    if (this.#form.mnemonic === 'AAM' && random.chance(80)) return BigInt(random.below(20));
    return integer(random, bits);
  }

  /** Indirect branches go to INT3s, except sometimes. */
  #target(memory: Memory | undefined, register: number): void {
    if (!/^(JMP|CALL)$/.test(this.#form.mnemonic) || this.#form.immediates.length > 0) return;
    if (memory) {
      if (this.#operand) this.#writeTarget(this.#operand.window, this.#operand.low);
    } else if (this.#random.chance(90) && !this.#taken.has(register)) this.#state.gpr[register] = this.#address();
  }

  #putTarget(at: number): void {
    const low = PAGES.STACK + at;
    const window = this.#windows.find(({ address, bytes }) => low >= address && low < address + bytes.length);
    if (window) this.#writeTarget(window, Number(this.#state.gpr[RSP]! & MASK_32));
  }

  #writeTarget(window: MemoryWindow, low: number): void {
    const value = this.#address();
    for (let i = 0; i < 8; i++) {
      const index = low - window.address + i;
      if (index >= 0 && index < window.bytes.length) window.bytes[index] = Number((value >> BigInt(8 * i)) & 255n);
    }
  }

  /** A place in CODE; otherwise an unmapped one, but canonical, for where that faults is the vendor's choice. */
  #address(): bigint {
    const random = this.#random;
    // Not 800h to FFFh: there the instruction itself may be, and a branch into it would run its bytes.
    const low = BigInt(
      random.chance(90) ? PAGES.CODE + random.pick([random.below(0x800), 0x1010 + random.below(0xff0)]) : random.u32(),
    );
    return this.#mode === 64 && random.chance(40) ? low + PAGES.HIGH : low;
  }

  /** A RIP-relative displacement counts from the next instruction. */
  #fixRipRelative(code: Uint8Array): Uint8Array {
    const tail = this.#form.immediates.reduce((sum, kind) => sum + immediateBytes(kind, this.#size), 0);
    const at = code.length - tail - 4;
    const view = new DataView(code.buffer, code.byteOffset);
    view.setInt32(at, view.getInt32(at, true) - code.length, true);
    return code;
  }

  #shiftCount(immediates: readonly bigint[]): number {
    const last = this.#form.operands.at(-1);
    if (last === 'CL') return Number(this.#state.gpr[RCX]! & 255n);
    return last === '1' ? 1 : Number((immediates[0] ?? 1n) & 255n);
  }

  #undefinedFlags(shiftCount: number): number {
    const { mnemonic, operands } = this.#form;
    if (!SHIFTS.has(mnemonic)) return undefinedFlags(mnemonic);
    return undefinedAfterShift(mnemonic, operands[0]!.endsWith('8') ? 8 : this.#size, shiftCount);
  }
}

const UNTOUCHED = untouchedMemory();
function untouched_(address: number, length: number): Uint8Array {
  const region = UNTOUCHED.find(
    ({ address: start, bytes }) => address >= start && address + length <= start + bytes.length,
  )!;
  return region.bytes.slice(address - region.address, address - region.address + length);
}
