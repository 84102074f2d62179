/**
 * Debian's unmodified kernels boot to a shell without a complaint, do real work there, and power off.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { debian, missing, Shell } from './debian.ts';

const COMMAND_LINE = 'console=ttyS0,115200 cryptomgr.notests';

/** Lines of the kernel's log that a machine of ours may cause at the level of warnings and worse, and why. */
const EXPECTED_WARNINGS: readonly (readonly [line: RegExp, because: string])[] = [
  [
    /acpi PNP0A03:00: fail to add MMCONFIG information/,
    'a 440FX has no memory-mapped configuration space: on QEMU\'s "pc", Linux says so, too',
  ],
];

/** What Linux tells at a lower level, or prints when it looks at the machine, and a sound machine gives it no reason to. */
const COMPLAINT = new RegExp(
  [
    ...['WARNING', 'BUG:', 'Oops', 'Call Trace', 'Firmware Bug', 'unchecked MSR', 'XSAVE consistency', 'soft lockup'],
    ...['RETBleed: (?!Mitigation)', ': Vulnerable', 'bug detected', 'not present or invalid', 'MTRRs disabled'],
    ...[
      'inconsistent',
      'unstable',
      'nobody cared',
      'timed out',
      'spurious',
      'could not calculate',
      'ACPI (BIOS )?Error',
    ],
    ...['broken', 'disabled, if this is incorrect', 'calibration failed', "doesn't match", 'unexpected', 'mismatch'],
  ].join('|'),
  'i',
);

const lines = (text: string): string[] => text.replaceAll('\r', '').split('\n');
const complaints = (log: string): string[] =>
  lines(log).filter((line) => /^\[ *\d+\.\d+\]/.test(line) && COMPLAINT.test(line));

const disk = (bytes: Uint8Array) => ({
  sizeBytes: bytes.length,
  readOnly: false,
  read: (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length)),
  write: (offset: number, from: Uint8Array) => bytes.set(from, offset),
  flush: () => {},
});

/** The program for the guest and what the host's processor prints with it, or why there is none. */
function longDouble(): { readonly binary: string; readonly expected: string } | string {
  if (process.arch !== 'x64' || process.platform !== 'linux') return 'the host cannot run programs for x86-64 Linux';
  const binary = join(mkdtempSync(join(tmpdir(), 'terrarium-')), 'long-double');
  const source = fileURLToPath(new URL('long-double.c', import.meta.url));
  const built = spawnSync('gcc', ['-static', '-O1', '-o', binary, source, '-lm'], { encoding: 'utf8' });
  if (built.error) return 'there is no gcc';
  if (built.status !== 0) return `gcc cannot link it statically: ${built.stderr.split('\n')[0]}`;
  return { binary, expected: spawnSync(binary, { encoding: 'utf8' }).stdout };
}

function shellFiles(flavour: 'cloud' | 'generic', program: ReturnType<typeof longDouble>) {
  const add = typeof program === 'string' ? [] : ['--add', `${program.binary}:/bin/long-double`];
  const hash = createHash('sha256').update(typeof program === 'string' ? '' : readFileSync(program.binary));
  const name = `shell-${hash.digest('hex').slice(0, 8)}`;
  return debian(flavour, name, ['--bare', '--module', 'virtio_pci', '--module', 'virtio_blk', ...add]);
}

test('a warning that nobody expected would be found', () => {
  const log =
    '[    0.1] RETBleed: Vulnerable\n[    0.2] ACPI: 1 table\n[    0.3] i8042: PNP: PS/2 appears to have AUX port disabled, if this is incorrect';
  expect(complaints(log)).toHaveLength(2);
});

