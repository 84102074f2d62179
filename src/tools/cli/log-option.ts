/**
 * `-d ITEMS` and `-D FILE`: what is written, and where it goes.
 *
 * Owns    the items' names, which are QEMU's where QEMU has them. What a line says is inspect/event-log.ts.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { nearIfAny } from '../../arch/cpu-models.ts';
import { UserError } from '../../base/assert.ts';
import { hex } from '../../base/format.ts';
import type { VmLog } from '../../hypervisor/vm/vm-log.ts';
import * as log from '../../inspect/event-log.ts';
import type { Machine } from '../../machine/machine.ts';
import { reasonOf } from './files.ts';

interface LogItem {
  readonly help: string;
  attach(machine: Machine, sink: log.LogSink): VmLog | undefined;
}

export const LOG_ITEMS = {
  int: {
    help: 'interrupts and exceptions that are delivered, with the registers before',
    attach: ({ vm }, sink) => {
      log.logDeliveries(vm, sink);
      return undefined;
    },
  },
  in_asm: {
    help: 'code where it is decoded, which is before it runs for the first time',
    attach: ({ engine }, sink) => {
      log.logDecoded(engine, sink);
      return undefined;
    },
  },
  cpu_reset: { help: 'the registers of a CPU that is reset or gets INIT', attach: (_, sink) => log.logResets(sink) },
  guest_errors: {
    help: 'memory accesses where nothing is, VM entries that are refused, triple faults',
    attach: ({ bus }, sink) => {
      onUnclaimed(bus, 'memory', (at, write) =>
        sink(`Invalid ${write ? 'write' : 'read'} at addr ${hex(at)}: nothing is there\n`),
      );
      return log.logGuestErrors(sink);
    },
  },
  unimp: {
    help: 'ports and MSRs that this machine has not',
    attach: ({ bus }, sink) => {
      onUnclaimed(bus, 'port', (at, write) =>
        sink(`port ${hex(at, 4)}: ${write ? 'write' : 'read'}, but nothing is there\n`),
      );
      return log.logUnimplemented(sink);
    },
  },
  vmexit: { help: 'every exit of a CPU to L0', attach: (_, sink) => log.logExits(sink) },
  mmu: { help: 'page faults that L0 deals with', attach: (_, sink) => log.logPageFaults(sink) },
  nested: {
    help: "L1's VM entries, L2's exits to L1, and which check an entry was refused for",
    attach: (_, sink) => log.logNested(sink),
  },
} as const satisfies Readonly<Record<string, LogItem>>;

export type LogItemName = keyof typeof LOG_ITEMS;
const isItem = (name: string): name is LogItemName => Object.hasOwn(LOG_ITEMS, name);

/** `-d`'s argument. */
export function parseLogItems(text: string): LogItemName[] {
  const items = new Set<LogItemName>();
  for (const name of text.split(',')) {
    if (!isItem(name)) {
      const close = nearIfAny(name, Object.keys(LOG_ITEMS));
      throw new UserError(
        `-d ${name || '(nothing)'}: there is no such log.${close ? ` Did you mean ${close}?` : ''} "-d help" lists them.`,
      );
    }
    items.add(name);
  }
  return [...items];
}

/** What `-d help` shows. */
export const logHelp = (): string =>
  `Log items (comma separated):\n${Object.entries(LOG_ITEMS)
    .map(([name, { help }]) => `${name.padEnd(14)}${help}\n`)
    .join('')}`;

/** A log: of a machine, from `attach` on, until `close`. */
export class MachineLog {
  readonly #items: readonly LogItemName[];
  readonly #path: string;
  readonly #file: number;
  #text = '';
  #failed = false;

  /** @param path  Or `stderr`. @throws UserError if the file cannot be written. */
  constructor(items: readonly LogItemName[], path: string) {
    this.#items = items;
    this.#path = path;
    try {
      this.#file = path === 'stderr' ? 2 : openSync(path, 'w');
    } catch (error) {
      throw new UserError(`-D ${path} cannot be written: ${reasonOf(error)}.`);
    }
  }

  attach(machine: Machine): void {
    const sink = (text: string): void => {
      this.#text += text;
      if (this.#file === 2 || this.#text.length >= BUFFER) this.#write();
    };
    const logs = this.#items.flatMap((name) => (LOG_ITEMS[name] as LogItem).attach(machine, sink) ?? []);
    machine.vm.log = logs.length === 0 ? undefined : together(logs);
  }

  close(): void {
    this.#write();
    if (this.#file !== 2) closeSync(this.#file);
  }

  #write(): void {
    const text = this.#text;
    this.#text = '';
    if (text === '' || this.#failed) return;
    if (this.#file === 2) {
      process.stderr.write(text);
      return;
    }
    try {
      writeSync(this.#file, text);
    } catch (error) {
      this.#failed = true;
      process.stderr.write(`terrarium: ${this.#path} cannot be written: ${reasonOf(error)}.\n`);
    }
  }
}

const BUFFER = 65_536;

/** One that tells all of them. */
function together(logs: readonly VmLog[]): VmLog {
  const all: Partial<Record<keyof VmLog, (...args: never[]) => void>> = {};
  for (const log of logs) {
    for (const [event, tell] of Object.entries(log) as [keyof VmLog, (...args: never[]) => void][]) {
      const before = all[event];
      all[event] = before
        ? (...args) => {
            before(...args);
            tell(...args);
          }
        : tell;
    }
  }
  return all as VmLog;
}

function onUnclaimed(bus: Machine['bus'], space: 'port' | 'memory', tell: (at: number, write: boolean) => void): void {
  const before = bus.onUnclaimed;
  bus.onUnclaimed = (where, at, write) => {
    before?.(where, at, write);
    if (where === space) tell(at, write);
  };
}
