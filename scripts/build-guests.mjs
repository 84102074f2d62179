#!/usr/bin/env node
/**
 * Builds the guests of guests/ from their sources, always to the same bytes: the binaries are checked in, so that
 * nobody needs a compiler, and a test rebuilds and compares where the compiler of the manifest is there.
 *
 * Owns    the rows below, guests/<name>/<name>.bin and guests/manifest.json (SHA-256 of each, and which compiler).
 *         What a guest prints is in guests/<name>/expected.txt, beside its sources.
 *
 *   node scripts/build-guests.mjs [NAME…]     builds
 *   node scripts/build-guests.mjs --check     changes nothing; fails if a binary is not what its sources give
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { runMain, UserError } from './debian/user-error.mjs';

const checkout = dirname(dirname(new URL(import.meta.url).pathname));
const GUESTS_FOLDER = join(checkout, 'guests');
const MANIFEST = join(GUESTS_FOLDER, 'manifest.json');

/** What every guest is compiled with: no library, no build id, no path of this machine, nothing above SSE2. */
const COMMON = [
  '-O2',
  '-ffreestanding',
  '-nostdlib',
  '-static',
  '-no-pie',
  '-fno-pic',
  '-fno-stack-protector',
  '-fno-asynchronous-unwind-tables',
  '-fcf-protection=none',
  '-Wall',
  '-Wextra',
  '-Wl,--build-id=none',
  '-Wl,-z,noexecstack',
];
/** What a kernel has and a program of Linux has not. */
const KERNEL = ['-Wl,-T,lib/kernel.ld'];

const PRIVILEGED_64 = [
  'machine',
  'paging',
  'protection',
  'exceptions',
  'system-calls',
  'debug',
  'state',
  'interrupts',
  'control-registers',
];
const PRIVILEGED_32 = ['machine', 'segments', 'gates', 'tasks', 'virtual-8086', 'paging'];
const inFolder = (folder, names) => names.map((name) => `${folder}/${name}.c`);

/**
 * One row a guest. `sources` are relative to guests/; `bits` 64 is linked as ELF64 and wrapped as ELF32, as Multiboot
 * wants. `program` is no kernel but a static program for a Linux guest, which stays ELF64.
 */
export const GUESTS = {
  'hello-multiboot': {
    proves: 'a Multiboot kernel is loaded, prints over COM1 and leaves with the code of its command line',
    bits: 32,
    sources: ['hello-multiboot/start.S', 'hello-multiboot/hello.c'],
    flags: ['-m32', '-march=i686', '-mgeneral-regs-only'],
  },
  demo: {
    proves:
      '64-bit mode, exceptions, PIT and APIC timer interrupts, integer, string, SSE2 and x87 code give known results',
    bits: 64,
    sources: ['lib/long-mode.S', 'demo/demo.c', 'demo/workloads.c'],
    flags: ['-m64', '-mno-red-zone', '-mcmodel=small', '-march=x86-64'],
  },
  'privileged-64': {
    proves:
      'paging, protection, exceptions, system calls, debugging, state saving and interrupts in 64-bit mode, a line a check',
    bits: 64,
    sources: ['lib/long-mode.S', 'lib/suite.c', ...inFolder('privileged-64', PRIVILEGED_64)],
    flags: [
      '-m64',
      '-mno-red-zone',
      '-mcmodel=small',
      '-march=x86-64',
      '-mgeneral-regs-only',
      '-fno-omit-frame-pointer',
    ],
  },
  'privileged-32': {
    proves: 'segments, gates, task switches, virtual-8086 mode, SYSENTER, 32-bit and PAE paging, a line a check',
    bits: 32,
    sources: ['privileged-32/start.S', 'lib/suite.c', ...inFolder('privileged-32', PRIVILEGED_32)],
    flags: ['-m32', '-march=i686', '-mgeneral-regs-only', '-fno-omit-frame-pointer'],
  },
  'nested-vmx': {
    proves:
      'a small L1 hypervisor runs L2s with and without EPT and VPID, in 64-bit, PAE and real mode, and sees every exit it asked for',
    bits: 64,
    sources: ['lib/long-mode.S', 'nested-vmx/enter.S', ...inFolder('nested-vmx', ['nested-vmx', 'vm', 'tables'])],
    flags: ['-m64', '-mno-red-zone', '-mcmodel=small', '-march=x86-64', '-mgeneral-regs-only'],
  },
  'small-vmm': {
    proves: 'a hypervisor over /dev/kvm of a Linux guest runs micro-guests in every mode and boots a Linux of its own',
    bits: 64,
    program: true,
    sources: [
      ...inFolder('small-vmm', ['sys', 'vm', 'micro', 'memory', 'devices', 'acpi', 'linux']),
      ...['small-vmm/micro-guests.S', 'small-vmm/memory-guest.S'],
    ],
    flags: ['-m64', '-march=x86-64', '-mgeneral-regs-only'],
  },
};

