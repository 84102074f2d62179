/**
 * VM entries with random vmcs12: valid ones with a few fields changed.
 *
 *   verdict      equals the check tables, judged afresh without skipping anything
 *   VMfail       7 or 8, and nothing else of L1 has changed
 *   failure      reason 33 with bit 31, the check's qualification, L1 in its host state, vmcs12's guest area untouched
 *   otherwise    L2 runs; whatever it does, L0 does not throw
 *
 * Source  SDM 3C 26.2, 26.3, 26.8; seeds are printed with a failure.
 */
import { expect, test } from 'vitest';
import { GUEST_CHECKS, VMX_CHECKS } from '../../src/arch/vmx/entry-checks.ts';
import {
  FIELD,
  fieldKind,
  fieldWidth,
  VMCS_FIELD_COUNT,
  VMCS_FIELD_NAMES,
  VmcsImage,
} from '../../src/arch/vmx/fields.ts';
import {
  type FieldValues,
  SHADOW_VMCS,
  setFields,
  VALID_VMCS,
  VIRTUAL_APIC_PAGE,
} from '../../src/arch/vmx/valid-vmcs.ts';
import { gpr, S } from '../../src/engine/core/layout.ts';
import { Random } from '../../src/hypervisor/mmu/testing/random.ts';
import { AT, L1Machine, type Outcome, RAM_BYTES } from './l1-machine.ts';
import { VALID } from './valid-vmcs12.ts';

/** More with FUZZ_ENTRIES=1000000, the same again with FUZZ_SEED. */
const ENTRIES = Number(process.env['FUZZ_ENTRIES'] ?? 100_000);
const FIRST_SEED = Number(process.env['FUZZ_SEED'] ?? Date.now() >>> 0);
const VMLAUNCH = [0x0f, 0x01, 0xc2];
const ENTRY_FAILURE = 0x8000_0000;

const INTERESTING = [0, 1, 2, 3, 4, 7, 8, 0x10, 0xff, 0x100, 0xfff, 0x1000, 0x7fff, 0xffff, 0x1_0000, 0x7fff_ffff];
const GUEST_FIELDS = VMCS_FIELD_NAMES.map((_, row) => row).filter((row) => fieldKind(row) === 'guest');
const CONTROL_FIELDS = VMCS_FIELD_NAMES.map((_, row) => row).filter((row) => fieldKind(row) === 'control');
const HOST_FIELDS = VMCS_FIELD_NAMES.map((_, row) => row).filter((row) => fieldKind(row) === 'host');
/** Where random bits are most of the interest. */
const WORDS = [
  FIELD.PIN_CONTROLS,
  FIELD.PRIMARY_CONTROLS,
  FIELD.SECONDARY_CONTROLS,
  FIELD.EXIT_CONTROLS,
  FIELD.ENTRY_CONTROLS,
  FIELD.ENTRY_INTERRUPTION_INFO,
  FIELD.GUEST_CR0,
  FIELD.GUEST_CR4,
  FIELD.GUEST_RFLAGS,
  FIELD.GUEST_ACTIVITY_STATE,
  FIELD.GUEST_INTERRUPTIBILITY_STATE,
  FIELD.GUEST_PENDING_DEBUG_EXCEPTIONS,
  FIELD.GUEST_SS_ACCESS_RIGHTS,
  FIELD.GUEST_CS_ACCESS_RIGHTS,
  FIELD.EPT_POINTER,
];
/** Addresses that structures are read from: somewhere in RAM, so that what is read there is random, too. */
const isAddress = (row: number): boolean => fieldWidth(row) === 'u64' && fieldKind(row) === 'control';

/** Changes a field; returns its row. */
function mutate(m: L1Machine, random: Random): number {
  const { v } = m.nested;
  const list = random.pick([GUEST_FIELDS, GUEST_FIELDS, CONTROL_FIELDS, HOST_FIELDS, WORDS, WORDS, WORDS]);
  const row = random.pick(list);
  let lo = v.lo(row);
  let hi = v.hi(row);
  switch (random.below(5)) {
    case 0:
      lo = random.pick(INTERESTING);
      break;
    case 1:
      lo = random.next();
      break;
    case 2:
      hi = random.pick([0, 1, 0x8000_0000, 0xffff_ffff, random.next()]);
      break;
    default:
      lo ^= 1 << random.below(32);
  }
  if (isAddress(row) && random.below(2) === 0) {
    lo = (random.below(RAM_BYTES / 4096) * 4096) >>> 0;
    hi = 0;
  }
  const width = fieldWidth(row);
  v.set(row, width === 'u16' ? lo & 0xffff : lo, width === 'u16' || width === 'u32' ? 0 : hi);
  return row;
}

