import { describe, expect, test } from 'vitest';
import { UserError } from '../../base/assert.ts';
import { STATUS_TRIPLE_FAULT } from '../../machine/machine.ts';
import { describeOptions } from './option-table.ts';
import { parseRun, runHelp } from './run.ts';
import { RUN_OPTIONS, runDefaults } from './run-options.ts';
import { STATUS } from './status.ts';

const parse = (line: string) => parseRun(['-kernel', 'k', ...line.split(' ').filter((word) => word !== '')]);

describe('terrarium run takes', () => {
  test('nothing but a kernel: the defaults', () => {
    expect(parse('')).toEqual({ ...runDefaults(), kernel: 'k' });
  });

  test('one dash or two, an argument behind a space or (with two) behind an equals sign', () => {
    for (const line of ['-m 64M', '--m 64M', '--m=64M', '-memory 64M', '--memory=64M', '-m size=64M']) {
      expect(parse(line).ramBytes, line).toBe(64 * 2 ** 20);
    }
  });

  test('RAM in whole pages', () => {
    expect(parse('-m 3.3G').ramBytes % 4096).toBe(0);
  });

  test("the options that kvm-unit-tests' runner gives QEMU", () => {
    const line =
      '-nodefaults -device pc-testdev -device isa-debug-exit,iobase=0xf4,iosize=0x4 -vnc none -serial stdio ' +
      '-machine accel=tcg -smp 2 -cpu max,-vmx -append x';
    expect(parse(line)).toMatchObject({
      noDefaults: true,
      testDevice: true,
      debugExit: { iobase: 0xf4, iosize: 4 },
      serials: [{ kind: 'stdio' }],
      cpus: 2,
      cpu: 'max,-vmx',
      append: 'x',
    });
  });

  test('the accelerator with its properties, as -accel and as -machine accel=', () => {
    expect(parse('-accel compiler,tb-size=64,threshold=10')).toMatchObject({
      accel: 'compiler',
      jitBytes: 64 * 2 ** 20,
      jitThreshold: 10,
    });
    expect(parse('-accel lockstep,from=1000')).toMatchObject({ accel: 'lockstep', lockstepFrom: 1000 });
    expect(parse('-machine accel=compiler').accel).toBe('compiler');
    expect(runDefaults().accel).toBe('compiler');
    expect(parse('-accel tcg,thread=single,tb-size=8')).toMatchObject({ accel: 'compiler', jitBytes: 8 << 20 });
  });

  test('a profile and the symbols of both levels', () => {
    expect(parse('-profile p,every=1000 -symbols a -symbols b,level=L2,offset=0x200000')).toMatchObject({
      profile: { path: 'p', every: 1000 },
      symbols: [
        { path: 'a', level: 'L1', offset: null },
        { path: 'b', level: 'L2', offset: 0x20_0000n },
      ],
    });
  });

  test("isa-debug-exit has QEMU's default ports", () => {
    expect(parse('-device isa-debug-exit').debugExit).toEqual({ iobase: 0x501, iosize: 2 });
  });

  test('drives, in order, with their properties', () => {
    expect(parse('-drive file=a,if=virtio,format=raw,readonly=on,serial=s -drive b').drives).toEqual([
      { path: 'a', readOnly: true, snapshot: false, id: '', serial: 's', plugged: true },
      { path: 'b', readOnly: false, snapshot: false, id: '', serial: '', plugged: true },
    ]);
  });

  test('a drive and its device apart, as scripts for QEMU have them', () => {
    const line = '-drive file=a,if=none,id=hd0,cache=none,aio=native -device virtio-blk-pci,drive=hd0,serial=s';
    expect(parse(line).drives).toEqual([
      { path: 'a', readOnly: false, snapshot: false, id: 'hd0', serial: 's', plugged: true },
    ]);
  });

  test('the words of scripts that ask for what is there anyway', () => {
    const line = '-nographic -vga none -nic none -net none -parallel none -name guest -M pc-i440fx-7.2,accel=kvm:tcg';
    expect(parse(`${line} -smp 2,sockets=1,cores=2,threads=1,maxcpus=2 -snapshot`)).toEqual({
      ...runDefaults(),
      kernel: 'k',
      cpus: 2,
      snapshot: true,
    });
  });

  test('a UUID', () => {
    expect(parse('-uuid 00112233-4455-6677-8899-AABBCCDDEEFF').uuid).toEqual(
      Uint8Array.from({ length: 16 }, (_, at) => at * 0x11),
    );
  });

  test('questions for a list, with no kernel', () => {
    for (const line of ['-device help', '-cpu help', '-machine help', '-version']) {
      expect(parseRun(line.split(' ')).show, line).toMatch(/\n$/);
    }
  });

  test('modules with arguments', () => {
    expect(parseRun(['-kernel', 'k', '-initrd', 'a.bin one two,b.bin']).modules).toEqual([
      { path: 'a.bin', commandLine: 'a.bin one two' },
      { path: 'b.bin', commandLine: 'b.bin' },
    ]);
  });

  test('machine properties, and their older spellings', () => {
    expect(parse('-machine pc,hpet=off,acpi=off,nested-mmu=shared,tdp=off,force=on')).toMatchObject({
      hpet: false,
      acpi: false,
      nestedMmu: 'shared',
      tdp: false,
      force: true,
    });
    expect(parse('-no-hpet -no-acpi -no-reboot')).toMatchObject({ hpet: false, acpi: false, reboot: false });
  });

  test('a date, or the host clock', () => {
    expect(parse('-rtc base=2026-01-31T12:00:01').epochMs).toBe(Date.UTC(2026, 0, 31, 12, 0, 1));
    expect(parse('-rtc base=2026-01-31').epochMs).toBe(Date.UTC(2026, 0, 31));
    expect(parse('-rtc base=utc').epochMs).toBeNull();
    const now = new Date();
    const local = Date.UTC(now.getFullYear(), now.getMonth(), now.getDate(), now.getHours(), now.getMinutes());
    expect(Math.abs(parse('-rtc base=localtime').epochMs! - local)).toBeLessThan(120_000);
  });

  test('the weight of an instruction as a power of two', () => {
    expect(parse('-icount shift=3').nsPerInstruction).toBe(8);
    expect(parse('-icount 0').nsPerInstruction).toBe(1);
  });

  test('the monitor on the terminal, which takes it from COM1', () => {
    expect(parse('-monitor stdio').serials).toEqual([{ kind: 'null' }]);
  });
});

