/** `-gdb`: a debugger connects to the command line as a user starts it. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { DebuggedMachine, type GdbClient, littleEndian, packetOf, REG } from './gdb-client.ts';
import { root, terrarium } from './run.ts';
import { GUESTS, tinyGuest } from './tiny-guest.ts';

const folder = mkdtempSync(join(tmpdir(), 'terrarium-gdb-'));
afterAll(() => rmSync(folder, { recursive: true }));

const ENTRY = 0x10_0020;
const DATA = 0x20_0000;
/**
 *   b9 05 00 00 00         mov ecx, 5
 *   ff 05 00 00 20 00   L: inc dword [200000h]
 *   49                     dec ecx
 *   75 f7                  jnz L
 *   b0 2a e6 f4 f4         mov al, 42; out f4h, al; hlt
 */
const LOOP = { inc: ENTRY + 5, dec: ENTRY + 11, jnz: ENTRY + 12, mov: ENTRY + 14 };
const COUNTS = [0xb9, 5, 0, 0, 0, 0xff, 0x05, 0, 0, 0x20, 0, 0x49, 0x75, 0xf7, 0xb0, 42, 0xe6, 0xf4, 0xf4];
const COUNTS_STATUS = (42 << 1) | 1;

function kernel(name: string, code: readonly number[]): string {
  const path = join(folder, `${name}.bin`);
  writeFileSync(path, tinyGuest(code));
  return path;
}
const EXIT_DEVICE = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4'];
const started: DebuggedMachine[] = [];
afterEach(() => {
  for (const machine of started.splice(0)) machine.kill();
});

function start(path: string, ...more: string[]): DebuggedMachine {
  const machine = new DebuggedMachine('-kernel', path, '-m', '16M', ...EXIT_DEVICE, ...more);
  started.push(machine);
  return machine;
}

const hex = (value: number): string => value.toString(16);
const rip = (client: GdbClient): Promise<number> => client.register(REG.RIP).then(Number);

