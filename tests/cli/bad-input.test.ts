import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { guestFolder, root, terrarium } from './run.ts';

const { folder, path } = guestFolder();
afterAll(() => rmSync(folder, { recursive: true }));

const file = (name: string, bytes: Uint8Array): string => {
  const at = join(folder, name);
  writeFileSync(at, bytes);
  return at;
};
const demo = join(root, 'guests/demo/demo.bin');
const demoBytes = new Uint8Array(readFileSync(demo));

/** A header of an ELF file for AArch64. */
const armElf = Uint8Array.from({ length: 128 }, (_, at) => {
  return { 0: 0x7f, 1: 0x45, 2: 0x4c, 3: 0x46, 4: 2, 5: 1, 6: 1, 16: 2, 18: 0xb7 }[at] ?? 0;
});
/** A bzImage's boot sector and magic number, and nothing behind. */
const bzImageStart = (() => {
  const bytes = new Uint8Array(4096);
  bytes.set([0x55, 0xaa], 0x1fe);
  bytes.set([0x48, 0x64, 0x72, 0x53, 0x0f, 0x02], 0x202);
  bytes[0x1f1] = 4;
  bytes[0x1f4] = 0xff;
  bytes[0x1f5] = 0xff;
  bytes[0x211] = 1;
  return bytes;
})();

/** Status 2, nothing on stdout, one sentence on stderr that begins with the program's name. */
function expectRefusal(args: readonly string[], sentence: RegExp): void {
  const { status, stdout, stderr } = terrarium(['run', ...args]);
  expect(stderr).toMatch(sentence);
  expect(stderr).toMatch(/^terrarium: [^\n]*\n$/);
  expect(stdout).toBe('');
  expect(status).toBe(2);
}

describe('a kernel file that is none ends in a sentence and status 2', () => {
  test.each<[string, () => string, RegExp]>([
    ['missing', () => join(folder, 'nosuch'), /nosuch cannot be read: there is no such file/],
    ['a directory', () => folder, /it is a directory/],
    ['empty', () => file('empty', new Uint8Array()), /empty is empty/],
    ['garbage', () => file('garbage', new Uint8Array(5000).fill(0xa5)), /not a kernel.*a5 a5 a5 a5/],
    ['a truncated ELF file', () => file('short', demoBytes.subarray(0, 1000)), /not a whole ELF file/],
    ['cut off in its ELF header', () => file('header', demoBytes.subarray(0, 20)), /header/],
    ['a truncated bzImage', () => file('bz', bzImageStart), /not a whole bzImage/],
    ['for another architecture', () => file('arm', armElf), /AArch64/],
    ['an LZ4 archive', () => file('lz4', Uint8Array.of(0x04, 0x22, 0x4d, 0x18, 0, 0, 0, 0)), /LZ4 archive: unpack it/],
    ['a bzip2 archive', () => file('bz2', Uint8Array.of(0x42, 0x5a, 0x68, 0x39, 0, 0, 0, 0)), /bzip2 archive: unpack/],
    ['a gzip archive', () => file('gz', Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0)), /gzip archive: unpack it/],
  ])('%s', (_name, make, sentence) => {
    expectRefusal(['-kernel', make()], sentence);
  });

  test.skipIf(process.getuid?.() === 0)('unreadable', () => {
    const secret = file('secret', demoBytes);
    chmodSync(secret, 0);
    expectRefusal(['-kernel', secret], /permission is denied/);
  });
});

