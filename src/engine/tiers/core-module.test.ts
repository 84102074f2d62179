import { describe, expect, test } from 'vitest';
import { TestMachine } from '../core/machine-testbed.ts';
import type { MemoryPlan } from '../core/memory.ts';
import type { Generated, ModuleSource } from '../core/module-source.ts';

/** Has what was generated; nothing of it when `forgets`. */
class Kept implements ModuleSource {
  readonly all = new Map<string, Generated>();
  forgets = false;
  asked = 0;
  recall(name: string): Generated | undefined {
    this.asked += 1;
    return this.forgets ? undefined : this.all.get(name);
  }
  keep(name: string, generated: Generated): void {
    const before = this.all.get(name);
    if (before) expect(Buffer.from(generated.bytes).equals(before.bytes), 'bytes under one name').toBe(true);
    if (before) expect(generated.about).toBe(before.about);
    this.all.set(name, generated);
  }
  find(): undefined {
    return undefined;
  }
  made(): void {}
}

const PLANS: readonly Partial<MemoryPlan>[] = [
  {},
  { accel: 'compiler' },
  { accel: 'compiler', jitThreshold: 77 },
  { accel: 'compiler', vcpus: 5 },
  { profile: true },
  { ramBytes: 0x1000_0000 },
  { codeBytes: 1 << 21 },
];

describe('the core module under its name', () => {
  const kept = new Kept();
  const make = (plan: Partial<MemoryPlan>): TestMachine => new TestMachine({ plan: { ...plan, jitModules: kept } });

  test('has the same bytes whenever it is generated, and another name where it has others', () => {
    const byName = new Map<string, string>();
    kept.forgets = true;
    for (const plan of [...PLANS, ...PLANS]) make(plan);
    for (const [name, { bytes }] of kept.all) byName.set(name, Buffer.from(bytes).toString('base64'));
    expect(byName.size).toBe(PLANS.length);
    expect(new Set(byName.values()).size).toBeGreaterThan(4);
  });

  test.each(PLANS)('serves a machine as one that was generated: %j', (plan) => {
    kept.forgets = true;
    const generated = make(plan);
    kept.forgets = false;
    const { size } = kept.all;
    const recalled = make(plan);
    expect(kept.all.size).toBe(size);
    const told = ({ engine: { interpreter } }: TestMachine) => ({
      exports: Object.keys(interpreter.exports),
      mainBytes: interpreter.mainBytes,
      names: interpreter.names,
      // A module of its own that imports from the library
      outOfLine: interpreter.variant(interpreter.outOfLine(interpreter.hotCount - 1))?.form.text,
    });
    expect(told(recalled)).toEqual(told(generated));
  });

  test('is not asked for in lockstep', () => {
    const { asked } = kept;
    new TestMachine({ plan: { accel: 'lockstep', jitModules: kept } });
    expect(kept.asked).toBe(asked);
  });
});
