import { highRamBytes, lowRamBytes } from '../layout.ts';
import { createPlatform, type PlatformOptions, type PlatformWires } from '../platform.ts';
import { ManualClock, RecordingLine, SparseMemory, TestBus } from './wires.ts';

/** 2026-11-22T12:34:56.250Z */
export const EPOCH_MS = 1_795_350_896_250;

/** A whole platform on a test bus, with everything it said recorded. */
export function plugged(options: Partial<PlatformOptions> = {}, extra: Partial<PlatformWires> = {}) {
  const full: PlatformOptions = { ramBytes: 256 * 2 ** 20, cpus: 2, ...options };
  const bus = new TestBus();
  const clock = new ManualClock();
  const memory = new SparseMemory(lowRamBytes(full.ramBytes), highRamBytes(full.ramBytes));
  const lines = new Map<number, RecordingLine>();
  const irq = (gsi: number): RecordingLine => {
    let line = lines.get(gsi);
    if (!line) lines.set(gsi, (line = new RecordingLine()));
    return line;
  };
  const said = {
    powerOff: [] as number[],
    resets: [] as string[],
    messages: [] as number[][],
    pitBlocked: [] as boolean[],
  };
  const platform = createPlatform(
    {
      bus,
      irq,
      clock,
      wallTime: { epochMs: EPOCH_MS },
      memory,
      power: {
        powerOff: (status) => said.powerOff.push(status),
        reset: (reason) => said.resets.push(reason),
      },
      deliverMsi: (...message) => said.messages.push(message),
      pitBlocked: (blocked) => said.pitBlocked.push(blocked),
      ...extra,
    },
    full,
  );
  /** A configuration register through mechanism 1. */
  const config = {
    read: (slot: number, fn: number, register: number, size: 1 | 2 | 4 = 4): number => {
      bus.out(0xcf8, (0x8000_0000 | (slot << 11) | (fn << 8) | (register & 0xfc)) >>> 0, 4);
      return bus.in(0xcfc + (register & 3), size);
    },
    write: (slot: number, fn: number, register: number, value: number, size: 1 | 2 | 4 = 4): void => {
      bus.out(0xcf8, (0x8000_0000 | (slot << 11) | (fn << 8) | (register & 0xfc)) >>> 0, 4);
      bus.out(0xcfc + (register & 3), value, size);
    },
  };
  return { platform, bus, clock, memory, irq, said, config };
}
