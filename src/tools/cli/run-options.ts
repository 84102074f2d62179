/**
 * What `terrarium run` takes: one row an option, QEMU's spelling first (DESIGN.md 3.3).
 *
 * Owns    names, defaults, help and the checks that need nothing but the text.
 * Knows   no file and no machine: `run.ts` opens and builds what is described here.
 */

import { ALL_MODELS } from '../../arch/cpu-models.ts';
import { pageStart } from '../../base/address.ts';
import { UserError } from '../../base/assert.ts';
import { byteSize } from '../../base/format.ts';
import { ACCELERATORS, type Accelerator } from '../../engine/core/memory.ts';
import { COMPILER_DEFAULTS } from '../../engine/tiers/compiler/compiler.ts';
import { DEFAULT_PORT, type GdbTarget, parseGdbTarget } from '../gdb/target.ts';
import { cpu, DEFAULT_CPU, HELP } from './common-options.ts';
import { DEVICES, type DriveOption, parseDrive, takeDevice } from './device-options.ts';
import { LOG_ITEMS, type LogItemName, logHelp, parseLogItems } from './log-option.ts';
import type { OptionRow } from './option-table.ts';
import { oneOf, parseInteger, parseProperties, parseSize, parseSwitch, requireKnown } from './sizes.ts';
import { versionText } from './version.ts';

export type SerialTarget =
  | { readonly kind: 'stdio' }
  | { readonly kind: 'null' }
  | { readonly kind: 'file'; readonly path: string };

/** Names of a kernel's functions. `offset`: how far above its linked place it runs; `null`: as its IA32_LSTAR says. */
export interface SymbolsOption {
  readonly path: string;
  readonly level: 'L1' | 'L2';
  readonly offset: bigint | null;
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
  /** What is written to any disk is forgotten at the end. */
  snapshot: boolean;
  /** 16 bytes as the text has them, or `null`. */
  uuid: Uint8Array | null;
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
  /** Native code from earlier runs: `off`, a folder, or `on`: where the host has such things. */
  jitCache: string;
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
  /** Where a profile of the guest goes, and every how many instructions a sample is taken. */
  profile: { readonly path: string; readonly every: number } | null;
  symbols: SymbolsOption[];
  /** What is logged, and where: a file, or `stderr`. */
  logItems: LogItemName[];
  logFile: string;
  startStopped: boolean;
  /** Where gdb may connect. */
  gdb: GdbTarget | null;
  /** `mux`: behind Ctrl-a c. `stdio`: the terminal is the monitor's. */
  monitor: 'mux' | 'stdio' | 'none';
  help: boolean;
  /** Text that is asked for instead of a run: "-device help". */
  show: string;
}

export const runDefaults = (): RunOptions => ({
  kernel: '',
  modules: [],
  append: '',
  ramBytes: 512 * 2 ** 20,
  cpus: 1,
  cpu: DEFAULT_CPU,
  drives: [],
  snapshot: false,
  uuid: null,
  serials: [],
  noDefaults: false,
  debugConsole: null,
  debugExit: null,
  testDevice: false,
  random: false,
  reboot: true,
  hpet: true,
  acpi: true,
  accel: 'compiler',
  jitBytes: COMPILER_DEFAULTS.bytesMax,
  jitThreshold: COMPILER_DEFAULTS.threshold,
  jitCache: 'on',
  lockstepFrom: 0,
  nestedMmu: 'split',
  tdp: true,
  force: false,
  epochMs: null,
  nsPerInstruction: 1,
  fwCfg: [],
  profile: null,
  symbols: [],
  logItems: [],
  logFile: 'stderr',
  startStopped: false,
  gdb: null,
  monitor: 'mux',
  help: false,
  show: '',
});

const standard = runDefaults();

