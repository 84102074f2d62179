import { describe, expect, test } from 'vitest';
import { REGIONS_GENERATION, REGIONS_RETIRED } from '../../core/layout.ts';
import { AT, TestMachine } from '../../core/machine-testbed.ts';
import type { HotPage, ModuleSource, PageNotes } from '../../core/module-source.ts';

const plan = { accel: 'compiler', jitThreshold: 3, jitBatch: 1 } as const;

/** Counts for ever: three instructions a round, the second of which only its handler can run. */
function counting(): TestMachine {
  const m = new TestMachine({ plan });
  m.longMode();
  m.code(`
    ffc0       ; next: inc eax
    9f         ; lahf
    ebfb       ; jmp next
  `);
  m.rip = AT.CODE;
  return m;
}

const retired = (m: TestMachine): number => m.cpu.get(REGIONS_RETIRED);

/** Says of all pages the same. */
function knowing(known: HotPage | undefined): ModuleSource & { readonly noted: [offset: number, changes: number][] } {
  const noted: [number, number][] = [];
  const pages: PageNotes = {
    hot: () => known,
    note: (_name, offsets, changes) => {
      for (const offset of offsets) noted.push([offset, changes]);
    },
    beforeKeeping: () => {},
  };
  return { noted, pages, recall: () => undefined, keep: () => {}, find: () => undefined, made: () => {} };
}

describe('what is known to be hot', () => {
  /** Writes to its page once, and then counts for ever, at offset 7. */
  const runs = (jitModules: ModuleSource, rounds: number): TestMachine => {
    const m = new TestMachine({ plan: { accel: 'compiler', jitThreshold: 1000, jitModules } });
    m.longMode();
    m.code(`
      88042500880000 ; mov [0x8800], al
      ffc0           ; next: inc eax
      ebfc           ; jmp next
    `);
    m.rip = AT.CODE;
    m.engine.run(m.vcpu, 1 + 2 * rounds);
    expect(m.reg(0)).toBe(rounds);
    return m;
  };

  test.each([
    ['nothing is known', undefined, false],
    ['it is known', 0, true],
    ['its page has been written to as often as it was before', 1, true],
    ['its page has been written to less often than it was before', 2, false],
  ] as const)('is compiled early or not where %s', (_what, changes, isEarly) => {
    const offsets = Uint16Array.of(7);
    const { engine } = runs(knowing(changes === undefined ? undefined : { offsets, changes }), 400);
    expect(engine.compiler!.counters.compiled > 0).toBe(isEarly);
  });

  test('is noted with the writes to its page before', () => {
    const source = knowing(undefined);
    const { engine } = runs(source, 10_000);
    engine.run(engine.processor.vcpu, 1);
    for (let n = 0; n < 20; n += 1) engine.run(engine.processor.vcpu, 1);
    expect(source.noted).toContainEqual([7, 1]);
  });
});

