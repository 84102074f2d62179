/** `terrarium run`: opens what the options name, builds the machine, runs it, and says how it ended. */

import { closeSync, openSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { UserError } from '../../base/assert.ts';
import { Machine, type MachineOptions } from '../../machine/machine.ts';
import type { BlockStore } from '../../pc/virtio/block.ts';
import { GdbServer } from '../gdb/server.ts';
import { defaultFolder, JitCache } from '../jit-cache/jit-cache.ts';
import { once } from '../v8-flags.ts';
import { BlockFile } from './block-file.ts';
import type { DriveOption } from './device-options.ts';
import { ESCAPE_HELP } from './escape-keys.ts';
import { readWhole, reasonOf } from './files.ts';
import { FOREIGN_OPTIONS } from './foreign-options.ts';
import { GuestProfile } from './guest-profile.ts';
import { MachineLog } from './log-option.ts';
import { MachineBug } from './machine-bug.ts';
import { describeOptions, parseOptions } from './option-table.ts';
import { RUN_OPTIONS, type RunOptions, runDefaults, type SerialTarget } from './run-options.ts';
import { Session, type SessionEnd } from './session.ts';
import { SnapshotStore } from './snapshot-store.ts';
import { dumpState } from './state-dump.ts';
import { STATUS, STATUS_HELP } from './status.ts';
import { Input, Output } from './terminal.ts';

export const runHelp = (): string =>
  `usage: terrarium run -kernel FILE [OPTION…]

Boots a kernel. Options are QEMU's where QEMU has them; one dash or two, "--name VALUE" or "--name=VALUE".

${describeOptions(RUN_OPTIONS)}
Keys:${ESCAPE_HELP}
${STATUS_HELP}`;

export function parseRun(argv: readonly string[]): RunOptions {
  const options = runDefaults();
  const rest = parseOptions(RUN_OPTIONS, argv, options, 'run', FOREIGN_OPTIONS);
  if (options.help || options.show !== '') return options;
  if (rest.length > 0) {
    throw new UserError(
      `"${rest[0]}" is not an option: write -kernel ${rest[0]} if it is the kernel, or -drive file=${rest[0]} if it is a disk.`,
    );
  }
  for (const { plugged, path, id } of options.drives) {
    if (plugged) continue;
    throw new UserError(
      `-drive ${path}: if=none leaves it without a device: add -device virtio-blk-pci,drive=${id || 'ID'}, or write if=virtio.`,
    );
  }
  if (options.kernel === '') throw new UserError('no kernel is given: write -kernel FILE.');
  if (options.symbols.length > 0 && !options.profile) {
    throw new UserError(`-symbols ${options.symbols[0]!.path} names what -profile finds: write -profile FILE, too.`);
  }
  if (options.logFile !== runDefaults().logFile && options.logItems.length === 0) {
    throw new UserError(`-D ${options.logFile} says where the log of -d goes: write -d ITEMS, too.`);
  }
  if (options.gdb?.kind === 'stdio') {
    if (options.monitor === 'stdio' || options.debugConsole?.kind === 'stdio') {
      const other = options.monitor === 'stdio' ? '-monitor' : '-debugcon';
      throw new UserError(`-gdb stdio and ${other} stdio both want stdin and stdout: give one of them something else.`);
    }
    options.monitor = 'none';
    leaveStdio(options, '-gdb');
  }
  if (options.monitor === 'stdio') leaveStdio(options, '-monitor');
  return options;
}

/** COM1 is not on stdio if something else is, unless someone has asked for both. */
function leaveStdio(options: RunOptions, other: string): void {
  if (!serialPorts(options).some(({ kind }) => kind === 'stdio')) return;
  if (options.serials.length > 0) {
    throw new UserError(`${other} stdio and -serial stdio both want the terminal: give one of them something else.`);
  }
  options.serials = [{ kind: 'null' }];
}

/** COM ports in order. By default one, on the terminal. */
function serialPorts({ serials, noDefaults }: RunOptions): readonly SerialTarget[] {
  if (serials.length > 0) return serials;
  return [{ kind: noDefaults ? 'null' : 'stdio' }];
}

/** Where bytes of a serial port or of the debug console go. */
class Sinks {
  readonly #open: { file: number; bytes: number[]; path: string }[] = [];
  readonly #output: Output;

  constructor(output: Output) {
    this.#output = output;
  }

  /** @throws UserError if a file cannot be written. */
  for(option: string, target: SerialTarget): (byte: number) => void {
    if (target.kind === 'null') return () => {};
    if (target.kind === 'stdio') return (byte) => this.#output.byte(byte);
    let file: number;
    try {
      file = openSync(target.path, 'w');
    } catch (error) {
      throw new UserError(`${option} file:${target.path} cannot be written: ${reasonOf(error)}.`);
    }
    const sink = { file, bytes: [] as number[], path: target.path };
    this.#open.push(sink);
    return (byte) => {
      sink.bytes.push(byte);
      if (byte === 0x0a || sink.bytes.length >= 4096) this.#write(sink);
    };
  }

  close(): void {
    for (const sink of this.#open) {
      this.#write(sink);
      closeSync(sink.file);
    }
    this.#open.length = 0;
  }

  #write(sink: { file: number; bytes: number[]; path: string }): void {
    try {
      writeSync(sink.file, Uint8Array.from(sink.bytes));
    } catch (error) {
      process.stderr.write(`terrarium: ${sink.path} cannot be written: ${reasonOf(error)}.\n`);
    }
    sink.bytes.length = 0;
  }
}

const complain = (sentence: string): void => {
  process.stderr.write(`terrarium: ${sentence}\n`);
};