/** Local APIC IDs have eight bits, 255 is everyone; the rest is what a single host thread can serve. */
export const CPUS_MAX = 64;
export const RAM_MIN_BYTES = 2 * 2 ** 20;
const SERIAL_MAX = 4;
const ICOUNT_SHIFT_MAX = 10;
/** Instructions between two samples of a profile: a boot of Debian has 14,000 such. */
const PROFILE_EVERY = 100_000;
/** Compiled code lies in V8's code space, which has 4 GiB for everything. */
const TB_SIZE_MAX_MIB = 1024;

function takeMemory(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'size');
  requireKnown('-m', properties, ['size']);
  const bytes = parseSize('-m', properties.get('size') ?? '', 'm');
  if (bytes < RAM_MIN_BYTES) {
    throw new UserError(`-m ${text}: expected at least ${byteSize(RAM_MIN_BYTES)} of RAM, found ${byteSize(bytes)}.`);
  }
  into.ramBytes = pageStart(bytes);
}

/** One package of cores with one thread each: sockets, cores and threads may be said as far as they say that. */
function takeCpus(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'cpus');
  requireKnown('-smp', properties, ['cpus', 'sockets', 'dies', 'cores', 'threads', 'maxcpus']);
  const number = (name: string): number | undefined => {
    const value = properties.get(name);
    return value === undefined
      ? undefined
      : parseInteger(name === 'cpus' ? '-smp' : `-smp ${name}`, value, 1, CPUS_MAX);
  };
  for (const name of ['sockets', 'dies', 'threads']) {
    if ((number(name) ?? 1) !== 1) {
      throw new UserError(`-smp ${text}: all CPUs are cores of one package, with one thread each: leave ${name}= out.`);
    }
  }
  const cores = number('cores');
  into.cpus = number('cpus') ?? cores ?? parseInteger('-smp', properties.get('cpus') ?? '', 1, CPUS_MAX);
  for (const name of ['cores', 'maxcpus']) {
    if ((number(name) ?? into.cpus) !== into.cpus) {
      throw new UserError(`-smp ${text}: expected ${name}=${into.cpus}, as many as there are CPUs, or nothing.`);
    }
  }
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

/** QEMU's names of the same machine, with and without its version. */
const MACHINES = [/^pc(-i440fx-.*)?$/, /^terrarium$/];

function takeMachine(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'type');
  requireKnown('-machine', properties, ['type', 'hpet', 'acpi', 'nested-mmu', 'tdp', 'force', 'accel']);
  const type = properties.get('type') ?? 'pc';
  if (type === 'help') {
    into.show = 'Machines are:\npc  a PC with a 440FX and a PIIX, as QEMU\'s "pc"\n';
    return;
  }
  if (!MACHINES.some((name) => name.test(type))) {
    throw new UserError(`-machine ${type}: there is one machine, pc (a 440FX, as QEMU's): leave it out.`);
  }
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

/**
 * Everything runs in software; `tcg` is QEMU's word for that, and means the default. Of a list as QEMU takes it, the first
 * that is there.
 */