describe('a debugger', () => {
  test.each(['interpreter', 'compiler,threshold=1', 'lockstep,threshold=1'])(
    'stops at breakpoints, steps, watches, reads, writes and lets go: -accel %s',
    async (accel) => {
      const machine = start(kernel('counts', COUNTS), '-S', '-accel', accel);
      const client = await machine.client();
      expect(await client.ask('qSupported:swbreak+;hwbreak+')).toContain('qXfer:features:read+');
      expect(await client.ask('?')).toBe('T05thread:01;');
      expect(await rip(client)).toBe(ENTRY);

      // A software and a hardware breakpoint
      expect(await client.ask(`Z0,${hex(LOOP.dec)},1`)).toBe('OK');
      expect(await client.ask('c')).toBe('T05thread:01;swbreak:;');
      expect(await rip(client)).toBe(LOOP.dec);
      expect(await client.ask(`m${hex(DATA)},4`)).toBe('01000000');
      // No byte of the code is changed
      expect(await client.ask(`m${hex(LOOP.dec)},1`)).toBe('49');
      expect(await client.ask('vCont;c')).toBe('T05thread:01;swbreak:;');
      expect(await client.register(REG.RCX)).toBe(4n);
      expect(await client.ask(`z0,${hex(LOOP.dec)},1`)).toBe('OK');
      expect(await client.ask(`Z1,${hex(LOOP.inc)},1`)).toBe('OK');
      expect(await client.ask('c')).toBe('T05thread:01;hwbreak:;');
      expect(await rip(client)).toBe(LOOP.inc);
      expect(await client.ask(`z1,${hex(LOOP.inc)},1`)).toBe('OK');

      // Steps
      expect(await client.ask('s')).toBe('T05thread:01;');
      expect(await rip(client)).toBe(LOOP.dec);
      expect(await client.ask('vCont;s:1;c')).toBe('T05thread:01;');
      expect(await rip(client)).toBe(LOOP.jnz);

      // Data
      expect(await client.ask(`Z2,${hex(DATA + 2)},2`)).toBe('OK');
      expect(await client.ask(`Z4,${hex(DATA)},1`)).toBe('OK');
      expect(await client.ask('c')).toMatch(/^T05thread:01;(watch:200002|awatch:200000);$/);
      expect(await rip(client)).toBe(LOOP.dec);
      expect(await client.ask(`m${hex(DATA)},4`)).toBe('04000000');
      expect(await client.ask(`z4,${hex(DATA)},1`)).toBe('OK');
      expect(await client.ask(`z2,${hex(DATA + 2)},2`)).toBe('OK');

      // Memory and registers are written: once more round, from 100 on
      expect(await client.ask(`M${hex(DATA)},4:64000000`)).toBe('OK');
      expect(await client.ask(`X${hex(DATA + 4)},2:}\x03a`)).toBe('OK');
      expect(await client.ask(`m${hex(DATA)},6`)).toBe('640000002361');
      expect(await client.ask(`P${hex(REG.RCX)}=${littleEndian(2n)}`)).toBe('OK');
      expect(await client.ask(`Z0,${hex(LOOP.mov)},1`)).toBe('OK');
      expect(await client.ask('c')).toBe('T05thread:01;swbreak:;');
      expect(await client.ask(`m${hex(DATA)},4`)).toBe('65000000');

      expect(await client.ask('D')).toBe('OK');
      expect(await machine.status).toBe(COUNTS_STATUS);
    },
  );

  test.each(['on', 'off'])('steps over a task switch to the first instruction of the task: tdp=%s', async (tdp) => {
    const machine = start(kernel('taskSwitches', GUESTS.taskSwitches), '-S', '-machine', `tdp=${tdp}`);
    const client = await machine.client();
    const [second, third] = [ENTRY + 5, ENTRY + 20];
    const jump = ENTRY + Buffer.from(GUESTS.taskSwitches).indexOf(Buffer.of(0xea, 0, 0, 0, 0, 0x28, 0));
    await client.ask(`Z1,${hex(jump)},1`);
    // Tasks that were left go on behind where they left: with a jump back to their start
    const again = [
      [second + 13, second],
      [third + 1, third],
    ] as const;
    for (const [secondAt, thirdAt] of [[[second], [third]], again, again] as const) {
      expect([await client.ask('c'), await rip(client)]).toEqual(['T05thread:01;', jump]);
      const inc = second + 6;
      const route = [...secondAt, inc, jump + 7, ...thirdAt, jump + 14, third + 1, third, jump + 16];
      for (const place of route) {
        expect(await client.ask('s')).toBe('T05thread:01;');
        const tables = place >= second && place < third ? 0x21_1000 : 0x21_0000;
        expect([await rip(client), Number(await client.register(REG.CR3))]).toEqual([place, tables]);
        // All of the task is there
        expect(await client.monitor('info registers')).toContain('SS =0018 00000000 ffffffff 00cf9300');
      }
    }
  });

  test('hears of the end of the machine that it has let run', async () => {
    const machine = start(kernel('counts', COUNTS), '-S');
    const client = await machine.client();
    expect(await client.ask('c')).toBe(`W${hex(COUNTS_STATUS)}`);
    await client.closing();
    expect(await machine.status).toBe(COUNTS_STATUS);
  });

  test('interrupts a guest that runs, whose console works meanwhile', async () => {
    const machine = start(kernel('echo', GUESTS.echo));
    const client = await machine.client();
    client.send('c');
    client.raw('\x03');
    expect(await client.receive()).toBe('T02thread:01;');
    const at = await rip(client);
    expect(at).toBeGreaterThanOrEqual(ENTRY);
    expect(at).toBeLessThan(ENTRY + GUESTS.echo.length);
    client.send('c');
    machine.type('Q');
    await machine.prints('Q');
    expect(await client.receive()).toBe('Wa3');
    expect(await machine.status).toBe(0xa3);
  });

  test('is waited for although stdin has ended: by a stopped machine, and by one that waits for ever', async () => {
    const stopped = start(kernel('counts', COUNTS), '-S');
    stopped.endInput();
    const first = await stopped.client();
    first.send('k');
    expect(await stopped.status).toBe(0);

    const halted = start(kernel('haltForEver', GUESTS.haltForEver));
    halted.endInput();
    await halted.prints('halted');
    const second = await halted.client();
    expect(Buffer.from(await second.ask('qThreadExtraInfo,1'), 'hex').toString()).toBe('CPU#0 [halted] L1, protected');
    expect(await second.ask('vKill;1')).toBe('OK');
    expect(await halted.status).toBe(0);
  });

  test('that vanishes leaves no breakpoint behind; another one finds the machine where it was', async () => {
    const machine = start(kernel('counts', COUNTS), '-S');
    const first = await machine.client();
    await first.ask(`Z0,${hex(LOOP.dec)},1`);
    await first.ask(`Z2,${hex(DATA)},4`);
    expect(await first.ask('c')).toContain('watch');
    await first.close();
    const second = await machine.client();
    expect(await rip(second)).toBe(LOOP.dec);
    expect(await second.ask('c')).toBe(`W${hex(COUNTS_STATUS)}`);
  });

  test('is the only one', async () => {
    const machine = start(kernel('counts', COUNTS), '-S');
    const first = await machine.client();
    expect(await first.ask('qAttached')).toBe('1');
    const second = await machine.client();
    await second.closing();
    expect(await first.ask('?')).toBe('T05thread:01;');
  });

  test('acknowledges, asks again for what was damaged, repeats what was, and may agree not to', async () => {
    const machine = start(kernel('counts', COUNTS), '-S');
    const client = await machine.client();
    client.raw('$?#00');
    await client.waitFor(/^-/);
    client.raw(packetOf('?'));
    await client.waitFor(/^\+\$T05thread:01;#..$/);
    client.raw('-');
    await client.waitFor(/^\$T05thread:01;#..$/);
    // Sent again for want of an acknowledgement: one answer
    client.raw(`+${packetOf('qC')}${packetOf('qC')}`);
    await client.waitFor(/^\++\$QC01#f5$/);
    client.raw(`+${packetOf('QStartNoAckMode')}`);
    await client.waitFor(/^\+\$OK#9a$/);
    client.raw(`+${packetOf('qC')}$bad#00`);
    await client.waitFor(/^\$QC01#f5$/);
    client.raw(packetOf('qAttached'));
    await client.waitFor(/^\$1#31$/);
  });

  test('gets an error for what cannot be, and nothing for what it made up', async () => {
    const machine = start(kernel('counts', COUNTS), '-S');
    const client = await machine.client();
    const asked: [string, string][] = [
      ['mfff000000,4', 'E0e'], // no RAM there
      ['m0,100000', 'E16'],
      ['mxyz,4', 'E16'],
      ['M1000000,4:00000000', 'E0e'], // behind the 16 MiB
      ['M0,4:00', 'E16'],
      ['pfff', 'E16'],
      ['P10=00', 'E16'],
      [`P1a=${'00'.repeat(10)}`, 'OK'], // ST(2)
      ['P12=10000000', 'OK'], // CS, as it is
      ['P12=08000000', 'E16'],
      ['T05', 'E16'],
      ['T01', 'OK'],
      ['Hg7', 'E16'],
      ['Hg0', 'OK'],
      ['Z0,zz,1', 'E16'],
      ['Z2,1000,0', 'E16'],
      ['Z2,1000,100000', 'E16'],
      ['Z9,1000,1', ''],
      ['vMustReplyEmpty', ''],
      ['qXfer:features:read:other.xml:0,100', 'E00'],
      ['qFancy', ''],
      ['!', ''],
      ['vCont;x', 'E16'],
    ];
    for (const [question, answer] of asked) expect([question, await client.ask(question)]).toEqual([question, answer]);
    expect(await client.ask('D')).toBe('OK');
    expect(await machine.status).toBe(COUNTS_STATUS);
  });

  test('reads every register, each at its place in g, as the target description says', async () => {
    const machine = start(kernel('counts', COUNTS), '-S');
    const client = await machine.client();
    let xml = '';
    for (let more = 'm'; more === 'm'; ) {
      const part = await client.ask(`qXfer:features:read:target.xml:${hex(xml.length)},400`);
      more = part[0]!;
      xml += part.slice(1);
    }
    const registers = [...xml.matchAll(/<reg name="(\w+)" bitsize="(\d+)" type="\w+" regnum="(\d+)"/g)].map(
      ([, name, bits, number]) => ({ name: name!, bytes: Number(bits) / 8, number: Number(number) }),
    );
    registers.sort((a, b) => a.number - b.number);
    expect(registers.map(({ number }) => number)).toEqual(registers.map((_, index) => index));
    const names = registers.map(({ name }) => name);
    for (const name of ['rax', 'r15', 'rip', 'eflags', 'gs', 'st7', 'fop', 'xmm15', 'mxcsr', 'ymm15h'])
      expect(names).toContain(name);
    for (const name of ['fs_base', 'gs_base', 'k_gs_base', 'cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer'])
      expect(names).toContain(name);

    const all = await client.ask('g');
    expect(all.length).toBe(2 * registers.reduce((sum, { bytes }) => sum + bytes, 0));
    let at = 0;
    for (const { name, bytes, number } of registers) {
      const now = all.slice(at, at + 2 * bytes);
      expect([name, await client.ask(`p${hex(number)}`)]).toEqual([name, now]);
      at += 2 * bytes;
    }
    // A value of its own for each that can have one; then all as they were, in one piece
    let written = 0;
    for (const { name, bytes, number } of registers) {
      if (!/^(r..?|st\d|[xy]mm\d+h?|fs_base|gs_base|k_gs_base|cr2)$/.test(name)) continue;
      written += 1;
      const value = littleEndian(0x1122_3344_5566_7700n + BigInt(number), 8)
        .padEnd(2 * bytes, '4')
        .slice(0, 2 * bytes);
      expect([name, await client.ask(`P${hex(number)}=${value}`)]).toEqual([name, 'OK']);
      expect([name, await client.ask(`p${hex(number)}`)]).toEqual([name, value]);
    }
    expect(written).toBe(17 + 8 + 32 + 4);
    expect(await client.ask(`G${all}`)).toBe('OK');
    expect(await client.ask('g')).toBe(all);
    // Flags are kept lazily: ZF and CF as written
    expect(await client.ask(`P${hex(REG.EFLAGS)}=43000000`)).toBe('OK');
    expect(await client.ask(`p${hex(REG.EFLAGS)}`)).toBe('43000000');
  });

  test('may ask the monitor, and see physical memory', async () => {
    const machine = start(kernel('counts', COUNTS), '-S');
    const client = await machine.client();
    const monitor = (command: string) => client.monitor(command);
    expect(await monitor('info registers')).toContain('EIP=00100020');
    expect(await monitor('info status')).toContain('paused, 0 ns');
    expect(await monitor('cont')).toBe('gdb has stopped the machine: let gdb continue it.\n');
    expect(await monitor('nonsense')).toContain('there is no command');
    expect((await monitor('help')).length).toBeGreaterThan(500);
    expect(await client.ask('Qqemu.PhyMemMode:1')).toBe('OK');
    expect(await client.ask('qqemu.PhyMemMode')).toBe('1');
    expect(await client.ask(`m${hex(ENTRY)},5`)).toBe('b905000000');
    expect(await client.ask('qqemu.sstepbits')).toBe('ENABLE=1');
    client.send(`qRcmd,${Buffer.from('quit 5').toString('hex')}`);
    expect(await machine.status).toBe(5);
  });
});

describe('with more than one CPU or level', () => {
  /** The application processor never starts; steps and holds are told apart on it all the same. */
  test('threads are CPUs; a step of one lets the others run, and who has no action stays where it is', async () => {
    const machine = start(kernel('spin', [0x41, 0xeb, 0xfd]), '-S', '-smp', '2'); // L: inc ecx; jmp L
    const client = await machine.client();
    expect(await client.ask('qfThreadInfo')).toBe('m01,02');
    expect(await client.ask('qsThreadInfo')).toBe('l');
    expect(Buffer.from(await client.ask('qThreadExtraInfo,02'), 'hex').toString()).toBe(
      'CPU#1 [wait for SIPI] L1, real',
    );
    expect(await client.ask('vCont;s:1')).toBe('T05thread:01;');
    expect(await client.ask('vCont;s:1;c')).toBe('T05thread:01;');
    expect(await client.register(REG.RCX)).toBe(1n);
    expect(await rip(client)).toBe(ENTRY);
    // CPU 1 cannot make a step; while it is to, CPU 0 runs, or does not
    client.send('vCont;s:2;c');
    await new Promise((resolve) => setTimeout(resolve, 300));
    client.raw('\x03');
    expect(await client.receive()).toBe('T02thread:01;');
    const counted = await client.register(REG.RCX);
    expect(counted).toBeGreaterThan(1n);
    client.send('vCont;s:2');
    await new Promise((resolve) => setTimeout(resolve, 300));
    client.raw('\x03');
    expect(await client.receive()).toBe('T02thread:01;');
    expect(await client.register(REG.RCX)).toBe(counted);
    expect(await client.ask('Hg2')).toBe('OK');
    expect(await rip(client)).toBe(0xfff0);
  });

  test('a step over VMLAUNCH ends in L2, and a breakpoint hits in the level that runs', async () => {
    const path = join(root, 'guests/nested-vmx/nested-vmx.bin');
    const machine = start(path, '-S', '-cpu', 'intel,+vmx', '-m', '64M');
    const client = await machine.client();
    await client.ask('qSupported:swbreak+');
    const image = readFileSync(path);
    const place = image.indexOf(Buffer.of(0x0f, 0x01, 0xc2));
    // One program header: where the file is, where it goes
    const vmlaunch = place - image.readUInt32LE(52 + 4) + image.readUInt32LE(52 + 8);
    expect(await client.ask(`m${hex(vmlaunch)},3`)).toBe('0f01c2');
    await client.ask(`Z0,${hex(vmlaunch)},1`);
    expect(await client.ask('c')).toBe('T05thread:01;swbreak:;');
    expect(await client.ask('vCont;s:1;c')).toBe('T05thread:01;level:L2;');
    const inL2 = await rip(client);
    await client.ask(`z0,${hex(vmlaunch)},1`);
    expect(await client.ask('s')).toMatch(/^T05thread:01;/);
    const next = await rip(client);
    expect(next).not.toBe(inL2);
    await client.ask(`Z1,${hex(inL2)},1`);
    expect(await client.ask('c')).toMatch(/^T05thread:01;level:L2;hwbreak:;$/);
    expect(await rip(client)).toBe(inL2);
    await client.ask('D');
    expect(await machine.status).toBe(1);
    expect(machine.stdout).toContain(readFileSync(join(root, 'guests/nested-vmx/expected.txt'), 'utf8').slice(0, 200));
  });
});

describe('a mistake with -gdb is one sentence and status 2', () => {
  test.each([
    ['tcp:1234', /-gdb tcp:1234: expected tcp::PORT, tcp:HOST:PORT, stdio or none/],
    ['tcp::70000', /-gdb tcp::70000: expected/],
    ['tcp::x', /expected/],
    ['udp::1234', /expected/],
    ['', /expected/],
    ['tcp::1234,telnet', /expected/],
    ['tcp:no such host:1', /-gdb cannot listen at no such host:1: there is no such host\./],
    ['tcp:192.0.2.1:0', /-gdb cannot listen at 192\.0\.2\.1:0: this host has no such address\./],
  ])('%j', (text, sentence) => {
    const { status, stdout, stderr } = terrarium(['run', '-kernel', kernel('counts', COUNTS), '-gdb', text]);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(sentence);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  });

  test('a port that is in use', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const { status, stderr } = terrarium(['run', '-kernel', kernel('counts', COUNTS), '-gdb', `tcp::${port}`]);
    server.close();
    expect(status).toBe(2);
    expect(stderr).toBe(`terrarium: -gdb cannot listen at 127.0.0.1:${port}: the port is in use.\n`);
  });

  test.each(['-monitor', '-serial', '-debugcon'])('stdio for two: -gdb and %s', (option) => {
    const { status, stderr } = terrarium(['run', '-kernel', 'k', '-gdb', 'stdio', option, 'stdio']);
    expect(status).toBe(2);
    expect(stderr).toMatch(/-gdb stdio and -\w+ stdio both want .*: give one of them something else\.\n$/);
  });
});

const gdb = spawnSync('gdb', ['--version'], { encoding: 'utf8' });

describe.skipIf(gdb.error !== undefined || !gdb.stdout.includes('GNU gdb'))('gdb itself', () => {
  function session(target: string, ...commands: string[]): string {
    const all = ['set confirm off', `target remote ${target}`, ...commands].flatMap((command) => ['-ex', command]);
    const { stdout, stderr } = spawnSync('gdb', ['-nx', '-batch', ...all], { encoding: 'utf8', timeout: 120_000 });
    return stdout + stderr;
  }
  const demo = join(root, 'guests/demo/demo.bin');

  test('debugs a guest over a port: breakpoints, conditions, steps, watchpoints, registers by name, the monitor', async () => {
    const machine = start(demo, '-S', '-accel', 'compiler,threshold=2', '-m', '64M');
    const port = await machine.port();
    // In lib/long-mode.S: the loop that fills the IDT, whose counter is RCX
    const seen = session(
      `127.0.0.1:${port}`,
      'break *0x1000bc if $rcx == 200',
      'continue',
      'printf "rcx is %ld\\n", $rcx',
      'delete',
      'stepi',
      'printf "rip is %#lx\\n", $rip',
      'watch *(short *) 0x109800',
      'continue',
      'printf "rdi is %#lx\\n", $rdi',
      'delete',
      'hbreak *0x101400',
      'continue',
      'printf "cr0 %#lx efer %#lx cs %#x\\n", $cr0, $efer, $cs',
      'print $efer',
      'info threads',
      'set $rdx = 0x123456789a',
      'printf "rdx is %#lx\\n", $rdx',
      'monitor info status',
      'detach',
    );
    expect(seen).toContain('rcx is 200');
    expect(seen).toContain('rip is 0x1000bf');
    expect(seen).toMatch(/Hardware watchpoint \d: \*\(short \*\) 0x109800\s+Old value = 0/);
    expect(seen).toContain('rdi is 0x109800');
    expect(seen).toMatch(/cr0 0x800000\w\w efer 0x\w+ cs 0x8/);
    expect(seen).toMatch(/= \[ (SCE )?LME LMA( NXE)? \]/);
    expect(seen).toContain('CPU#0 [running] L1, 64-bit');
    expect(seen).toContain('rdx is 0x123456789a');
    expect(seen).toContain('VM status: paused');
    expect(await machine.status).toBe(1);
    expect(machine.stdout).toContain('all results are right');
  });

  test('debugs a guest over stdin and stdout', () => {
    const command = `${process.execPath} ${join(root, 'bin/terrarium.mjs')} run -gdb stdio -S -kernel ${demo}`;
    const seen = session(`| ${command} ${EXIT_DEVICE.join(' ')}`, 'break *0x101400', 'continue', 'p $rip', 'continue');
    expect(seen).toContain('0x101400');
    expect(seen).toContain('[Inferior 1 (Remote target) exited with code 01]');
  });
});
