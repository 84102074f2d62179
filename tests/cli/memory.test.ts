/**
 * What a machine costs beside the RAM that its guest touches: the process, the decoded code, the tables.
 *
 * The promise is 250 MiB. Most resident memory over the whole run is what counts (getrusage's maxrss), of the command line
 * as a user starts it.
 */
import { spawnSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { guestFolder, root, terrarium } from './run.ts';
import { CODE_AT, print, softOff, tinyGuest } from './tiny-guest.ts';

const { folder } = guestFolder();
afterAll(() => rmSync(folder, { recursive: true }));

const MIB = 2 ** 20;
const BESIDE_RAM = 250 * MIB;
const FIRST = 0x100_0000;

const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];

/** cld; mov edi, from; mov ecx, bytes / 4; mov eax, 1; rep stosd */
const touch = (from: number, bytes: number): number[] => [
  ...[0xfc, 0xbf, ...u32(from), 0xb9, ...u32(bytes / 4), 0xb8, ...u32(1)],
  ...[0xf3, 0xab],
];

/** Puts `jmp $+4096` at the start of each page of a range and `jmp` back to the code behind into the last; goes there. */
function runThrough(from: number, pages: number): number[] {
  const writer = [
    ...[0xbf, ...u32(from), 0xb9, ...u32(pages)], //                   mov edi, from; mov ecx, pages
    ...[0xc6, 0x07, 0xe9, 0xc7, 0x47, 0x01, ...u32(4096 - 5)], //      mov byte [edi], e9; mov dword [edi+1], 4091
    ...[0x81, 0xc7, ...u32(4096), 0x49, 0x75, 0xed], //                add edi, 4096; dec ecx; jnz -19
    ...[0xc6, 0x07, 0xc3], //                                          mov byte [edi], c3: ret, in the page behind
    ...[0xb8, ...u32(from), 0xbc, ...u32(0x9_0000), 0xff, 0xd0], //    mov eax, from; mov esp, 90000h; call eax
  ];
  return writer;
}

/** Runs a guest; how it ended, and the most memory that its process had. */
function most(name: string, code: readonly number[], ...options: string[]) {
  const kernel = join(folder, name);
  writeFileSync(kernel, tinyGuest([...code, ...print('touched\n'), ...softOff]));
  const script = `
    process.on('exit', () => process.stderr.write('maxrss ' + process.resourceUsage().maxRSS));
    process.argv.splice(1, 0, 'terrarium');
    await import(${JSON.stringify(join(root, 'bin/terrarium.mjs'))});`;
  const args = ['run', '-kernel', kernel, '-m', '512M', '-no-reboot', ...options];
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script, ...args], {
    input: '',
    encoding: 'utf8',
    timeout: 120_000,
  });
  return { status, stdout, stderr, bytes: 1024 * Number(/maxrss (\d+)/.exec(stderr)?.[1] ?? Number.NaN) };
}

test.each([[], ['-smp', '4'], ['-accel', 'compiler']])(
  'a 512 MiB guest that has touched 100 MiB (%s %s)',
  (...options) => {
    const { status, stdout, stderr, bytes } = most('touch', touch(FIRST, 100 * MIB), ...options);
    expect([stdout, status, stderr.replace(/maxrss.*/, '')]).toEqual(['touched\n', 0, '']);
    expect(bytes).toBeGreaterThan(100 * MIB);
    expect(bytes).toBeLessThan(100 * MIB + BESIDE_RAM);
    console.log(`${options.join(' ')} ${Math.round(bytes / MIB)} MiB`);
  },
);

test('code in 20 000 pages, a jump in each: what is kept of decoded code has a bound', () => {
  const pages = 20_000;
  const { status, stdout, bytes } = most('code', runThrough(FIRST, pages));
  expect([stdout, status]).toEqual(['touched\n', 0]);
  expect(bytes).toBeLessThan(pages * 4096 + BESIDE_RAM);
  console.log(`${Math.round(bytes / MIB)} MiB`);
});

test.each(['interpreter', 'compiler,threshold=1'])(
  'code in RAM above 2 GiB runs, instructions that are decoded in TypeScript among it (%s)',
  (accel) => {
    const at = 0x8700_0000;
    const high = [
      ...[0xdb, 0xe3, 0x0f, 0xa2, 0x0f, 0x01, 0xe0, 0x9c, 0x9d], // fninit; cpuid; smsw eax; pushfd; popfd
      ...[0xf0, 0xff, 0x04, 0x24, 0x67, 0x8b, 0x07, 0x0f, 0x31], // lock inc [esp]; mov eax, [bx]; rdtsc
      ...print('from above\n'),
      ...softOff,
    ];
    const copy = (from: number): number[] => [
      ...[0xbc, ...u32(0x9_0000), 0xbe, ...u32(from), 0xbf, ...u32(at)], // mov esp, 90000h; mov esi, from; mov edi, at
      ...[0xb9, ...u32(high.length), 0xfc, 0xf3, 0xa4], //                  mov ecx, length; cld; rep movsb
      ...[0xb8, ...u32(at), 0xff, 0xe0], //                                 mov eax, at; jmp eax
    ];
    const kernel = join(folder, 'above');
    writeFileSync(kernel, tinyGuest([...copy(CODE_AT + copy(0).length), ...high]));
    const args = ['run', '-kernel', kernel, '-m', '2200M', '-accel', accel, '-no-reboot'];
    expect(terrarium(args)).toEqual({ status: 0, stdout: 'from above\n', stderr: '' });
  },
);
