/** `terrarium demo`: boots guests/demo, shows what it prints while it runs, and then what the machine did for it. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UserError } from '../../base/assert.ts';
import { snapshotCounters } from '../../inspect/counters.ts';
import { Machine } from '../../machine/machine.ts';
import { cpu, DEFAULT_CPU, HELP, json } from './common-options.ts';
import { readWhole } from './files.ts';
import { counterTable, exitTable } from './monitor/info-tables.ts';
import { describeOptions, type OptionRow, parseOptions } from './option-table.ts';
import { dumpState } from './state-dump.ts';
import { STATUS } from './status.ts';
import { grouped, toJson } from './tables.ts';
import { packageFolder } from './version.ts';

interface DemoOptions {
  json: boolean;
  help: boolean;
  cpu: string;
}

const OPTIONS: readonly OptionRow<DemoOptions>[] = [
  json('The result'),
  cpu('MODEL', ', as for "terrarium run".'),
  HELP,
];

const RAM_BYTES = 64 * 2 ** 20;
const SLICE_NS = 20_000_000;
/** isa-debug-exit's status for "all results are right": see guests/demo. */
const ALL_RIGHT = 1;
/** Virtual time by which the demo is done many times over. */
const LIMIT_NS = 60_000_000_000;

export async function demo(argv: readonly string[]): Promise<number> {
  const options: DemoOptions = { json: false, help: false, cpu: DEFAULT_CPU };
  const rest = parseOptions(OPTIONS, argv, options, 'demo');
  if (rest.length > 0) throw new UserError(`terrarium demo takes no "${rest[0]}".`);
  if (options.help) {
    process.stdout.write(`usage: terrarium demo [OPTION…]\n\n${describeOptions(OPTIONS)}`);
    return STATUS.DONE;
  }
  const path = fileURLToPath(new URL('guests/demo/demo.bin', packageFolder));
  if (!existsSync(path))
    throw new UserError(`${path} is missing: reinstall Terrarium, or run node scripts/build-guests.mjs demo.`);
  const printed: number[] = [];
  const machine = new Machine({
    cpu: options.cpu,
    ramBytes: RAM_BYTES,
    cpus: 1,
    kernel: { name: 'demo.bin', bytes: readWhole('demo', path) },
    serial: [
      (byte) => {
        printed.push(byte);
        if (!options.json) progress.print(byte);
      },
    ],
    debugExit: { iobase: 0xf4, iosize: 4 },
    epochMs: Date.UTC(2026, 0, 1), // the same in every run
    reboot: false,
  });
  const progress = new ProgressLine(process.stdout, !options.json && process.stdout.isTTY === true);
  const startMs = performance.now();
  const seconds = () => (performance.now() - startMs) / 1000;
  for (;;) {
    const result = machine.run(Math.max(machine.nowNs, machine.nextDeadlineNs) + SLICE_NS);
    if (result === 'ended') break;
    const { instructions } = snapshotCounters(machine.vm);
    progress.show(`${grouped(instructions / 1e6)} M instructions, ${grouped(instructions / 1e6 / seconds())} MIPS`);
    if ((result === 'idle' && machine.nextDeadlineNs < 0) || machine.nowNs > LIMIT_NS) break;
    await new Promise((resolve) => setImmediate(resolve));
  }
  progress.clear();
  return report(machine, options, seconds(), Buffer.from(printed).toString('latin1'));
}

function report(machine: Machine, options: DemoOptions, seconds: number, output: string): number {
  const counters = snapshotCounters(machine.vm);
  const mips = counters.instructions / 1e6 / seconds;
  const status = machine.ending?.status ?? STATUS.HALTED;
  const passed = machine.ending !== null && status === ALL_RIGHT;
  if (options.json) {
    process.stdout.write(`${toJson({ passed, status, seconds, mips, output, counters })}\n`);
    return passed ? STATUS.DONE : 1;
  }
  process.stdout.write(
    `
${grouped(counters.instructions)} instructions in ${seconds.toFixed(2)} s: ${mips.toFixed(0)} MIPS; ${grouped(counters.nowNs / 1e6)} ms of virtual time

${exitTable(counters)}

MMU
${counterTable(counters.mmu, false)}

TLB
${counterTable(counters.tlb, false)}

Decoded code
${counterTable(counters.code, false)}

${passed ? 'The demo ran, and every result is what a real processor computes.' : `The demo FAILED: ${machine.ending?.message ?? 'it did not end'} (status ${status}).`}
`,
  );
  if (!passed) process.stderr.write(`${dumpState(machine)}\n`);
  return passed ? STATUS.DONE : 1;
}

/** The guest's lines, and under them one of ours that changes while it runs. */
export class ProgressLine {
  readonly #stream: NodeJS.WriteStream;
  readonly #live: boolean;
  #shown = false;
  #column = 0;

  constructor(stream: NodeJS.WriteStream, live: boolean) {
    this.#stream = stream;
    this.#live = live;
  }

  print(byte: number): void {
    this.clear();
    if (byte !== 0x0d) this.#stream.write(Uint8Array.of(byte));
    this.#column = byte === 0x0a ? 0 : this.#column + 1;
  }

  show(text: string): void {
    // In the middle of a line of the guest's there is no place
    if (!this.#live || this.#column > 0) return;
    this.#stream.write(`\r\x1b[K\x1b[2m${text}\x1b[0m`);
    this.#shown = true;
  }

  clear(): void {
    if (this.#shown) this.#stream.write('\r\x1b[K');
    this.#shown = false;
  }
}