/** Two 2 MiB pages, one to one; L2 may write to the second only, so that it cannot change what L1 stands on. */
const EPT = 0xa_0000;
function layOut(m: L1Machine): void {
  m.write64(EPT, (EPT + 0x1000) | 7);
  m.write64(EPT + 0x1000, (EPT + 0x2000) | 7);
  m.write64(EPT + 0x2000, 0xb5);
  m.write64(EPT + 0x2008, 0x20_0000 | 0xb7);
  m.write32(SHADOW_VMCS, m.nested.caps.offer.revision | 0x8000_0000);
  m.write32(VIRTUAL_APIC_PAGE + 0x80, 0x50);
  m.bytes(AT.CODE, [...VMLAUNCH, 0xf4]);
}

const HOST_AREA = Object.fromEntries(Object.entries(VALID).filter(([name]) => name.startsWith('HOST_')));
const VE = 1 << 18;
const onMachine = (fields: FieldValues): FieldValues => ({
  ...fields,
  ...HOST_AREA,
  EXIT_CONTROLS: Number(VALID.EXIT_CONTROLS) | (1 << 15),
  EXCEPTION_BITMAP: 0xffff_ffff,
  ...(fields.EPT_POINTER === undefined ? {} : { EPT_POINTER: EPT | (Number(fields.EPT_POINTER) & 0xfff) }),
  ...(fields.SECONDARY_CONTROLS === undefined ? {} : { SECONDARY_CONTROLS: Number(fields.SECONDARY_CONTROLS) & ~VE }),
  // What lies at these addresses here are no lists
  EXIT_MSR_STORE_COUNT: 0,
  EXIT_MSR_LOAD_COUNT: 0,
  ENTRY_MSR_LOAD_COUNT: 0,
});

/** The valid VMCSs that cases start from, by row: 64-bit, PAE, real mode …; with nearly every control on, and with few. */
const BASES: readonly (readonly [name: string, image: VmcsImage])[] = [
  // An EPT12 that maps nothing, unless a mutation moves the pointer
  ['plain', setFields(new VmcsImage(), { ...VALID, EPT_POINTER: 0x1e + 0x9_0000 })],
  ...Object.entries(VALID_VMCS)
    .filter(([name]) => name !== 'host32')
    .map(([name, fields]) => [name, setFields(new VmcsImage(), onMachine(fields))] as const),
];

/**
 * L1 at its VMLAUNCH, with the valid VMCS current. Every second time the fields go back by themselves, as VMWRITE would
 * write them, so that what L0 has judged and merged for the entries before is not judged and merged again.
 */
function prepare(m: L1Machine, base: VmcsImage, afresh: boolean): void {
  const { nested } = m;
  if (afresh || nested.guestMode || m.vm.stopped || nested.v.address !== AT.VMCS) m.restartInVmx();
  else m.restoreRegisters();
  const { v } = nested;
  for (let row = 0; row < VMCS_FIELD_COUNT; row += 1) v.set(row, base.lo(row), base.hi(row));
  v.launched = false;
}

const CONTROL_REGISTERS = [S.CR0, S.CR3, S.CR4, S.EFER, S.IDTR_BASE, S.GDTR_BASE] as const;
const registers = new Uint32Array(32 + CONTROL_REGISTERS.length);
function readRegisters(m: L1Machine): Uint32Array {
  const { state } = m.vcpu;
  for (let i = 0; i < 16; i += 1) {
    registers[2 * i] = state.gprLow(i);
    registers[2 * i + 1] = state.gprHigh(i);
  }
  CONTROL_REGISTERS.forEach((cell, i) => {
    registers[32 + i] = state.u32(cell);
  });
  return registers;
}
const area = new Uint32Array(2 * GUEST_FIELDS.length);
function readGuestArea(m: L1Machine): Uint32Array {
  const { v } = m.nested;
  for (let i = 0; i < GUEST_FIELDS.length; i += 1) {
    area[2 * i] = v.lo(GUEST_FIELDS[i]!);
    area[2 * i + 1] = v.hi(GUEST_FIELDS[i]!);
  }
  return area;
}
const same = (a: Uint32Array, b: Uint32Array): boolean => a.every((value, at) => value === b[at]);

type Seen = Record<'VMfail 7' | 'VMfail 8' | 'failure 33' | 'failure 34' | 'entered', number>;