describe('terrarium run refuses', () => {
  test.each([
    ['-frobnicate', /no option -frobnicate. "terrarium run --help" lists them all/],
    ['-m=64M', /-m=64M: write -m 64M, or --m=64M/],
    ['-enable-kvm', /-enable-kvm: this machine runs in software/],
    ['-hda disk.img', /-hda: write -drive file=FILE/],
    ['--kernal x', /no option --kernal. Did you mean -kernel\?/],
    ['--memroy=1G', /Did you mean --memory\?/],
    ['-m', /-m lacks its argument: write -m SIZE/],
    ['-m 0', /-m 0: expected at least 2 MiB of RAM, found 0 B/],
    ['-m 1', /found 1 MiB/],
    ['-m abc', /-m abc: expected a size/],
    ['-m slots=2', /-m: there is no "slots". There is size\./],
    ['-m sise=2M', /-m: there is no "sise". Did you mean size\?/],
    ['-smp 0', /-smp 0: expected a whole number from 1 to/],
    ['-smp 2,cores=1', /expected cores=2, as many as there are CPUs/],
    ['-smp 4,sockets=2', /all CPUs are cores of one package.*leave sockets= out/],
    ['-smp 2,clusters=1', /-smp: there is no "clusters"/],
    ['-uuid 1234', /expected a UUID such as/],
    ['-device floppy', /no such device. Devices are isa-debug-exit,/],
    ['-device virtio-rgn-pci', /no such device. Did you mean virtio-rng-pci\?/],
    ['-device isa-debug-exit,port=1', /there is no "port". There is iobase, iosize and id/],
    ['-device virtio-blk-pci,drive=hd0', /expected a -drive file=FILE,if=none,id=hd0 before it/],
    ['-drive file=a,if=none,id=hd0', /if=none leaves it without a device: add -device virtio-blk-pci,drive=hd0/],
    ['-drive if=virtio', /-drive lacks its file/],
    ['-drive file=a,if=ide', /if ide: expected virtio or none/],
    ['-drive file=a,format=qcow2', /format qcow2: expected raw/],
    ['-drive file=a,readonly=perhaps', /expected on or off/],
    ['-serial tcp:1', /expected stdio, null or file:FILE/],
    ['-serial stdio -serial stdio', /given twice/],
    ['-serial null -serial null -serial null -serial null -serial null', /at most four/],
    ['-monitor stdio -serial stdio', /both want the terminal/],
    ['-machine q35', /-machine q35: there is one machine, pc/],
    ['-machine accel=kvm', /runs in software, on any host: leave it out/],
    ['-accel kvm', /runs in software, on any host: leave it out, or write -accel interpreter, compiler or lockstep/],
    ['-accel compiler,tb-size=0', /-accel tb-size 0: expected a whole number from 1 to/],
    ['-accel compiler,tb-size=big', /-accel tb-size big: expected a whole number/],
    ['-accel lockstep,threshold=0', /-accel threshold 0: expected a whole number/],
    ['-accel compiler,tbsize=1', /-accel: there is no "tbsize". Did you mean tb-size/],
    ['-accel compiler,from=5', /-accel compiler,from=5: this is for -accel lockstep/],
    ['-accel interpreter,tb-size=64', /this is for -accel compiler and lockstep/],
    ['-accel tcg,thread=multi', /thread multi: expected single/],
    ['-profile every=5', /-profile lacks its file/],
    ['-profile f,every=5', /-profile every 5: expected a whole number from 100/],
    ['-symbols f', /write -profile FILE, too/],
    ['-profile p -symbols f,level=L3', /expected L1 or L2/],
    ['-profile p -symbols f -symbols g', /symbols of L1 are given twice/],
    ['-profile p -symbols f,offset=high', /expected a number such as 0x12000000/],
    ['-machine nested-mmu=fast', /expected split, reinit or shared/],
    ['-rtc base=yesterday', /expected utc, localtime or a date/],
    ['-rtc base=2026-13-01', /expected utc, localtime or a date/],
    ['-icount shift=11', /from 0 to 10/],
    ['-fw_cfg name=opt/a', /expected either file=FILE or string=TEXT/],
    ['-initrd ,', /expected a file name/],
    ['-display gtk', /there is no screen, write -display none/],
    ['--nographic=yes', /takes no argument/],
    ['disk.img', /"disk.img" is not an option: write -kernel disk.img/],
  ])('%s', (line, message) => {
    expect(() => parse(line)).toThrow(UserError);
    expect(() => parse(line)).toThrow(message);
  });

  test('to start without a kernel', () => {
    expect(() => parseRun([])).toThrow('no kernel is given: write -kernel FILE.');
  });

  test('in one line, whatever it refuses', () => {
    for (const line of ['-frobnicate', '-m x', '-cpu', '-device nosuch', 'file']) {
      try {
        parse(line);
        expect.unreachable(line);
      } catch (error) {
        expect((error as Error).message).not.toContain('\n');
      }
    }
  });
});

