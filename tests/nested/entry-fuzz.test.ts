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
import { FIELD, fieldKind, fieldWidth, VMCS_FIELD_COUNT, VMCS_FIELD_NAMES } from '../../src/arch/vmx/fields.ts';
import { gpr, S } from '../../src/engine/core/layout.ts';
import { AT, L1Machine, RAM_BYTES } from './l1-machine.ts';
import { fillValid } from './valid-vmcs12.ts';

/** More with FUZZ_ENTRIES=1000000. */
const ENTRIES = Number(process.env['FUZZ_ENTRIES'] ?? 20_000);
const VMLAUNCH = [0x0f, 0x01, 0xc2];
const ENTRY_FAILURE = 0x8000_0000;

/** xorshift32 */
class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0 || 1;
  }
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }
  below(count: number): number {
    return this.next() % count;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

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

function mutate(m: L1Machine, random: Random): string {
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
  return `${VMCS_FIELD_NAMES[row]}=${(v.hi(row) >>> 0).toString(16)}_${(v.lo(row) >>> 0).toString(16)}`;
}

const snapshot = (m: L1Machine): string =>
  [...Array(16).keys()].map((i) => `${m.vcpu.state.gprHigh(i)}:${m.vcpu.state.gprLow(i)}`).join() +
  [S.CR0, S.CR3, S.CR4, S.EFER, S.IDTR_BASE, S.GDTR_BASE].map((cell) => m.vcpu.state.u32(cell)).join();

function guestArea(m: L1Machine): string {
  const { v } = m.nested;
  return GUEST_FIELDS.map((row) => `${v.hi(row)}:${v.lo(row)}`).join();
}

test(`${ENTRIES} random entries do what the tables say`, () => {
  const m = new L1Machine();
  const seen = { 7: 0, 8: 0, failure: 0, entered: 0 };
  for (let seed = 1; seed <= ENTRIES; seed += 1) {
    const random = new Random(Math.imul(seed, 0x9e37_79b9));
    m.restartInVmx();
    fillValid(m);
    // An EPT12 that maps nothing, unless a mutation moves the pointer
    m.nested.v.set(FIELD.EPT_POINTER, 0x1e + 0x9_0000);
    if (random.below(3) === 0) {
      m.nested.v.set(FIELD.PRIMARY_CONTROLS, (m.nested.v.lo(FIELD.PRIMARY_CONTROLS) | 0x8000_0000) >>> 0);
    }
    const changes = [];
    for (let n = random.below(4); n >= 0; n -= 1) changes.push(mutate(m, random));
    const { v, context } = m.nested;
    const label = `seed ${seed}: ${changes.join(', ')}`;

    context.lma = true;
    context.currentVmcs = AT.VMCS;
    const control = VMX_CHECKS.firstFailure(v, context);
    const guest = control === undefined ? GUEST_CHECKS.firstFailure(v, context) : undefined;
    const areaBefore = guestArea(m);
    const before = snapshot(m);
    const isMsrFailure = v.lo(FIELD.ENTRY_MSR_LOAD_COUNT) !== 0;

    const outcome = m.run(VMLAUNCH, AT.CODE, 2000);
    if (control !== undefined) {
      const error = control.failure.kind === 'VMfail' ? control.failure.error : 0;
      expect(outcome, `${label}; ${control.name}`).toMatchObject({
        vector: -1,
        result: 'fail valid',
        instructionError: error,
      });
      expect(snapshot(m), label).toBe(before);
      expect(m.nested.guestMode, label).toBe(false);
      expect(v.launched, label).toBe(false);
      seen[error as 7 | 8] += 1;
    } else if (guest !== undefined) {
      const { failure } = guest;
      expect(v.lo(FIELD.EXIT_REASON), `${label}; ${guest.name}`).toBe(ENTRY_FAILURE + 33);
      if (failure.kind === 'entry failure') expect(v.lo(FIELD.EXIT_QUALIFICATION), label).toBe(failure.qualification);
      expect(guestArea(m), label).toBe(areaBefore);
      expect(v.launched, label).toBe(false);
      // With a host area of its own making L1 may be anywhere, also in shutdown
      if (!changes.some((change) => /^(HOST|EXIT)_/.test(change))) {
        expect(outcome.exited, label).toBe(true);
        expect(m.vcpu.state.number(gpr(4)), label).toBe(v.number(FIELD.HOST_RSP));
      }
      seen.failure += 1;
    } else if (isMsrFailure && v.lo(FIELD.EXIT_REASON) === ENTRY_FAILURE + 34) seen.failure += 1;
    else {
      expect(v.launched, label).toBe(true);
      seen.entered += 1;
    }
  }
  console.log(seen);
  // The mutations reach every kind of outcome
  for (const count of Object.values(seen)) expect(count).toBeGreaterThan(ENTRIES / 50);
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