describe.skipIf(missing())('Debian', () => {
  test.each([
    { flavour: 'cloud', cpu: 'intel', cpus: 1, tdp: true },
    { flavour: 'cloud', cpu: 'amd', cpus: 2, tdp: true },
    { flavour: 'cloud', cpu: 'intel', cpus: 1, tdp: false },
    { flavour: 'generic', cpu: 'intel', cpus: 2, tdp: true },
  ] as const)('$flavour kernel, -cpu $cpu -smp $cpus, tdp $tdp: boots, works and powers off', (options) => {
    const { flavour, cpu, cpus, tdp } = options;
    const program = longDouble();
    const { kernel, initramfs } = shellFiles(flavour, program);
    const bytes = new Uint8Array(8 << 20);
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = (i * 2_654_435_761) >>> 24;
    const shell = new Shell(
      {
        cpu,
        cpus,
        tdp,
        kernel: { name: 'vmlinuz', bytes: kernel },
        commandLine: COMMAND_LINE,
        drives: [{ store: disk(bytes) }],
      },
      initramfs,
    );
    shell.waitFor('TERRARIUM-INIT-READY', 60);
    shell.waitFor('~ #');
    expect(shell.command('nproc')).toContain(`\n${cpus}\n`);
    expect(shell.command('cat /sys/class/dmi/id/product_name')).toContain('\nTerrarium PC\n');
    expect(shell.command('grep Vulnerable /sys/devices/system/cpu/vulnerabilities/*')).toMatch(/<1>$/);

    expect(shell.command('echo one two three | tr a-z A-Z | cut -d " " -f 2')).toContain('\nTWO\n');
    expect(shell.command('seq 1 20000 | sort -r | grep 7 | wc -l')).toContain('\n6878\n');
    expect(shell.command('echo "1.1 3.3" | awk \'{ printf "%.15f %.6e\\n", $1 * $2, $1 / 3 }\'')).toContain(
      '3.630000000000000 3.666667e-01',
    );
    if (typeof program === 'string') console.log(`long double is not tried: ${program}`);
    else {
      const [, printed] = shell.command('long-double').split('echo "<$?>"\n');
      expect(printed).toBe(`${program.expected}<0>`);
    }

    expect(shell.command('cd /sys/block/vda/queue; cat discard_max_bytes write_zeroes_max_bytes; cd')).toContain(
      '\n2147483648\n16777216\n',
    );
    const sum = createHash('sha256').update(bytes).digest('hex');
    expect(shell.command('dd if=/dev/vda bs=64k 2>/dev/null | sha256sum')).toContain(sum);
    expect(
      shell.command(
        'echo written | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null; dd if=/dev/vda bs=512 count=1 2>/dev/null | head -c 7; echo',
      ),
    ).toContain('written');
    expect(new TextDecoder().decode(bytes.subarray(0, 7))).toBe('written');
    expect(shell.command('i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done; echo forked $i', 120)).toContain(
      'forked 100',
    );

    shell.command('sleep 3'); // the kernel looks at its clocks once more
    // "<4>" at the start of a line would be a status to `command`
    const log = shell.command('dmesg -r | sed -n "s/^<[0-4]>/warning: /p"');
    const warnings = lines(log).filter((line) => line.startsWith('warning: '));
    expect(warnings.filter((line) => !EXPECTED_WARNINGS.some(([expected]) => expected.test(line)))).toEqual([]);
    expect(complaints(shell.output)).toEqual([]);
    expect(shell.command('cat /sys/devices/system/clocksource/clocksource0/current_clocksource')).toContain('\ntsc\n');
    shell.type('poweroff');
    shell.end();
    expect(shell.machine.ending).toMatchObject({ kind: 'power-off', status: 0 });
  });

  test('runs twice the same way with four CPUs, to the last instruction and the last byte', () => {
    const { kernel, initramfs } = shellFiles('cloud', longDouble());
    const run = () => {
      const shell = new Shell(
        { cpus: 4, kernel: { name: 'vmlinuz', bytes: kernel }, commandLine: COMMAND_LINE },
        initramfs,
      );
      shell.waitFor('TERRARIUM-INIT-READY', 60);
      const { machine } = shell;
      return {
        output: createHash('sha256').update(shell.output).digest('hex'),
        instructions: machine.vcpus.map(({ core }) => core.instructions),
        now: machine.nowNs,
        exits: machine.vcpus.map(({ exits }) => Array.from(exits)),
      };
    };
    expect(run()).toEqual(run());
  });
});
