/**
 * What `terrarium run` takes: one row an option, QEMU's spelling first (DESIGN.md 3.3).
 *
 * Owns    names, defaults, help and the checks that need nothing but the text.
 * Knows   no file and no machine: `run.ts` opens and builds what is described here.
 */

import { nearest } from '../../arch/cpu-models.ts';
import { pageStart } from '../../base/address.ts';
import { UserError } from '../../base/assert.ts';
import { byteSize } from '../../base/format.ts';
import { ACCELERATORS, type Accelerator } from '../../engine/core/memory.ts';
import { COMPILER_DEFAULTS } from '../../engine/tiers/compiler/compiler.ts';
import type { OptionRow } from './option-table.ts';
import { parseInteger, parseProperties, parseSize, parseSwitch } from './sizes.ts';

export type SerialTarget =
  | { readonly kind: 'stdio' }
  | { readonly kind: 'null' }
  | { readonly kind: 'file'; readonly path: string };

export interface DriveOption {
  readonly path: string;
  readonly readOnly: boolean;
  readonly serial: string;
}

/** `terrarium run`, parsed. */
export interface RunOptions {
  kernel: string;
  /** Each: file and what the kernel is told about it. */
  modules: { path: string; commandLine: string }[];
  append: string;
  ramBytes: number;
  cpus: number;
  cpu: string;
  drives: DriveOption[];
  /** COM1 first. Empty: COM1 on stdio. */
  serials: SerialTarget[];
  noDefaults: boolean;
  debugConsole: SerialTarget | null;
  debugExit: { iobase: number; iosize: number } | null;
  testDevice: boolean;
  random: boolean;
  reboot: boolean;
  hpet: boolean;
  acpi: boolean;
  accel: Accelerator;
  /** Most bytes of compiled code alive. */
  jitBytes: number;
  /** Times a run of instructions is entered before it is compiled. */
  jitThreshold: number;
  /** Lockstep: instructions of a CPU before which nothing is compared. */
  lockstepFrom: number;
  nestedMmu: 'split' | 'reinit' | 'shared';
  tdp: boolean;
  force: boolean;
  /** Milliseconds since 1970, or `null`: the host's clock at the start. */
  epochMs: number | null;
  /** Nanoseconds that an instruction takes. */
  nsPerInstruction: number;
  fwCfg: { name: string; path: string | null; text: string }[];
  startStopped: boolean;
  /** `mux`: behind Ctrl-a c. `stdio`: the terminal is the monitor's. */
  monitor: 'mux' | 'stdio' | 'none';
  help: boolean;
}

export const runDefaults = (): RunOptions => ({
  kernel: '',
  modules: [],
  append: '',
  ramBytes: 512 * 2 ** 20,
  cpus: 1,
  cpu: 'intel',
  drives: [],
  serials: [],
  noDefaults: false,
  debugConsole: null,
  debugExit: null,
  testDevice: false,
  random: false,
  reboot: true,
  hpet: true,
  acpi: true,
  accel: 'interpreter',
  jitBytes: COMPILER_DEFAULTS.bytesMax,
  jitThreshold: COMPILER_DEFAULTS.threshold,
  lockstepFrom: 0,
  nestedMmu: 'split',
  tdp: true,
  force: false,
  epochMs: null,
  nsPerInstruction: 1,
  fwCfg: [],
  startStopped: false,
  monitor: 'mux',
  help: false,
});

const standard = runDefaults();

/** Local APIC IDs have eight bits, 255 is everyone; the rest is what a single host thread can serve. */
export const CPUS_MAX = 64;
export const RAM_MIN_BYTES = 2 * 2 ** 20;
const SERIAL_MAX = 4;
const ICOUNT_SHIFT_MAX = 10;
/** Compiled code lies in V8's code space, which has 4 GiB for everything. */
const TB_SIZE_MAX_MIB = 1024;

type Devices = Readonly<
  Record<string, { readonly help: string; take(into: RunOptions, properties: ReadonlyMap<string, string>): void }>
>;