describe('regions', () => {
  test('are told how many instructions they have run, called handlers among them', () => {
    const m = counting();
    m.engine.run(m.vcpu, 300);
    expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
    const before = retired(m);
    m.engine.run(m.vcpu, 3000);
    expect(retired(m) - before).toBe(3000);
    expect(m.reg(0) & 0xffff_00ff).toBe((3300 / 3) & 0xff);
  });

  test('in lockstep leave two instructions in a row that they would call to the interpreter', () => {
    const m = new TestMachine({ plan: { ...plan, accel: 'lockstep' } });
    m.longMode();
    m.code(`
      ffc0       ; next: inc eax
      9f9f       ; lahf; lahf: the second is where a block begins
      ebfa       ; jmp next
    `);
    m.rip = AT.CODE;
    for (let i = 0; i < 4; i += 1) m.engine.run(m.vcpu, 100);
    expect(m.vcpu.instructions).toBe(400);
    expect(m.engine.lockstep!.counters.compared).toBeGreaterThan(0);
  });

  test('call the handler of their first instruction, which has not run yet', () => {
    const m = new TestMachine({ plan: { ...plan, jitThreshold: 1 } });
    m.longMode();
    m.code('9f 90 ebfc'); // next: lahf; nop; jmp next
    m.setReg(0, 0xffff);
    m.rip = AT.CODE;
    m.engine.run(m.vcpu, 30);
    expect(m.engine.compiler!.counters.compiled).toBe(1);
    expect(m.reg(0)).toBe(0x02ff);
  });

  /** Stores AL behind RDX, by a handler, and runs an instruction at AT.CODE + 4 whose immediate is at AT.CODE + 7. */
  function storing(accel: 'interpreter' | 'compiler'): TestMachine {
    const m = new TestMachine({ plan: { ...plan, accel } });
    m.longMode();
    m.code(`
      4889d7   ; next: mov rdi, rdx
      aa       ; stosb
      6683c300 ; add bx, 0
      ffc0     ; inc eax
      ffc9     ; dec ecx
      75f2     ; jnz next
      f4       ; hlt
    `);
    m.setReg(1, 10_000);
    m.setReg(2, 0x9000);
    m.rip = AT.CODE;
    return m;
  }

  test('stay behind a call of a handler that changes their own code', () => {
    const machines = [storing('compiler'), storing('interpreter')] as const;
    for (const m of machines) {
      m.engine.run(m.vcpu, 600);
      m.setReg(2, AT.CODE + 7);
      m.engine.run(m.vcpu, 601);
    }
    const [m, interpreter] = machines;
    expect([m.reg(0), m.reg(1), m.reg(3), m.rip]).toEqual(
      [0, 1, 3].map((i) => interpreter.reg(i)).concat(interpreter.rip),
    );
    expect(m.engine.compiler!.counters.lost).toBe(1);
  });

  test('go around an instruction that is changed again and again', () => {
    const machines = [storing('compiler'), storing('interpreter')] as const;
    for (const m of machines) {
      m.engine.run(m.vcpu, 600);
      m.setReg(2, AT.CODE + 7);
      for (let i = 0; i < 40; i += 1) m.engine.run(m.vcpu, 1001);
    }
    const [m, interpreter] = machines;
    expect([m.reg(0), m.reg(1), m.reg(3), m.rip]).toEqual(
      [0, 1, 3].map((i) => interpreter.reg(i)).concat(interpreter.rip),
    );
    expect(m.engine.compiler!.counters.lost).toBe(1);
    // Four of six in each round, for STOSB is called
    const before = retired(m);
    m.engine.run(m.vcpu, 600);
    expect(retired(m) - before).toBeGreaterThan(390);
    expect(m.engine.code.counters.droppedPages).toBe(0);
  });

  test('end an instruction whose two operands drive each other out of the TLB', () => {
    const m = new TestMachine({ plan });
    m.longMode();
    // The first 2 MiB, dirty, and once more 16 MiB on, in the same entries of the TLB
    m.write32(AT.PD, 0xe7, 0);
    m.write32(AT.PD + 8 * 8, 0xe7, 0);
    m.code(`
      8f06       ; next: pop qword [rsi]
      4883ec08   ; sub rsp, 8
      ffc3       ; inc ebx
      ebf6       ; jmp next
    `);
    m.setReg(4, 0x9008);
    m.setReg(6, 0x100_9100);
    m.write32(0x9008, 0x1234_5678, 0);
    m.rip = AT.CODE;
    for (let i = 0; i < 10; i += 1) m.engine.run(m.vcpu, 400);
    expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
    expect([m.read32(0x9100), m.reg(3)]).toEqual([0x1234_5678, 1000]);
  }, 5000);

  test('that have ended are not entered where the jump cache knew them', () => {
    const m = new TestMachine({ plan });
    m.longMode();
    const other = 0x10_0000;
    m.code('ffc3 ffe6', AT.CODE); // inc ebx; jmp rsi
    m.code('ffc1 ffe7', other); // inc ecx; jmp rdi
    m.setReg(6, other);
    m.setReg(7, AT.CODE);
    m.rip = AT.CODE;
    const { compiler, memory } = m.engine;
    for (let i = 0; i < 10; i += 1) m.engine.run(m.vcpu, 400);
    expect([m.reg(3), m.reg(1)]).toEqual([1000, 1000]);
    const generation = memory.u32[REGIONS_GENERATION >>> 2]!;
    expect(compiler!.alive.regions).toBe(2);
    m.code('ffca ffe7', other); // dec edx; jmp rdi
    expect(memory.u32[REGIONS_GENERATION >>> 2]).toBeGreaterThan(generation);
    for (let i = 0; i < 10; i += 1) m.engine.run(m.vcpu, 400);
    expect([m.reg(3), m.reg(1), m.reg(2) | 0]).toEqual([2000, 1000, -1000]);
  });

  test('are not made while the host has as many modules as it can bear', () => {
    const m = counting();
    let modules = 16_000;
    Object.defineProperty(m.engine.interpreter, 'modules', { get: () => modules });
    for (let i = 0; i < 20; i += 1) m.engine.run(m.vcpu, 300);
    expect(m.engine.compiler!.counters.compiled).toBe(0);
    modules = 0;
    for (let i = 0; i < 20; i += 1) m.engine.run(m.vcpu, 300);
    expect(m.engine.compiler!.counters.compiled).toBeGreaterThan(0);
  });
});

describe('the bound of compiled code', () => {
  /** A loop of ten rounds in each of 64 pages, again and again; EBX counts the rounds. */
  function manyPages(jitBytes: number): TestMachine {
    const m = new TestMachine({ plan: { ...plan, jitBytes } });
    m.longMode();
    const pages = 64;
    for (let page = 0; page < pages; page += 1) {
      const next = page === pages - 1 ? -0x1000 * (pages - 1) : 0x1000;
      const relative = (next - 16) >>> 0; // behind the JMP
      const bytes = [0, 8, 16, 24].map((shift) => ((relative >>> shift) & 255).toString(16).padStart(2, '0')).join('');
      m.code(`b90a000000 ffc3 ffc9 75fa e9 ${bytes}`, 0x10_0000 + 0x1000 * page); // mov ecx, 10; inc ebx; dec ecx; jnz; jmp
    }
    m.rip = 0x10_0000;
    for (let i = 0; i < 100; i += 1) m.engine.run(m.vcpu, 1000);
    return m;
  }

  test('is kept, by dropping the oldest regions, and the guest does not notice', () => {
    const whole = manyPages(1 << 20);
    const { bytes, regions } = whole.engine.compiler!.alive;
    expect(whole.engine.compiler!.counters.aged).toBe(0);
    expect(regions).toBeGreaterThan(3);
    const share = Math.ceil(bytes / regions);
    const few = manyPages(share);
    const alive = few.engine.compiler!.alive;
    expect(few.engine.compiler!.counters.aged).toBeGreaterThan(5);
    // The bound is looked at before a region is made
    expect(alive.bytes).toBeLessThan(bytes / 2);
    expect(alive.bytesMax).toBe(share);
    expect([few.reg(3), few.rip, few.vcpu.instructions]).toEqual([whole.reg(3), whole.rip, whole.vcpu.instructions]);
  });
});