const run = (command, args) =>
  spawnSync(command, args, {
    cwd: GUESTS_FOLDER,
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C', SOURCE_DATE_EPOCH: '0' },
  });

/** First lines of the tools that decide the bytes, or undefined if they are not all here. */
export function toolchain() {
  const lines = ['gcc', 'ld', 'objcopy'].map((tool) => run(tool, ['--version']).stdout?.split('\n')[0]);
  return lines.some((line) => !line) ? undefined : lines.slice(0, 2).join('; ');
}

/** @returns  The bytes of the ELF file. */
export function buildGuest(name) {
  const { bits, program, sources, flags } = GUESTS[name];
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-guest-'));
  try {
    const linked = join(folder, 'linked');
    const result = run('gcc', [...COMMON, ...(program ? [] : KERNEL), ...flags, '-o', linked, ...sources]);
    if (result.status !== 0) throw new UserError(`gcc cannot build ${name}:\n${result.stderr}`);
    const output = join(folder, 'output');
    const wrap = bits === 64 && !program ? ['-O', 'elf32-i386'] : [];
    const copied = run('objcopy', ['--strip-all', ...wrap, linked, output]);
    if (copied.status !== 0) throw new UserError(`objcopy cannot wrap ${name}:\n${copied.stderr}`);
    return readFileSync(output);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export const binaryPath = (name) => join(GUESTS_FOLDER, name, `${name}.bin`);
export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
export const readManifest = () => JSON.parse(readFileSync(MANIFEST, 'utf8'));

/** Compares what is checked in with the manifest and, if this machine has the manifest's tools, with a fresh build. */
function check() {
  const { tools: recorded, guests } = readManifest();
  const tools = toolchain();
  const rebuild = tools === recorded;
  const why = tools ? `this machine has ${tools}, the binaries were made with ${recorded}` : 'no gcc or binutils here';
  if (!rebuild) console.log(`not rebuilt: ${why}`);
  for (const name of Object.keys(GUESTS)) {
    const hash = sha256(readFileSync(binaryPath(name)));
    if (hash !== guests[name]?.sha256)
      throw new UserError(`${name}.bin is not the manifest's: run scripts/build-guests.mjs`);
    if (rebuild && sha256(buildGuest(name)) !== hash) {
      throw new UserError(`${name}.bin is not what its sources give: run scripts/build-guests.mjs and commit both`);
    }
    console.log(`${name}: ${rebuild ? 'rebuilt, equal' : 'as in the manifest'}`);
  }
}

async function main(argv) {
  if (argv.length === 1 && argv[0] === '--check') return check();
  const unknown = argv.find((name) => !GUESTS[name]);
  if (unknown) {
    throw new UserError(
      `no guest ${unknown}: say --check, or some of ${Object.keys(GUESTS).join(', ')}, or nothing for all`,
    );
  }
  const tools = toolchain();
  if (!tools) throw new UserError('gcc and binutils build the guests and are not here: "apt-get install gcc binutils"');
  const guests = {};
  for (const name of argv.length ? argv : Object.keys(GUESTS)) {
    const bytes = buildGuest(name);
    writeFileSync(binaryPath(name), bytes);
    guests[name] = { proves: GUESTS[name].proves, sha256: sha256(bytes), bytes: bytes.length };
    console.log(`${name}: ${bytes.length} bytes, ${guests[name].sha256.slice(0, 16)}…`);
  }
  const before = argv.length ? readManifest().guests : {};
  writeFileSync(MANIFEST, `${JSON.stringify({ tools, guests: { ...before, ...guests } }, null, 2)}\n`);
}

if (process.argv[1] === new URL(import.meta.url).pathname) await runMain('build-guests', main);