/** `-device NAME`. */
export const DEVICES: Devices = {
  'isa-debug-exit': {
    help: 'iobase= (0x501), iosize= (2): a write of N to the port ends the machine with exit status (N << 1) | 1',
    take: (into, properties) => {
      into.debugExit = {
        iobase: parseInteger('-device isa-debug-exit,iobase', properties.get('iobase') ?? '0x501', 0, 0xffff),
        iosize: parseInteger('-device isa-debug-exit,iosize', properties.get('iosize') ?? '2', 1, 4),
      };
    },
  },
  'pc-testdev': {
    help: 'the ports and the memory of kvm-unit-tests',
    take: (into) => {
      into.testDevice = true;
    },
  },
  'virtio-rng-pci': {
    help: 'random numbers, the same in every run',
    take: (into) => {
      into.random = true;
    },
  },
};

const DEVICE_PROPERTIES: Readonly<Record<string, readonly string[]>> = { 'isa-debug-exit': ['iobase', 'iosize'] };

function takeDevice(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'driver');
  const name = properties.get('driver') ?? '';
  const device = DEVICES[name];
  if (device === undefined) {
    const names = Object.keys(DEVICES);
    throw new UserError(
      `-device ${name || '(nothing)'}: there is no such device. Did you mean ${nearest(name, names)}? ` +
        `Devices are ${names.join(', ')}; disks are given with -drive.`,
    );
  }
  properties.delete('driver');
  requireKnown(`-device ${name}`, properties, [...(DEVICE_PROPERTIES[name] ?? []), 'id']);
  device.take(into, properties);
}

function requireKnown(option: string, properties: ReadonlyMap<string, string>, known: readonly string[]): void {
  for (const name of properties.keys()) {
    if (known.includes(name)) continue;
    throw new UserError(`${option}: there is no "${name}". Did you mean ${nearest(name, known)}?`);
  }
}

/** One of a few words. */
function oneOf<const Words extends readonly string[]>(option: string, text: string, words: Words): Words[number] {
  if (words.includes(text)) return text;
  throw new UserError(`${option} ${text}: expected ${words.join(', ').replace(/, (?=[^,]*$)/, ' or ')}.`);
}

function takeMemory(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'size');
  requireKnown('-m', properties, ['size']);
  const bytes = parseSize('-m', properties.get('size') ?? '', 'm');
  if (bytes < RAM_MIN_BYTES) {
    throw new UserError(`-m ${text}: expected at least ${byteSize(RAM_MIN_BYTES)} of RAM, found ${byteSize(bytes)}.`);
  }
  into.ramBytes = pageStart(bytes);
}

function takeCpus(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'cpus');
  requireKnown('-smp', properties, ['cpus']);
  into.cpus = parseInteger('-smp', properties.get('cpus') ?? '', 1, CPUS_MAX);
}

function takeDrive(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'file');
  requireKnown('-drive', properties, ['file', 'if', 'format', 'readonly', 'serial', 'id', 'media']);
  const path = properties.get('file') ?? '';
  if (path === '') throw new UserError('-drive lacks its file: write -drive file=disk.img.');
  oneOf(`-drive ${path}: if`, properties.get('if') ?? 'virtio', ['virtio']);
  oneOf(`-drive ${path}: format`, properties.get('format') ?? 'raw', ['raw']);
  oneOf(`-drive ${path}: media`, properties.get('media') ?? 'disk', ['disk']);
  into.drives.push({
    path,
    readOnly: parseSwitch('-drive readonly', properties.get('readonly') ?? 'off'),
    serial: properties.get('serial') ?? '',
  });
}

function serialTarget(option: string, text: string): SerialTarget {
  if (text === 'stdio' || text === 'mon:stdio') return { kind: 'stdio' };
  if (text === 'null' || text === 'none') return { kind: 'null' };
  if (text.startsWith('file:') && text.length > 5) return { kind: 'file', path: text.slice(5) };
  throw new UserError(`${option} ${text}: expected stdio, null or file:FILE.`);
}

