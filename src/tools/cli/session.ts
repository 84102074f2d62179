/**
 * A machine under a user's hands: runs it in slices, hands over what is typed, waits while it is idle.
 *
 * Owns    who has the terminal (the guest or the monitor), and how virtual time follows the host's.
 *
 * A slice is short enough for keys to be answered at once. While somebody may still type, an idle guest waits on the
 * host's clock, so that `sleep 1` takes a second; once stdin has ended, time jumps to the next timer (DESIGN.md 3.2).
 */
import { RFLAGS } from '../../arch/registers.ts';
import { UserError } from '../../base/assert.ts';
import { S } from '../../engine/core/layout.ts';
import type { Vcpu } from '../../hypervisor/vcpu/vcpu.ts';
import type { Machine } from '../../machine/machine.ts';
import type { JitCache } from '../jit-cache/jit-cache.ts';
import { ESCAPE_HELP, EscapeKeys } from './escape-keys.ts';
import { LineEditor } from './line-editor.ts';
import { Monitor, type SessionControl } from './monitor/monitor.ts';
import type { Input, Output } from './terminal.ts';

const SLICE_NS = 5_000_000;
const MONITOR_PROMPT = '(terrarium) ';

/** A debugger outside, which may stop the machine and let it go on. */
export interface DebugPort {
  /** It is there, or may still come: the machine waits for it where nobody else is left. */
  readonly isOpen: boolean;
  /** It has the machine in hand. */
  readonly holds: boolean;
  /** The machine has stopped: at one of its stops, or because someone said so. */
  stopped(): void;
}

export interface SessionOptions {
  readonly monitor: 'mux' | 'stdio' | 'none';
  /** COM port that has the terminal, or -1. */
  readonly serialPort: number;
  readonly startStopped: boolean;
  readonly jitCache?: JitCache | undefined;
}

export type SessionEnd = { readonly by: 'machine' | 'halted' } | { readonly by: 'quit'; readonly status: number };

export class Session implements SessionControl {
  readonly #machine: Machine;
  readonly #options: SessionOptions;
  readonly #input: Input;
  readonly #output: Output;
  readonly #monitor: Monitor;
  readonly #editor: LineEditor;
  readonly #keys = new EscapeKeys();
  #inMonitor = false;
  #stopped: boolean;
  #debug: DebugPort | null = null;
  /** End of the slice under way. */
  #sliceEnd = 0;
  /** The machine's debugger has stopped it in the middle of a slice. */
  #isPaused = false;
  #quit: number | null = null;
  /** Ends the wait under way. */
  #wake: () => void = () => {};

