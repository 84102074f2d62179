/**
 * Random bytes as a guest: whatever they do, the machine goes on until its time is over, or says how it ended. A
 * JavaScript exception is a defect of ours.
 *
 * TERRARIUM_IMAGES=N runs N images, TERRARIUM_SEED=N begins elsewhere. Images of one batch share a machine, as it was
 * left by the one before: to repeat a failure, run the batch that is named.
 */
import { expect, test } from 'vitest';
import { RFLAGS } from '../../src/arch/registers.ts';
import { gpr, S, SEG, segment } from '../../src/engine/core/layout.ts';
import { applyBootState, Machine } from '../../src/machine/machine.ts';
import { longModeState, protectedModeState } from '../../src/pc/boot/boot-state.ts';
import { physical } from '../../src/pc/layout.ts';
import { Random } from '../cpu/random.ts';

const IMAGES = Number(process.env['TERRARIUM_IMAGES'] ?? 1000);
const SEED = Number(process.env['TERRARIUM_SEED'] ?? 1);
const PER_MACHINE = 50;
const RAM_BYTES = 2 << 20;
const RUN_NS = 30_000;

const IMAGE = 0x2_0000;
const IMAGE_BYTES = 0x8000;
const IDT = 0x5000;
const SELECTOR_CODE = 0x10;

const MODES = ['real', 'protected32', 'long'] as const;
type Mode = (typeof MODES)[number];
const MODELS = ['intel', 'amd', 'max', 'x86-64-v1'];

/** Openings of instructions that random bytes seldom meet: system, virtualization, far transfers, strings, VEX. */
const OPENINGS = [
  '0f00',
  '0f01',
  '0f01c1',
  '0f01c2',
  '0f01d8',
  '0f01d9',
  '0f01da',
  '0f01db',
  '0f01f8',
  '0f20',
  '0f22',
  '0f21',
  '0f23',
  '0f30',
  '0f32',
  '0f31',
  '0fa2',
  '0f05',
  '0f07',
  '0f34',
  '0f35',
  '0fae',
  '0fc7',
  'f30fc7',
  '660fc7',
  '0f78',
  '0f79',
  '660f3880',
  '660f3881',
  '660f3882',
  'cf',
  '48cf',
  'ea',
  '9a',
  'cb',
  'ca',
  'cd',
  'cc',
  'f1',
  'e4',
  'e6',
  'ec',
  'ee',
  'f36c',
  'f36e',
  'f3a4',
  'f2a6',
  'f3ab',
  '0fb2',
  '0fb4',
  'c4',
  'c5',
  '8e',
  '0fa1',
  '9d',
  '0f09',
  '0f08',
  'f4',
  'fa',
  'fb',
  '0f06',
  '0f0b',
  '0fff',
  'd9',
  'dd',
  'db',
  '0f38',
  '0f3a',
  '660f3a',
  'f0',
  'eb',
  'e8',
  'ff',
  'c8',
  'c9',
  '6690',
].map((hex) => Buffer.from(hex, 'hex'));

/** Numbers that registers hold: addresses of what there is, ports, MSRs, edges. */
const VALUES = [
  0,
  1,
  0x10,
  0x60,
  0x70,
  0xcf8,
  0x3f8,
  0x1000,
  IDT,
  IMAGE,
  IMAGE + 0x1000,
  RAM_BYTES - 2,
  0xa_0000,
  0xfec0_0000,
  0xfee0_0000,
  0xfed0_0000,
  0xffff_fff0,
  0x7fff_ffff,
  0xffff_ffff,
  0x1b,
  0x3a,
  0x480,
  0xc000_0080,
  0xc000_0100,
  0xc001_0117,
  0x174,
];

function image(random: Random): Uint8Array {
  const bytes = new Uint8Array(IMAGE_BYTES);
  const share = random.pick([0, 20, 60]);
  for (let at = 0; at < IMAGE_BYTES; ) {
    if (random.chance(share)) {
      const opening = random.pick(OPENINGS);
      bytes.set(opening.subarray(0, IMAGE_BYTES - at), at);
      at += opening.length;
    }
    if (at < IMAGE_BYTES) bytes[at++] = random.u32();
  }
  return bytes;
}