function takeSerial(into: RunOptions, text: string): void {
  const target = serialTarget('-serial', text);
  if (into.serials.length === SERIAL_MAX) throw new UserError(`-serial ${text}: a machine has at most four COM ports.`);
  if (target.kind === 'stdio' && into.serials.some(({ kind }) => kind === 'stdio')) {
    throw new UserError(
      '-serial stdio is given twice: only one COM port can have the terminal, give the other a file.',
    );
  }
  into.serials.push(target);
}

function takeMachine(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'type');
  requireKnown('-machine', properties, ['type', 'hpet', 'acpi', 'nested-mmu', 'tdp', 'force', 'accel']);
  oneOf('-machine', properties.get('type') ?? 'pc', ['pc', 'terrarium']);
  if (properties.has('accel')) takeAccelerator(into, properties.get('accel')!);
  const flag = (name: string, standard: boolean) =>
    properties.has(name) ? parseSwitch(`-machine ${name}`, properties.get(name)!) : standard;
  into.hpet = flag('hpet', into.hpet);
  into.acpi = flag('acpi', into.acpi);
  into.tdp = flag('tdp', into.tdp);
  into.force = flag('force', into.force);
  into.nestedMmu = oneOf('-machine nested-mmu', properties.get('nested-mmu') ?? into.nestedMmu, [
    'split',
    'reinit',
    'shared',
  ]);
}

/** Everything runs in software; `tcg` is QEMU's word for that, and means the default. */
function takeAccelerator(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'accel');
  requireKnown('-accel', properties, ['accel', 'tb-size', 'threshold', 'from', 'thread']);
  const name = properties.get('accel') ?? '';
  if (name !== 'tcg' && !ACCELERATORS.includes(name as Accelerator)) {
    throw new UserError(
      `-accel ${name || '(nothing)'}: this machine runs in software only, write -accel interpreter, compiler or lockstep.`,
    );
  }
  into.accel = name === 'tcg' ? standard.accel : (name as Accelerator);
  const only = (property: string, accelerators: readonly Accelerator[]): string | undefined => {
    const value = properties.get(property);
    if (value !== undefined && !accelerators.includes(into.accel))
      throw new UserError(`-accel ${name},${property}=${value}: this is for -accel ${accelerators.join(' and ')}.`);
    return value;
  };
  oneOf('-accel thread', properties.get('thread') ?? 'single', ['single']);
  // QEMU's tb-size is in MiB
  const bound = only('tb-size', ['compiler', 'lockstep']);
  if (bound !== undefined) into.jitBytes = parseInteger('-accel tb-size', bound, 1, TB_SIZE_MAX_MIB) * 2 ** 20;
  const threshold = only('threshold', ['compiler', 'lockstep']);
  if (threshold !== undefined) into.jitThreshold = parseInteger('-accel threshold', threshold, 1, 2 ** 30);
  const from = only('from', ['lockstep']);
  if (from !== undefined) into.lockstepFrom = parseInteger('-accel from', from, 0, Number.MAX_SAFE_INTEGER);
}

function takeRtc(into: RunOptions, text: string): void {
  const properties = parseProperties(text);
  requireKnown('-rtc', properties, ['base', 'clock']);
  oneOf('-rtc clock', properties.get('clock') ?? 'vm', ['vm']);
  const base = properties.get('base') ?? 'utc';
  if (base === 'utc') {
    into.epochMs = null;
    return;
  }
  const date = /^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?$/.test(base)
    ? Date.parse(`${base}${base.length === 10 ? 'T00:00:00' : ''}Z`)
    : Number.NaN;
  if (Number.isNaN(date)) {
    throw new UserError(`-rtc base=${base}: expected utc or a date such as 2026-01-31T12:00:00.`);
  }
  into.epochMs = date;
}

function takeIcount(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'shift');
  requireKnown('-icount', properties, ['shift']);
  into.nsPerInstruction = 2 ** parseInteger('-icount shift', properties.get('shift') ?? '', 0, ICOUNT_SHIFT_MAX);
}