  constructor(machine: Machine, options: SessionOptions, input: Input, output: Output) {
    this.#machine = machine;
    this.#options = options;
    this.#input = input;
    this.#output = output;
    this.#monitor = new Monitor(machine, this.#forMonitor());
    this.#editor = new LineEditor(MONITOR_PROMPT, (text) => {
      if (input.isTerminal) output.text(text);
    });
    this.#stopped = options.startStopped;
  }

  get isStopped(): boolean {
    return this.#stopped;
  }

  get jitCache(): JitCache | undefined {
    return this.#options.jitCache;
  }

  /** Someone who debugs the machine from outside; before `run`. */
  attach(debug: DebugPort): void {
    this.#debug = debug;
  }

  stop(): void {
    this.#stopped = true;
    this.#debug?.stopped();
    this.#wake();
  }

  resume(): void {
    this.#stopped = false;
    this.#wake();
  }

  quit(status: number): void {
    this.#quit = status;
    this.#wake();
  }

  /** Until the machine ends, the user quits, or nothing can happen any more. */
  async run(): Promise<SessionEnd> {
    const { monitor, serialPort, startStopped } = this.#options;
    const listens = serialPort >= 0 || monitor !== 'none';
    if (listens)
      this.#input.start(
        (bytes) => this.#typed(bytes),
        () => this.#wake(),
      );
    else this.#input.ended = true;
    const mustSayCont = startStopped && !this.#debug && this.#input.isTerminal;
    if (monitor === 'stdio' || (mustSayCont && monitor === 'mux')) this.#enterMonitor();
    await this.#output.flush();
    for (;;) {
      if (this.#quit !== null) return { by: 'quit', status: this.#quit };
      if (this.#stopped) {
        // Stopped, and nobody is left who could say "cont"
        if (this.#input.ended && !this.#debug?.isOpen) return { by: 'halted' };
        await this.#wait(-1);
        continue;
      }
      const machine = this.#machine;
      if (!this.#isPaused) this.#sliceEnd = machine.nowNs + SLICE_NS;
      const result = machine.run(this.#sliceEnd);
      await this.#output.flush();
      if (result === 'ended') return { by: 'machine' };
      this.#isPaused = result === 'paused';
      if (this.#isPaused) {
        this.stop();
        continue;
      }
      if (result === 'time') await new Promise((resolve) => setImmediate(resolve));
      else if (!(await this.#idle())) return { by: 'halted' };
    }
  }

  /** All CPUs wait and no timer comes soon. False: nothing can ever come. */
  async #idle(): Promise<boolean> {
    const machine = this.#machine;
    const deadline = machine.nextDeadlineNs;
    if (this.#input.ended) {
      if (deadline < 0 || machine.vcpus.every(hearsNothing)) {
        if (this.#debug?.isOpen) await this.#wait(-1);
        return this.#debug?.isOpen ?? false;
      }
      machine.advanceTo(deadline);
      await new Promise((resolve) => setImmediate(resolve));
      return true;
    }
    const before = machine.nowNs;
    const startMs = performance.now();
    await this.#wait(deadline < 0 ? -1 : (deadline - before) / 1e6);
    const passedNs = Math.round((performance.now() - startMs) * 1e6);
    machine.advanceTo(deadline < 0 ? before + passedNs : Math.min(before + passedNs, deadline));
    return true;
  }

  /** Waits for something typed, or for `ms` milliseconds; -1: without end. */
  #wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = ms < 0 ? undefined : setTimeout(() => this.#wake(), Math.min(ms, 1_000));
      // A pending promise does not keep Node alive; what is typed does, and so must this
      const alive = ms < 0 ? setInterval(() => {}, 1_000_000) : undefined;
      this.#wake = () => {
        clearTimeout(timer);
        clearInterval(alive);
        this.#wake = () => {};
        resolve();
      };
    });
  }

  #forMonitor(): SessionControl {
    const session = this;
    return {
      get isStopped() {
        return session.isStopped;
      },
      stop: () => this.stop(),
      resume: () => {
        if (this.#debug?.holds && this.#stopped)
          throw new UserError('gdb has stopped the machine: let gdb continue it.');
        this.resume();
      },
      quit: (status) => this.quit(status),
      jitCache: this.#options.jitCache,
    };
  }

  #typed(bytes: Uint8Array): void {
    const parts = this.#input.isTerminal && this.#options.monitor !== 'stdio' ? this.#keys.feed(bytes) : [bytes];
    for (const part of parts) {
      if (part === 'quit') this.quit(0);
      else if (part === 'help') this.#output.text(ESCAPE_HELP);
      else if (part === 'monitor') this.#toggleMonitor();
      else if (this.#inMonitor) this.#commands(part);
      else if (this.#options.serialPort >= 0) this.#machine.serialInput(this.#options.serialPort, part);
    }
    this.#output.flushNow();
    this.#wake();
  }

  #toggleMonitor(): void {
    if (this.#options.monitor === 'none') return;
    if (!this.#inMonitor) this.#enterMonitor();
    else {
      this.#inMonitor = false;
      this.#output.text('\n');
    }
  }

  #enterMonitor(): void {
    this.#inMonitor = true;
    if (this.#input.isTerminal) this.#output.text('\nTerrarium monitor: "help" lists the commands\n');
    this.#editor.show();
  }

  #commands(bytes: Uint8Array): void {
    this.#editor.feed(bytes, (line) => {
      if (this.#quit !== null) return;
      const answer = this.#monitor.execute(line);
      if (answer !== '') this.#output.text(`${answer}\n`);
      if (this.#quit === null) this.#editor.show();
    });
  }
}

/** No interrupt of a timer or a device can wake it: halted with interrupts off, shut down, or never started. */
function hearsNothing(vcpu: Vcpu): boolean {
  if (vcpu.activity !== 'halted') return vcpu.activity !== 'running';
  return !vcpu.nested?.guestMode && (vcpu.state.u32(S.RFLAGS) & RFLAGS.IF) === 0;
}