/** @throws UserError for everything that is wrong with the options or the files they name. */
export async function run(argv: readonly string[]): Promise<number> {
  const options = parseRun(argv);
  if (options.help || options.show !== '') {
    process.stdout.write(options.help ? runHelp() : options.show);
    return STATUS.DONE;
  }
  const output = new Output(process.stdout);
  const input = new Input();
  const sinks = new Sinks(output);
  const profile = options.profile && new GuestProfile(options.profile, options.symbols);
  const log = options.logItems.length > 0 ? new MachineLog(options.logItems, options.logFile) : undefined;
  const tellProfile = () => {
    if (profile) process.stderr.write(`${profile.finish()}\n`);
  };
  let machine: Machine | undefined;
  let gdb: GdbServer | undefined;
  const jitCache = openJitCache(options);
  const leaveOn = new Map<NodeJS.Signals, () => void>();
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
    ['SIGHUP', 1],
  ] as const) {
    const leave = () => {
      output.flushNow();
      sinks.close();
      log?.close();
      input.restore();
      tellProfile();
      jitCache?.finish();
      process.exit(128 + number);
    };
    leaveOn.set(signal, leave);
    process.on(signal, leave);
  }
  try {
    const described = machineOptions(options, sinks, jitCache);
    machine = once(() => new Machine(described));
    profile?.attach(machine);
    log?.attach(machine);
    if (machine.engine.compiler) machine.engine.compiler.clock = () => performance.now();
    const serialPort = serialPorts(options).findIndex(({ kind }) => kind === 'stdio');
    const { monitor, startStopped } = options;
    const session = new Session(machine, { monitor, serialPort, startStopped, jitCache }, input, output);
    if (options.gdb) {
      gdb = await GdbServer.open('-gdb', options.gdb, machine, session, (sentence) => complain(`${sentence}.`));
      session.attach(gdb);
    }
    jitCache?.start();
    const end = await session.run();
    output.flushNow();
    input.restore();
    tellProfile();
    const status = tell(machine, end);
    gdb?.ended(status);
    jitCache?.finish();
    return status;
  } catch (error) {
    output.flushNow();
    input.restore();
    if (error instanceof UserError || machine === undefined) throw error;
    throw new MachineBug(error, stateOf(machine));
  } finally {
    gdb?.close();
    sinks.close();
    log?.close();
    for (const [signal, leave] of leaveOn) process.off(signal, leave);
  }
}

function blockStore({ path, readOnly, snapshot }: DriveOption, allSnapshots: boolean): BlockStore {
  if (readOnly || !(snapshot || allSnapshots)) return new BlockFile(path, readOnly, complain);
  return new SnapshotStore(new BlockFile(path, true, complain));
}

function openJitCache({ accel, jitCache }: RunOptions): JitCache | undefined {
  if (accel === 'lockstep') return undefined;
  if (accel !== 'compiler' || jitCache === 'off') return JitCache.open();
  return JitCache.open({ folder: jitCache === 'on' ? defaultFolder() : jitCache });
}

function machineOptions(options: RunOptions, sinks: Sinks, jitModules: JitCache | undefined): MachineOptions {
  const name = basename(options.kernel);
  return {
    cpu: options.cpu,
    ramBytes: options.ramBytes,
    cpus: options.cpus,
    kernel: { name, bytes: readWhole('-kernel', options.kernel) },
    modules: options.modules.map(({ path, commandLine }) => ({ bytes: readWhole('-initrd', path), commandLine })),
    // Multiboot kernels are told their own name first, as QEMU does
    commandLine: options.append,
    serial: serialPorts(options).map((target) => sinks.for('-serial', target)),
    ...(options.debugConsole ? { debugText: sinks.for('-debugcon', options.debugConsole) } : {}),
    ...(options.debugExit ? { debugExit: options.debugExit } : {}),
    testDevice: options.testDevice,
    random: options.random,
    drives: options.drives.map((drive) => ({
      store: blockStore(drive, options.snapshot),
      ...(drive.serial === '' ? {} : { serial: drive.serial }),
    })),
    ...(options.uuid ? { uuid: options.uuid } : {}),
    epochMs: options.epochMs ?? Date.now(),
    nsPerInstruction: options.nsPerInstruction,
    reboot: options.reboot,
    note: (sentence) => complain(`${sentence}.`),
    hpet: options.hpet,
    acpi: options.acpi,
    accel: options.accel,
    jitBytes: options.jitBytes,
    jitThreshold: options.jitThreshold,
    ...(jitModules ? { jitModules } : {}),
    lockstepFrom: options.lockstepFrom,
    nestedMmu: options.nestedMmu,
    tdp: options.tdp,
    force: options.force,
    fwCfgFiles: options.fwCfg.map((file) => ({
      name: file.name,
      bytes: file.path === null ? new TextEncoder().encode(file.text) : readWhole('-fw_cfg', file.path),
    })),
  };
}

/** Says how it ended, unless it ended as the guest wanted. Returns the exit status. */
function tell(machine: Machine, end: SessionEnd): number {
  if (end.by === 'quit') return end.status;
  if (end.by === 'halted') {
    complain('the machine waits for ever: no CPU is running, nothing can wake one, and stdin has ended.');
    return STATUS.HALTED;
  }
  const { kind, status, message } = machine.ending!;
  if (kind === 'power-off' || kind === 'debug-exit') return status;
  process.stderr.write(`terrarium: ${message}.\n${dumpState(machine)}\n`);
  return kind === 'triple-fault' ? STATUS.TRIPLE_FAULT : STATUS.RESET;
}

/** The state of a machine that our own mistake may have left in any shape. */
function stateOf(machine: Machine): string {
  try {
    return dumpState(machine);
  } catch (error) {
    return `(the state cannot be shown: ${String(error)})`;
  }
}