test('a triple fault has one exit status, in the machine and on the command line', () => {
  expect(STATUS.TRIPLE_FAULT).toBe(STATUS_TRIPLE_FAULT);
});

describe('--help', () => {
  test('lists every option with all its spellings', () => {
    const help = runHelp();
    for (const row of RUN_OPTIONS) {
      for (const name of row.names) expect(help).toMatch(new RegExp(`(^|[ -])${name}\\b`, 'm'));
      if (row.default !== '') expect(help.replace(/\s+/g, ' ')).toContain(`Default: ${row.default}.`);
    }
  });

  test('tells defaults that taking them changes nothing', () => {
    for (const row of RUN_OPTIONS) {
      if (row.default === '' || row.argument === null) continue;
      const options = runDefaults();
      row.take(options, row.default);
      if (row.names[0] === 'serial' || row.names[0] === 'debugcon') continue; // lists and the absence of one
      expect(options, row.names[0]).toEqual(runDefaults());
    }
  });

  test('has no spelling twice', () => {
    const names = RUN_OPTIONS.flatMap((row) => [...row.names]);
    expect(new Set(names).size).toBe(names.length);
  });

  test('fits a terminal of 100 columns', () => {
    for (const line of describeOptions(RUN_OPTIONS).split('\n')) expect(line.length).toBeLessThanOrEqual(100);
  });
});
