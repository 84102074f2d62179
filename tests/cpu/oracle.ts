/**
 * The real processor of this machine as an oracle: compiles native/oracle.c and runs cases in it.
 *
 * Where there is no x86-64 Linux or no gcc, `Oracle.missing()` says why, and callers replay recorded vectors.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CpuCase, type CpuOutcome, decodeOutcome, encodeCase, outcomeSize } from './protocol.ts';

const here = dirname(fileURLToPath(import.meta.url));
const SOURCE = join(here, 'native/oracle.c');
const CACHE = join(here, '../../.cache/cpu');
const GCC_FLAGS = [
  '-O2',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-ffreestanding',
  '-fno-stack-protector',
  '-fcf-protection=none',
  '-mno-red-zone',
  '-mgeneral-regs-only', // the handler must not touch what XSAVE holds before it has looked
  '-fPIE',
  '-static-pie',
  '-nostdlib',
];

/** Cases on their way at once: bounds memory, and keeps both ends of the pipe busy. */
const BATCH = 2000;

export class Oracle {
  readonly #process: ChildProcess;
  #failure: Error | undefined;
  #stderr = '';
  #wake: (() => void) | undefined;
  #received: Buffer[] = [];
  #receivedBytes = 0;

  private constructor(binary: string) {
    // A group of its own: Ctrl-C is for who asks it. It ends when its input does
    this.#process = spawn(binary, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    this.#process.stdout!.on('data', (chunk: Buffer) => {
      this.#received.push(chunk);
      this.#receivedBytes += chunk.length;
      this.#wake?.();
    });
    this.#process.stderr!.on('data', (chunk: Buffer) => {
      this.#stderr += chunk.toString();
    });
    this.#process.stdin!.on('error', () => {});
    this.#process.on('exit', (code, signal) => {
      this.#failure = new Error(`the oracle process ended (${signal ?? `status ${code}`}) ${this.#stderr.trim()}`);
      this.#wake?.();
    });
  }

  /** Why there is no oracle here, or undefined. */
  static missing(): string | undefined {
    if (process.platform !== 'linux' || process.arch !== 'x64') return 'this is no x86-64 Linux';
    if (spawnSync('gcc', ['--version']).error) return 'gcc is not installed';
    return undefined;
  }

  static start(): Oracle {
    return new Oracle(compile());
  }

  /** Runs the cases in order. */
  async run(cases: readonly CpuCase[]): Promise<CpuOutcome[]> {
    const outcomes: CpuOutcome[] = [];
    for (let at = 0; at < cases.length; at += BATCH) {
      const batch = cases.slice(at, at + BATCH);
      this.#process.stdin!.write(Buffer.concat(batch.map(encodeCase)));
      let pending = Buffer.alloc(0);
      let used = 0;
      for (const one of batch) {
        while (outcomeSize(pending, used) === 0 || used + outcomeSize(pending, used) > pending.length) {
          if (this.#receivedBytes === 0) {
            if (this.#failure) throw this.#failure;
            await new Promise<void>((resolve) => {
              this.#wake = resolve;
            });
          }
          pending = Buffer.concat([pending.subarray(used), ...this.#received]);
          used = 0;
          this.#received = [];
          this.#receivedBytes = 0;
        }
        outcomes.push(decodeOutcome(one, pending, used));
        used += outcomeSize(pending, used);
      }
    }
    return outcomes;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once('exit', resolve));
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    this.#process.stdin!.end();
    await ended;
  }
}

/** Compiles once for each version of the source. */
function compile(): string {
  const source = readFileSync(SOURCE);
  const key = createHash('sha256').update(source).update(GCC_FLAGS.join(' ')).digest('hex').slice(0, 16);
  const binary = join(CACHE, `oracle-${key}`);
  if (existsSync(binary)) return binary;
  mkdirSync(CACHE, { recursive: true });
  const part = `${binary}.${process.pid}`;
  const result = spawnSync('gcc', [...GCC_FLAGS, '-o', part, SOURCE], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`gcc cannot compile ${SOURCE}:\n${result.stderr}`);
  renameSync(part, binary);
  return binary;
}

/** CPUID features of this machine, by Linux' name. */
export const processorFlags = (): ReadonlySet<string> =>
  new Set(/^flags\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' '));

/** `AMD EPYC (family 25 model 17 stepping 1, microcode 0x…)`: what recorded vectors say of their origin. */
export function processorName(): string {
  const info = readFileSync('/proc/cpuinfo', 'utf8');
  const field = (name: string) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(info)?.[1]?.trim() ?? '?';
  const model = `family ${field('cpu family')} model ${field('model')} stepping ${field('stepping')}`;
  return `${field('model name')} (${field('vendor_id')}, ${model}, microcode ${field('microcode')})`;
}