function takeAccelerator(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'accel');
  requireKnown('-accel', properties, ['accel', 'tb-size', 'threshold', 'from', 'thread']);
  const names = (properties.get('accel') ?? '').split(':');
  const name = names.find((each) => each === 'tcg' || ACCELERATORS.includes(each as Accelerator));
  if (name === undefined) {
    throw new UserError(
      `-accel ${names[0] || '(nothing)'}: this machine runs in software, on any host: leave it out, or write -accel ` +
        'interpreter, compiler or lockstep.',
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

/** A word that scripts say, and that is how things are anyway. */
function onlyNone(option: string, what: string): (into: RunOptions, text: string) => void {
  return (_into, text) => {
    if (text !== 'none')
      throw new UserError(`${option} ${text}: there is no ${what}, write ${option} none or nothing.`);
  };
}

/** Text of RFC 4122: 8-4-4-4-12 hexadecimal digits. */
function takeUuid(into: RunOptions, text: string): void {
  if (!/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(text)) {
    throw new UserError(`-uuid ${text}: expected a UUID such as 12345678-9abc-def0-1234-56789abcdef0.`);
  }
  into.uuid = Uint8Array.from(text.replaceAll('-', '').match(/../g)!, (byte) => Number.parseInt(byte, 16));
}

function takeProfile(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'file');
  requireKnown('-profile', properties, ['file', 'every']);
  const path = properties.get('file') ?? '';
  if (path === '') throw new UserError('-profile lacks its file: write -profile guest.folded.');
  const every = parseInteger('-profile every', properties.get('every') ?? `${PROFILE_EVERY}`, 100, 1e9);
  into.profile = { path, every };
}

function takeSymbols(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'file');
  requireKnown('-symbols', properties, ['file', 'level', 'offset']);
  const path = properties.get('file') ?? '';
  if (path === '') throw new UserError('-symbols lacks its file: write -symbols System.map.');
  const level = oneOf('-symbols level', properties.get('level') ?? 'L1', ['L1', 'L2']);
  if (into.symbols.some((other) => other.level === level))
    throw new UserError(`-symbols ${path}: the symbols of ${level} are given twice.`);
  const offset = properties.get('offset');
  if (offset !== undefined && !/^(0x[\da-f]{1,16}|\d+)$/i.test(offset))
    throw new UserError(`-symbols offset=${offset}: expected a number such as 0x12000000.`);
  into.symbols.push({ path, level, offset: offset === undefined ? null : BigInt(offset) });
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
  if (base === 'localtime') {
    const now = new Date();
    into.epochMs = now.getTime() - now.getTimezoneOffset() * 60_000;
    return;
  }
  const date = /^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d)?$/.test(base)
    ? Date.parse(`${base}${base.length === 10 ? 'T00:00:00' : ''}Z`)
    : Number.NaN;
  if (Number.isNaN(date)) {
    throw new UserError(`-rtc base=${base}: expected utc, localtime or a date such as 2026-01-31T12:00:00.`);
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

const cpuModels = (): string => ALL_MODELS.map(({ name, brand }) => `${name.padEnd(12)}${brand}\n`).join('');

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
    ...cpu(
      'MODEL[,+FEATURE][,-FEATURE]',
      ' and what is added to or taken from it. "help" or "terrarium info cpu" lists both.',
    ),
    take: (into, text) => {
      if (text === 'help' || text === '?') into.show = `CPU models are:\n${cpuModels()}`;
      else into.cpu = text;
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
    argument: 'file=FILE[,readonly=on][,serial=TEXT][,snapshot=on]',
    default: '',
    help: 'A disk: virtio-blk over a raw image. if=virtio and format=raw may be said; with if=none and id=NAME a -device virtio-blk-pci,drive=NAME takes it. May be repeated.',
    take: (into, text) => into.drives.push(parseDrive(text)),
  },
  {
    names: ['snapshot'],
    argument: null,
    default: '',
    help: 'Images are not written to: what the guest writes is kept in memory and forgotten at the end.',
    take: (into) => {
      into.snapshot = true;
    },
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
    take: onlyNone('-display', 'screen'),
  },
  {
    names: ['vga'],
    argument: 'none',
    default: 'none',
    help: 'Said for scripts: there are no graphics.',
    take: onlyNone('-vga', 'graphics card'),
  },
  {
    names: ['nic', 'net'],
    argument: 'none',
    default: 'none',
    help: 'Said for scripts: there is no network.',
    take: onlyNone('-nic', 'network'),
  },
  {
    names: ['parallel'],
    argument: 'none',
    default: 'none',
    help: 'Said for scripts: there is no parallel port.',
    take: onlyNone('-parallel', 'parallel port'),
  },
  {
    names: ['name'],
    argument: 'TEXT',
    default: '',
    help: 'Said for scripts: nothing shows it.',
    take: () => {},
  },
  {
    names: ['uuid'],
    argument: 'UUID',
    default: '',
    help: "The machine's UUID, which SMBIOS tells the guest.",
    take: takeUuid,
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
    names: ['jit-cache'],
    argument: 'on|off|DIR',
    default: standard.jitCache,
    help: 'Native code of compiled pages, and which code was hot, is kept for later runs, which then compile it early and are the same otherwise; all of it is there from the third run of a guest on. It is in $XDG_CACHE_HOME/terrarium or ~/.cache/terrarium, or in DIR. For -accel compiler on Node 20. A file is for one build, has at most 64 MiB, and may be deleted at any time.',
    take: (into, text) => {
      if (text === '') throw new UserError('-jit-cache lacks its folder: write -jit-cache DIR, on or off.');
      into.jitCache = text;
    },
  },
  {
    names: ['profile'],
    argument: 'FILE[,every=N]',
    default: '',
    help: `Samples the guest's instruction pointer every N (${PROFILE_EVERY}) instructions of a CPU: with -rtc base=DATE two runs give the same profile, on any accelerator. At the end the hot functions, by level and CPL, go to stderr as a table, and all of them to FILE as collapsed stacks, which flamegraph.pl and speedscope read.`,
    take: takeProfile,
  },
  {
    names: ['symbols'],
    argument: 'FILE[,level=L1|L2][,offset=N]',
    default: '',
    help: 'Names for -profile: System.map, a copy of /proc/kallsyms, or an ELF file such as vmlinux. KASLR is found by where the kernel has its SYSCALL entry; offset= says it (0 with nokaslr). level=L2: of the guest in the guest. Debian 12 has no System.map: write cat /proc/kallsyms in the guest and keep what it prints.',
    take: takeSymbols,
  },
  {
    names: ['d'],
    argument: 'ITEM[,ITEM…]',
    default: '',
    help: `Logs what happens: ${Object.keys(LOG_ITEMS).join(', ')}; "help" says what each is. Times in it are the guest's: two runs that are the same log the same.`,
    take: (into, text) => {
      if (text === 'help' || text === '?') into.show = logHelp();
      else into.logItems = parseLogItems(text);
    },
  },
  {
    names: ['D'],
    argument: 'FILE|stderr',
    default: standard.logFile,
    help: 'Where the log of -d goes.',
    take: (into, text) => {
      into.logFile = text;
    },
  },
  {
    names: ['S', 'stopped'],
    argument: null,
    default: '',
    help: 'Start stopped: the monitor\'s "cont" lets the guest run, or gdb does.',
    take: (into) => {
      into.startStopped = true;
    },
  },
  {
    names: ['s'],
    argument: null,
    default: '',
    help: `As -gdb tcp::${DEFAULT_PORT}.`,
    take: (into) => {
      into.gdb = parseGdbTarget('-gdb', `tcp::${DEFAULT_PORT}`);
    },
  },
  {
    names: ['gdb'],
    argument: 'tcp:[HOST]:PORT|stdio|none',
    default: 'none',
    help: 'Where gdb may connect, with "target remote :PORT": its threads are the CPUs, its breakpoints and watchpoints are out of the guest\'s sight and hit in every level, "monitor" takes the commands of the monitor. Without HOST only from this host; PORT 0 is any that is free. stdio: for "target remote | terrarium run -gdb stdio …". While gdb has stopped the machine, virtual time stands still.',
    take: (into, text) => {
      into.gdb = parseGdbTarget('-gdb', text);
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
    argument: 'base=utc|localtime|DATE',
    default: 'base=utc',
    help: "What the guest's clock shows at the start: the host's time, in UTC or as clocks on its wall, or a date such as 2026-01-31T12:00:00, with which every run is the same.",
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
    names: ['version'],
    argument: null,
    default: '',
    help: 'Which Terrarium this is.',
    take: (into) => {
      into.show = `${versionText()}\n`;
    },
  },
  HELP,
];