function takeFwCfg(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'name');
  requireKnown('-fw_cfg', properties, ['name', 'file', 'string']);
  const name = properties.get('name') ?? '';
  if (name === '' || name.length > 55) {
    throw new UserError(`-fw_cfg name=${name}: expected a name of 1 to 55 characters, such as opt/com.example/data.`);
  }
  const path = properties.get('file') ?? null;
  const string = properties.get('string');
  if ((path === null) === (string === undefined)) {
    throw new UserError(`-fw_cfg name=${name}: expected either file=FILE or string=TEXT.`);
  }
  into.fwCfg.push({ name, path, text: string ?? '' });
}

/** QEMU's `-initrd "a.bin one,b.bin"`: Multiboot modules, separated by commas, with their arguments. */
function takeInitrd(into: RunOptions, text: string): void {
  for (const commandLine of text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','))) {
    if (commandLine.trim() === '') throw new UserError(`-initrd "${text}": expected a file name, found nothing.`);
    into.modules.push({ path: commandLine.trim().split(' ')[0]!, commandLine: commandLine.trim() });
  }
}

export const RUN_OPTIONS: readonly OptionRow<RunOptions>[] = [
  {
    names: ['kernel'],
    argument: 'FILE',
    default: '',
    help: 'The kernel to start: a bzImage, an ELF file (PVH or plain) or a Multiboot 1 kernel. Required.',
    take: (into, text) => {
      into.kernel = text;
    },
  },
  {
    names: ['initrd'],
    argument: 'FILE[,FILE…]',
    default: '',
    help: 'Initial file system of a Linux kernel, or modules of a Multiboot kernel: each a file and, after a space, arguments; the kernel is told the whole text.',
    take: takeInitrd,
  },
  {
    names: ['append'],
    argument: 'TEXT',
    default: '',
    help: "The kernel's command line.",
    take: (into, text) => {
      into.append = text;
    },
  },
  {
    names: ['m', 'memory'],
    argument: 'SIZE',
    default: '512M',
    help: 'RAM: 512M, 2G; a plain number means MiB. See "terrarium info limits".',
    take: takeMemory,
  },
  {
    names: ['smp', 'cpus'],
    argument: 'N',
    default: `${standard.cpus}`,
    help: `Number of CPUs, at most ${CPUS_MAX}.`,
    take: takeCpus,
  },
  {
    names: ['cpu'],
    argument: 'MODEL[,+FEATURE][,-FEATURE][,phys-bits=N]',
    default: standard.cpu,
    help: 'CPU model and what is added to or taken from it; -vmx-mbec and its like leave something out of what a hypervisor in the guest is offered. "terrarium info cpu" and "terrarium info vmx" list them.',
    take: (into, text) => {
      into.cpu = text;
    },
  },
  {
    names: ['machine', 'M'],
    argument: 'PROP=VALUE[,…]',
    default: 'pc,hpet=on,acpi=on,tdp=on,nested-mmu=split,force=off',
    help: 'hpet=, acpi=: the device, the tables. tdp=off: L0 shadows page tables instead of using a second stage of its own. nested-mmu=split|reinit|shared: how much a switch between levels keeps. force=on: every skipped re-initialisation is done all the same and compared.',
    take: takeMachine,
  },
  {
    names: ['drive'],
    argument: 'file=FILE[,readonly=on][,serial=TEXT]',
    default: '',
    help: 'A disk: virtio-blk over a raw image. if=virtio and format=raw may be said. May be repeated.',
    take: takeDrive,
  },
  {
    names: ['device'],
    argument: 'NAME[,PROP=VALUE…]',
    default: '',
    help: `Adds a device. ${Object.entries(DEVICES)
      .map(([name, { help }]) => `${name}: ${help}.`)
      .join(' ')}`,
    take: takeDevice,
  },
  {
    names: ['serial'],
    argument: 'stdio|null|file:FILE',
    default: 'stdio',
    help: "Where a COM port's output goes; the first is COM1, at most four.",
    take: takeSerial,
  },
  {
    names: ['debugcon'],
    argument: 'stdio|null|file:FILE',
    default: 'null',
    help: 'Where bytes written to ports 0xe9 and 0x402 go.',
    take: (into, text) => {
      into.debugConsole = serialTarget('-debugcon', text);
    },
  },
  {
    names: ['monitor'],
    argument: 'mux|stdio|none',
    default: standard.monitor,
    help: 'The monitor: behind Ctrl-a c, on the terminal instead of COM1, or nowhere.',
    take: (into, text) => {
      into.monitor = oneOf('-monitor', text, ['mux', 'stdio', 'none']);
    },
  },
  {
    names: ['nographic'],
    argument: null,
    default: '',
    help: 'Said for scripts: there are no graphics.',
    take: () => {},
  },
  {
    names: ['display', 'vnc'],
    argument: 'none',
    default: 'none',
    help: 'Said for scripts: there are no graphics.',
    take: (_into, text) => {
      oneOf('-display', text, ['none']);
    },
  },
  {
    names: ['nodefaults'],
    argument: null,
    default: '',
    help: 'COM1 goes nowhere unless -serial says where.',
    take: (into) => {
      into.noDefaults = true;
    },
  },
  {
    names: ['accel'],
    argument: 'interpreter|compiler|lockstep[,PROP=VALUE…]',
    default: standard.accel,
    help: `How guest code runs. "compiler" translates hot pages to WebAssembly: threshold= (${standard.jitThreshold}) is how often code is entered before that, tb-size= (${standard.jitBytes / 2 ** 20}) how many MiB of WebAssembly are kept: the oldest goes first. "lockstep" runs compiled code and then the interpreter over the same instructions, compares registers, flags and memory, and stops with a report and status 70 if they differ; from= says how many instructions of a CPU go by before it begins. tcg, QEMU's word, is the default.`,
    take: takeAccelerator,
  },
  {
    names: ['S', 'stopped'],
    argument: null,
    default: '',
    help: 'Start stopped: the monitor\'s "cont" lets the guest run.',
    take: (into) => {
      into.startStopped = true;
    },
  },
  {
    names: ['no-reboot'],
    argument: null,
    default: '',
    help: 'A reset ends the machine, with the state of its CPUs on stderr; a triple fault, which is a reset, too.',
    take: (into) => {
      into.reboot = false;
    },
  },
  {
    names: ['action'],
    argument: 'reboot=reset|shutdown',
    default: 'reboot=reset',
    help: 'reboot=shutdown is -no-reboot.',
    take: (into, text) => {
      const properties = parseProperties(text);
      requireKnown('-action', properties, ['reboot']);
      into.reboot = oneOf('-action reboot', properties.get('reboot') ?? 'reset', ['reset', 'shutdown']) === 'reset';
    },
  },
  {
    names: ['no-hpet'],
    argument: null,
    default: '',
    help: 'As -machine hpet=off.',
    take: (into) => {
      into.hpet = false;
    },
  },
  {
    names: ['no-acpi'],
    argument: null,
    default: '',
    help: 'As -machine acpi=off.',
    take: (into) => {
      into.acpi = false;
    },
  },
  {
    names: ['rtc'],
    argument: 'base=utc|DATE',
    default: 'base=utc',
    help: "What the guest's clock shows at the start: the host's time, or a date such as 2026-01-31T12:00:00, with which every run is the same.",
    take: takeRtc,
  },
  {
    names: ['icount'],
    argument: 'shift=N',
    default: 'shift=0',
    help: `An instruction takes 2^N nanoseconds of virtual time, N at most ${ICOUNT_SHIFT_MAX}.`,
    take: takeIcount,
  },
  {
    names: ['fw_cfg'],
    argument: 'name=NAME,file=FILE|string=TEXT',
    default: '',
    help: "A file in QEMU's firmware configuration device. May be repeated.",
    take: takeFwCfg,
  },
  {
    names: ['h', 'help'],
    argument: null,
    default: '',
    help: 'This text.',
    take: (into) => {
      into.help = true;
    },
  },
];
