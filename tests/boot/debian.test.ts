/**
 * Debian's unmodified cloud kernel boots to a shell, does real work there, and powers off.
 */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { debian, missing, Shell } from './debian.ts';

const COMMAND_LINE = 'console=ttyS0,115200 cryptomgr.notests';

/** What would be a mistake of ours. Lines that real processors of that model cause too are left out. */
const complaints = (log: string): string[] =>
  log
    .split('\n')
    .filter((line) =>
      /WARNING: CPU|BUG:|Oops|Call Trace|Firmware Bug|unchecked MSR|XSAVE consistency|soft lockup/.test(line),
    );

const disk = (bytes: Uint8Array) => ({
  sizeBytes: bytes.length,
  readOnly: false,
  read: (offset: number, into: Uint8Array) => into.set(bytes.subarray(offset, offset + into.length)),
  write: (offset: number, from: Uint8Array) => bytes.set(from, offset),
  flush: () => {},
});

describe.skipIf(missing())('Debian', () => {
  for (const [cpu, cpus, tdp] of [
    ['intel', 1, true],
    ['amd', 2, true],
    ['intel', 1, false],
  ] as const) {
    test(`boots with -cpu ${cpu} -smp ${cpus}${tdp ? '' : ' -machine tdp=off'}, works and powers off`, () => {
      const { kernel, initramfs } = debian('cloud', 'initramfs');
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
      expect(complaints(shell.output)).toEqual([]);
      expect(shell.command('nproc')).toContain(`\n${cpus}\n`);
      expect(shell.command('echo one two three | tr a-z A-Z | cut -d " " -f 2')).toContain('\nTWO\n');
      expect(shell.command('echo "1.1 3.3" | awk \'{ printf "%.15f %.6e\\n", $1 * $2, $1 / 3 }\'')).toContain(
        '3.630000000000000 3.666667e-01',
      );
      expect(shell.command('modprobe virtio_pci && modprobe virtio_blk')).toContain('<0>');
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
      expect(shell.command('dmesg')).not.toMatch(/Call Trace/);
      shell.type('poweroff');
      shell.end();
      expect(shell.machine.ending).toMatchObject({ kind: 'power-off', status: 0 });
    });
  }

  test('runs twice the same way, to the last instruction and the last byte', () => {
    const { kernel, initramfs } = debian('cloud', 'initramfs');
    const run = () => {
      const shell = new Shell(
        { cpus: 2, kernel: { name: 'vmlinuz', bytes: kernel }, commandLine: COMMAND_LINE },
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
