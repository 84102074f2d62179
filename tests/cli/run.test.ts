import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { guestFolder, root, terrarium } from './run.ts';

const { folder, path } = guestFolder();
afterAll(() => rmSync(folder, { recursive: true }));

const DEBUG_EXIT = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4'];
const run = (guest: Parameters<typeof path>[0], ...more: string[]) =>
  terrarium(['run', '-kernel', path(guest), '-m', '16M', ...more]);

test('switching the machine off is status 0', () => {
  expect(run('powerOff')).toEqual({ status: 0, stdout: '', stderr: '' });
});

test("isa-debug-exit's status is (code << 1) | 1", () => {
  expect(run('debugExit', ...DEBUG_EXIT).status).toBe(0x2b);
});

test('an x87 exception without CR0.NE is IRQ 13: the processor stands until its handler has run', () => {
  expect(run('coprocessorError')).toEqual({ status: 0, stdout: 'Fdone\n', stderr: '' });
});

test('what comes through stdin reaches COM1', () => {
  const { status, stdout } = terrarium(['run', '-kernel', path('echo'), '-m', '16M', ...DEBUG_EXIT], '#');
  expect(stdout).toBe('#');
  expect(status).toBe((0x23 << 1) | 1);
});

test('a serial port can go into a file', () => {
  const log = join(folder, 'serial.log');
  const { status, stdout } = run('haltForEver', '-serial', `file:${log}`);
  expect(stdout).toBe('');
  expect(readFileSync(log, 'latin1')).toBe('halted\n');
  expect(status).toBe(8);
});

test('-S starts in front of the first instruction, and the monitor on a pipe answers', () => {
  const commands = ['info registers', 'x/2xb $eip', 'info cpu', 'quit 7'].join('\n');
  const args = ['run', '-kernel', path('powerOff'), '-m', '16M', '-S', '-monitor', 'stdio'];
  const { status, stdout, stderr } = terrarium(args, `${commands}\n`);
  expect(stdout).toContain('CPU#0 L1, protected mode, running, 0 instructions');
  expect(stdout).toContain('EIP=00100020 ');
  expect(stdout).toContain('0000000000100020: 0x66 0xba');
  expect(stdout).toContain('there is no "info cpu". Did you mean info cpus?');
  expect(stderr).toBe('');
  expect(status).toBe(7);
});

test('the monitor lets it run on', () => {
  const args = ['run', '-kernel', path('powerOff'), '-m', '16M', '-S', '-monitor', 'stdio'];
  expect(terrarium(args, 'info status\ncont\n')).toMatchObject({
    status: 0,
    stdout: expect.stringContaining('paused'),
  });
});

test('info jit tells what compiled code there may be, and that an interpreter has none', () => {
  const info = (...accel: string[]) => {
    const args = ['run', '-kernel', path('powerOff'), '-m', '16M', '-S', '-monitor', 'stdio', ...accel];
    return terrarium(args, 'info jit\nquit 0\n').stdout;
  };
  expect(info('-accel', 'interpreter')).toContain('nothing is compiled');
  const text = info('-accel', 'lockstep,tb-size=3,threshold=77');
  expect(text).toMatch(/WebAssembly alive +0 B of at most 3 MiB/);
  expect(text).toMatch(/after 77 runs/);
  expect(text).toMatch(/0 calls of regions compared/);
});

test('-profile samples at exact instruction counts: the same profile in every run, on every tier', () => {
  const profile = (accel: string) => {
    const file = join(folder, `${accel}.folded`);
    const demo = join(root, 'guests/demo/demo.bin');
    const made = terrarium(['run', '-kernel', demo, '-accel', accel, '-profile', `${file},every=50000`, ...DEBUG_EXIT]);
    expect(made.status).toBe(1);
    expect(made.stderr).toMatch(
      /^517 samples, one in 50,000 instructions\nno names: -symbols FILE .*\n +share +samples +level +CPL +symbol\n/,
    );
    return readFileSync(file, 'latin1');
  };
  const first = profile('interpreter');
  expect(first).toMatch(/^(L1;cpl0;0x[0-9a-f]+ \d+\n)+$/);
  const samples = [...first.matchAll(/ (\d+)\n/g)].reduce((sum, [, count]) => sum + Number(count), 0);
  expect(samples).toBe(517);
  expect(profile('compiler')).toBe(first);
});

test('-symbols that are none end in a sentence', () => {
  const bad = join(folder, 'System.map');
  writeFileSync(bad, 'ffffffffffffffff B The real System.map is in the linux-image-dbg package\n');
  const { status, stderr } = run('powerOff', '-profile', join(folder, 'p'), '-symbols', bad);
  expect(stderr).toMatch(/^terrarium: \S+System\.map is neither an ELF file nor lines such as .*\n$/);
  expect(status).toBe(2);
});

test('two runs with the same date are the same, counter by counter', () => {
  const counters = () => {
    const { status, stdout } = terrarium(['demo', '--json']);
    expect(status).toBe(0);
    const { passed, output, counters } = JSON.parse(stdout);
    expect(passed).toBe(true);
    return { output, counters };
  };
  const first = counters();
  expect(first.output).toBe(readFileSync(join(root, 'guests/demo/expected.txt'), 'utf8'));
  expect(first.counters.instructions).toBeGreaterThan(1e7);
  expect(counters()).toEqual(first);
});

test('terrarium info shows every topic, as text and as JSON', () => {
  const help = terrarium(['info']);
  expect(help.status).toBe(0);
  for (const topic of ['cpu', 'cpu amd', 'features', 'msrs', 'devices', 'limits']) {
    const args = ['info', ...topic.split(' ')];
    const text = terrarium(args);
    expect(text.status, topic).toBe(0);
    expect(text.stdout.split('\n').length, topic).toBeGreaterThan(4);
    const json = terrarium([...args, '--json']);
    expect(JSON.parse(json.stdout), topic).toBeTruthy();
  }
  expect(terrarium(['info', 'cpu', 'amd', '--json']).stdout).toContain('"vendor": "AuthenticAMD"');
});

test('a wrong subcommand or topic is named with its neighbour', () => {
  expect(terrarium(['rum'])).toEqual({
    status: 2,
    stdout: '',
    stderr: 'terrarium: there is no command "rum": did you mean "terrarium run"?\n',
  });
  expect(terrarium(['info', 'cpus']).stderr).toContain('did you mean "terrarium info cpu"?');
  expect(terrarium(['-kernel', 'x']).stderr).toContain('write "terrarium run -kernel x"');
});

test('help and version come on stdout with status 0', () => {
  for (const args of [['--help'], ['run', '--help'], ['demo', '-h'], ['info', '--help'], ['--version']]) {
    const { status, stdout, stderr } = terrarium(args);
    expect({ status, stderr }, args.join(' ')).toEqual({ status: 0, stderr: '' });
    expect(stdout.length).toBeGreaterThan(5);
  }
});