/** One random entry. Throws with what it was if anything is not as the tables say. */
function enter(m: L1Machine, seed: number, before: Uint32Array, areaBefore: Uint32Array, seen: Seen): void {
  const random = new Random(Math.imul(seed, 0x9e37_79b9));
  const [base, image] = random.pick(BASES);
  prepare(m, image, random.below(2) === 0);
  const { v, context } = m.nested;
  if (random.below(3) === 0) v.set(FIELD.PRIMARY_CONTROLS, (v.lo(FIELD.PRIMARY_CONTROLS) | 0x8000_0000) >>> 0);
  const changed: number[] = [];
  for (let n = random.below(4); n >= 0; n -= 1) changed.push(mutate(m, random));

  context.lma = true;
  context.currentVmcs = AT.VMCS;
  const control = VMX_CHECKS.firstFailure(v, context);
  const guest = control === undefined ? GUEST_CHECKS.firstFailure(v, context) : undefined;
  areaBefore.set(readGuestArea(m));
  before.set(readRegisters(m));
  const values = changed.map((row) => `${VMCS_FIELD_NAMES[row]}=${v.hi(row).toString(16)}_${v.lo(row).toString(16)}`);
  const must = (holds: boolean, what: string): void => {
    if (holds) return;
    const check = control?.name ?? guest?.name ?? 'no check fails';
    throw new Error(`seed ${seed}: ${what} (${base}; ${check}; ${values.join(', ')})`);
  };
  const hasMsrs = v.lo(FIELD.ENTRY_MSR_LOAD_COUNT) !== 0;

  let outcome: Outcome;
  try {
    outcome = m.go(AT.CODE, 2000);
  } catch (error) {
    throw new Error(`seed ${seed}: L0 throws ${String(error)} (${base}; ${values.join(', ')})`, { cause: error });
  }
  const reason = v.lo(FIELD.EXIT_REASON);
  if (control !== undefined) {
    const number = control.failure.kind === 'VMfail' ? control.failure.error : 0;
    must(outcome.result === 'fail valid' && outcome.vector === -1, 'VMfailValid');
    must(outcome.instructionError === number, `error ${number}, not ${outcome.instructionError}`);
    must(same(readRegisters(m), before), 'VMfail changes no register of L1');
    must(same(readGuestArea(m), areaBefore), 'VMfail changes no guest state');
    must(!m.nested.guestMode, 'L1 runs');
    must(!v.launched, 'not launched');
    seen[number === 8 ? 'VMfail 8' : 'VMfail 7'] += 1;
  } else if (guest !== undefined) {
    const { failure } = guest;
    must(reason === ENTRY_FAILURE + 33, `reason 33 with bit 31, not ${reason.toString(16)}`);
    const wanted = failure.kind === 'entry failure' ? failure.qualification : 0;
    must(v.lo(FIELD.EXIT_QUALIFICATION) === wanted, `qualification ${wanted}`);
    must(same(readGuestArea(m), areaBefore), 'the guest-state area is as it was');
    must(!v.launched, 'not launched');
    // With a host area of its own making L1 may be anywhere, also in shutdown
    if (!changed.some((row) => /^(HOST|EXIT)_/.test(VMCS_FIELD_NAMES[row]!))) {
      must(outcome.exited, 'L1 is where its exits go');
      must(m.vcpu.state.number(gpr(4)) === v.number(FIELD.HOST_RSP), 'on the stack of its exits');
    }
    seen['failure 33'] += 1;
  } else if (hasMsrs && reason === ENTRY_FAILURE + 34) {
    must(!v.launched, 'not launched');
    must(same(readGuestArea(m), areaBefore), 'the guest-state area is as it was');
    seen['failure 34'] += 1;
  } else {
    must(v.launched, 'launched');
    seen.entered += 1;
  }
}

test.each(BASES)('%s, unchanged, enters', (_name, image) => {
  const m = new L1Machine();
  m.restartInVmx();
  layOut(m);
  prepare(m, image, true);
  m.nested.context.lma = true;
  m.nested.context.currentVmcs = AT.VMCS;
  expect(VMX_CHECKS.firstFailure(m.nested.v, m.nested.context)?.name).toBe(undefined);
  expect(GUEST_CHECKS.firstFailure(m.nested.v, m.nested.context)?.name).toBe(undefined);
  m.go(AT.CODE, 2000);
  expect(m.nested.v.launched).toBe(true);
});

const TIMEOUT_MS = 600_000 + 10 * ENTRIES;
test(`${ENTRIES} random entries do what the tables say, from seed ${FIRST_SEED}`, { timeout: TIMEOUT_MS }, () => {
  const m = new L1Machine();
  m.restartInVmx();
  layOut(m);
  const seen: Seen = { 'VMfail 7': 0, 'VMfail 8': 0, 'failure 33': 0, 'failure 34': 0, entered: 0 };
  const before = registers.slice();
  const areaBefore = area.slice();
  for (let n = 0; n < ENTRIES; n += 1) {
    // Half of the cases are the same in every run
    enter(m, n % 2 === 0 ? n + 1 : FIRST_SEED + n, before, areaBefore, seen);
  }
  console.log(`seeds from 1 and from ${FIRST_SEED}:`, seen);
  // The mutations reach every kind of outcome
  for (const [kind, count] of Object.entries(seen)) {
    expect(count, kind).toBeGreaterThan(kind === 'failure 34' ? 0 : ENTRIES / 50);
  }
});

test('every field can be read and written by its number', () => {
  const m = new L1Machine();
  m.restartInVmx();
  for (let row = 0; row < VMCS_FIELD_COUNT; row += 1) {
    m.nested.v.set(row, row + 1, 0);
    expect(m.nested.v.lo(row)).toBe(row + 1);
  }
  m.nested.v.flush();
  m.nested.v.load(AT.VMCS);
  for (let row = 0; row < VMCS_FIELD_COUNT; row += 1) expect(m.nested.v.lo(row)).toBe(row + 1);
});