/** Starts `machine` in the image, with an interrupt table whose every entry leads somewhere into it. */
function start(machine: Machine, mode: Mode, random: Random): void {
  const { ram } = machine.vm;
  const vcpu = machine.vcpus[0]!;
  const entry = () => IMAGE + random.below(IMAGE_BYTES);
  ram.copyIn(physical(IMAGE), image(random));
  if (mode === 'real') {
    for (let vector = 0; vector < 256; vector++)
      ram.write32(physical(4 * vector), (IMAGE << 12) | random.below(IMAGE_BYTES));
    const { state } = vcpu;
    vcpu.engine.activate(vcpu.core);
    state.setU16(segment(SEG.CS) + SEG.SELECTOR, IMAGE >>> 4);
    state.setU64(segment(SEG.CS) + SEG.BASE, IMAGE, 0);
    state.setU64(S.RIP, random.below(IMAGE_BYTES), 0);
    vcpu.engine.processor.contextChanged();
  } else {
    const registers = { rsp: IMAGE - 64 };
    const boot = mode === 'long' ? longModeState(ram, entry(), registers) : protectedModeState(ram, entry(), registers);
    const bytes = mode === 'long' ? 16 : 8;
    for (let vector = 0; vector < 256; vector++) {
      const target = entry();
      const at = IDT + bytes * vector;
      ram.write32(physical(at), (SELECTOR_CODE << 16) | (target & 0xffff));
      ram.write32(physical(at + 4), (target & 0xffff_0000) | random.pick([0x8e00, 0x8f00, 0xee00]));
      if (mode === 'long') for (const more of [8, 12]) ram.write32(physical(at + more), 0);
    }
    applyBootState(vcpu, { ...boot, idt: { base: IDT, limit: 256 * bytes - 1 } });
  }
  for (let i = 0; i < 16; i++) {
    if (i !== 4)
      vcpu.state.setU64(
        gpr(i),
        random.chance(60) ? random.pick(VALUES) : random.u32(),
        random.chance(90) ? 0 : random.u32(),
      );
  }
  if (random.chance(30))
    vcpu.state.setU32(S.RFLAGS, vcpu.state.u32(S.RFLAGS) | random.pick([RFLAGS.IF, RFLAGS.TF, RFLAGS.AC]));
}

test(`${IMAGES} images of random bytes end or run on (seed ${SEED})`, () => {
  const ends = new Map<string, number>();
  const failures: string[] = [];
  for (let first = 0; first < IMAGES; first += PER_MACHINE) {
    const batch = SEED + first / PER_MACHINE;
    const random = new Random(batch);
    const cpu = MODELS[(first / PER_MACHINE) % MODELS.length]!;
    const fresh = () =>
      new Machine({ cpu, ramBytes: RAM_BYTES, cpus: 1, epochMs: 0, testDevice: true, tripleFault: 'end' });
    let machine = fresh();
    for (let i = first; i < Math.min(first + PER_MACHINE, IMAGES); i++) {
      const mode = random.pick(MODES);
      try {
        start(machine, mode, random);
        const how = machine.run(machine.nowNs + RUN_NS);
        const end = machine.ending?.kind ?? how;
        ends.set(end, (ends.get(end) ?? 0) + 1);
        // Power-on state again: a new machine takes a quarter of a second
        machine.ending = null;
        machine.vm.stopped = false;
        machine.reset('for the next image');
        machine.run(machine.nowNs);
      } catch (error) {
        const what = error instanceof Error ? error.stack!.split('\n').slice(0, 12).join('\n') : String(error);
        failures.push(
          `TERRARIUM_SEED=${batch} TERRARIUM_IMAGES=${i - first + 1}: image ${i - first}, ${mode}, ${cpu}: ${what}`,
        );
        machine = fresh();
      }
    }
  }
  console.log([...ends].map(([end, count]) => `${end}: ${count}`).join(', '));
  expect(failures.join('\n\n')).toBe('');
  // Random code that did nothing would prove nothing
  expect(ends.size).toBeGreaterThan(1);
});