describe('what does not fit or does not exist ends in a sentence and status 2', () => {
  test('an initrd larger than the RAM', () => {
    const initrd = file('initrd', new Uint8Array(24 * 2 ** 20));
    expectRefusal(['-kernel', demo, '-m', '16M', '-initrd', initrd], /initrd needs RAM.*-m/);
  });

  test('a missing initrd', () => {
    expectRefusal(['-kernel', demo, '-initrd', join(folder, 'nosuch')], /-initrd .*there is no such file/);
  });

  test.each([
    ['-m 0', /-m 0: expected at least 2 MiB/],
    ['-m abc', /-m abc: expected a size such as 512M/],
    ['-m 1T', /1 TiB are asked for.*smaller -m/],
    ['-frobnicate', /no option -frobnicate. "terrarium run --help" lists them/],
    ['-kernle x', /no option -kernle. Did you mean -kernel/],
    ['-cpu host', /-cpu host: there is no such model. Models are intel, amd, max/],
    ['-cpu intle', /-cpu intle: there is no such model. Did you mean intel\?/],
    ['-cpu intel,+avx1024', /no feature "avx1024". Did you mean/],
    ['-device floppy', /-device floppy: there is no such device/],
    ['-smp 1000', /expected a whole number from 1 to/],
    ['-drive file=nosuch.img', /nosuch.img cannot be opened for writing: there is no such file/],
  ])('%s', (line, sentence) => {
    expectRefusal(['-kernel', demo, ...line.split(' ')], sentence);
  });

  test('a disk that is not whole sectors', () => {
    expectRefusal(['-kernel', demo, '-drive', file('odd.img', new Uint8Array(1000))], /found 1000 bytes/);
  });

  test.skipIf(process.getuid?.() === 0)('a disk that may not be written', () => {
    const disk = file('ro.img', new Uint8Array(4096));
    chmodSync(disk, 0o444);
    expectRefusal(['-kernel', demo, '-drive', disk], /permission is denied: add readonly=on/);
  });

  test('a file for the serial port in a folder that is not there', () => {
    expectRefusal(['-kernel', demo, '-serial', `file:${folder}/no/where`], /-serial file:.* cannot be written/);
  });
});

describe('a guest that goes wrong ends as a machine does', () => {
  test('a triple fault with -no-reboot: status 4, where it happened, the registers', () => {
    const { status, stdout, stderr } = terrarium(['run', '-kernel', path('tripleFault'), '-m', '16M', '-no-reboot']);
    expect(stdout).toBe('hi');
    expect(stderr).toMatch(/^terrarium: vCPU 0 shut down by a triple fault at RIP 0x10002e\.\n/);
    expect(stderr).toMatch(/EIP=0010002e EFL=00000002/);
    expect(stderr).toMatch(/Code at the instruction pointer: cc\b/);
    expect(status).toBe(4);
  });

  test('a triple fault resets the machine, as on a PC; the same one again ends it', () => {
    const { status, stdout, stderr } = terrarium(['run', '-kernel', path('tripleFault'), '-m', '16M']);
    expect(stdout).toBe('hihi');
    expect(stderr).toMatch(/^terrarium: vCPU 0 shut down by a triple fault at RIP 0x10002e: the machine is reset/);
    expect(stderr).toMatch(/\nterrarium: vCPU 0 .* at RIP 0x10002e, after a reset at the same instruction again\.\n/);
    expect(stderr).toMatch(/EIP=0010002e/);
    expect(status).toBe(4);
  });

  test.each([
    'rebootByTripleFault',
    'rebootByKeyboardController',
    'rebootBySystemControlPort',
    'rebootByResetRegister',
  ] as const)('%s: it comes up again, and the second time it switches off', (guest) => {
    const { status, stdout } = terrarium(['run', '-kernel', path(guest), '-m', '16M']);
    expect(stdout).toBe('up\nup\n');
    expect(status).toBe(0);
  });

  test('a halt for ever: status 8 once no input can come', () => {
    const { status, stdout, stderr } = terrarium(['run', '-kernel', path('haltForEver'), '-m', '16M']);
    expect(stdout).toBe('halted\n');
    expect(stderr).toMatch(/^terrarium: the machine waits for ever[^\n]*\n$/);
    expect(status).toBe(8);
  });

  test('a reset with -no-reboot: status 6 and the registers', () => {
    const { status, stdout, stderr } = terrarium(['run', '-kernel', path('reset'), '-m', '16M', '-no-reboot']);
    expect(stdout).toBe('reset\n');
    expect(stderr).toMatch(/^terrarium: the guest reset the machine/);
    expect(status).toBe(6);
  });

  // A processor fetches FF FF where nothing answers: #UD, and without an IDT a triple fault
  test.each(['jumpToNowhere', 'jumpBehindRam'] as const)('%s: a triple fault, not a bug of ours', (guest) => {
    const { status, stderr } = terrarium(['run', '-kernel', path(guest), '-m', '16M', '-no-reboot']);
    expect(stderr).toMatch(/^terrarium: vCPU 0 shut down by a triple fault/);
    expect(status).toBe(4);
  });
});
