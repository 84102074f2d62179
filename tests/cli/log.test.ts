import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { EXIT } from '../../src/engine/core/exits.ts';
import { AT, L1Machine } from '../nested/l1-machine.ts';
import { guestFolder, root, terrarium } from './run.ts';

const { folder, path } = guestFolder();
afterAll(() => rmSync(folder, { recursive: true }));

const suite = join(root, 'guests/privileged-64/privileged-64.bin');
const hypervisor = ['-kernel', join(root, 'guests/nested-vmx/nested-vmx.bin'), '-append', 'trips=5'];
const how = ['-nographic', '-no-reboot', '-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4', '-rtc', 'base=2026-01-31'];

/** What is logged of a run, on stderr or in a file, and what the run printed. */
function logged(items: string, guest: readonly string[], inFile = false): { log: string; stdout: string } {
  const file = join(folder, 'log');
  const { status, stdout, stderr } = terrarium(['run', ...guest, ...how, '-d', items, ...(inFile ? ['-D', file] : [])]);
  expect(status).toBeOneOf([1, 4, 43]);
  if (!inFile) return { log: stderr, stdout };
  expect(stderr).toBe('');
  return { log: readFileSync(file, 'utf8'), stdout };
}

describe('-d', () => {
  test('int tells each exception with where it was and its error code, before CR2 and RSP change', () => {
    const { log } = logged('int', ['-kernel', suite], true);
    const lines = log.split('\n').filter((line) => / v=/.test(line));
    expect(lines[0]).toMatch(
      /^ {5}0: v=0e e=0000 i=0 cpl=0 IP=0008:([\da-f]{16}) pc=\1 SP=0010:[\da-f]{16} CR2=0000008000000008$/,
    );
    expect(lines.some((line) => / v=0e e=0005 i=0 cpl=3 IP=/.test(line))).toBe(true);
    expect(lines.some((line) => / v=[\da-f]{2} e=0000 i=1 /.test(line))).toBe(true);
    expect(log).toMatch(/^CPU#0 L1, 64-bit mode, running/m);
  });

  test('vmexit, nested and mmu have the names of KVM, and the guest’s time', () => {
    const { log } = logged('vmexit,nested,mmu', hypervisor, true);
    const time = '\\[000\\] \\d+\\.\\d{9}:';
    const address = '0x[\\da-f]{16}';
    for (const text of [
      `kvm_exit: vcpu 0 reason IO_INSTRUCTION rip ${address} info1 ${address} info2 0x[\\da-f]{8} L1`,
      `kvm_exit: vcpu 0 reason VMLAUNCH rip ${address} info1 ${address} info2 0x[\\da-f]{8} L1`,
      `kvm_exit: vcpu 0 reason CPUID rip ${address} info1 ${address} info2 0x[\\da-f]{8} L2`,
      `kvm_nested_vmenter: vcpu 0 vmcs ${address} nested_rip ${address} event_inject 0x00000000 nested_eptp ${address}`,
      `kvm_nested_vmexit_inject: vcpu 0 reason VMCALL rip ${address} info1 ${address} info2 0x00000000 intr_info 0x00000000`,
      `kvm_page_fault: vcpu 0 rip ${address} address ${address} error_code 0x[\\da-f]+ L2 retry`,
    ])
      expect(log).toMatch(new RegExp(`^${time} ${text}$`, 'm'));
  });

  test('in_asm lists code where it begins to run, at its linear address', () => {
    const { log } = logged('in_asm', ['-kernel', path('debugExit')]);
    expect(log).toMatch(
      /^-+\nIN:\n0x00100020: 66 ba f4 00 +mov dx, 0xf4\n0x00100024: b0 15 +mov al, 0x15\n0x00100026: ee +out dx, al\n/,
    );
  });

  test('cpu_reset, guest_errors and unimp tell of a guest that goes wrong', () => {
    expect(logged('cpu_reset', ['-kernel', path('rebootByTripleFault')]).log).not.toContain('CPU Reset'); // -no-reboot
    const { stderr } = terrarium(['run', '-kernel', path('rebootByTripleFault'), '-d', 'cpu_reset,guest_errors,unimp']);
    expect(stderr).toMatch(/^CPU 0: triple fault, L1, at 0x[\da-f]{16}$/m);
    expect(stderr).toMatch(/^CPU Reset \(CPU 0\)\nCPU#0 L1, protected mode/m);
    expect(logged('unimp', ['-kernel', suite]).log).toMatch(/^CPU 0: RDMSR 0x12345678 refused, at 0x[\da-f]{16}$/m);
    expect(logged('guest_errors', ['-kernel', suite]).log).not.toContain('RDMSR');
  });

  test('help lists the items; one that is none, or -D without -d, is a sentence and status 2', () => {
    expect(terrarium(['run', '-d', 'help']).stdout).toMatch(/^Log items.*\n(int|in_asm) /);
    for (const [args, sentence] of [
      [['-d', 'int,exec'], 'terrarium: -d exec: there is no such log. "-d help" lists them.'],
      [['-d', ''], 'terrarium: -d (nothing): there is no such log.'],
      [['-D', 'x'], 'terrarium: -D x says where the log of -d goes: write -d ITEMS, too.'],
      [['-d', 'int', '-D', join(folder, 'no/log')], 'cannot be written: there is no such file.'],
    ] as const) {
      const { status, stdout, stderr } = terrarium(['run', '-kernel', path('debugExit'), ...args]);
      expect([status, stdout]).toEqual([2, '']);
      expect(stderr).toContain(sentence);
      expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    }
  });

  test('says the same on every accelerator and in every run, and the guest does not notice it', () => {
    const items = 'int,cpu_reset,guest_errors,unimp,vmexit,mmu,nested';
    const [first, ...others] = ['compiler', 'compiler,threshold=1', 'interpreter'].map((accel) =>
      logged(items, [...hypervisor, '-accel', accel], true),
    );
    for (const other of others) expect(other).toEqual(first);
    expect(terrarium(['run', ...hypervisor, ...how]).stdout).toBe(first!.stdout);
  });
});

test('a VM entry that is refused is told with the sentence that refuses it', () => {
  const m = new L1Machine();
  m.restartInVmx();
  const told: string[] = [];
  m.vm.log = { entryRefused: (vcpu, { name, section }) => told.push(`${vcpu.index} ${name} ${section}`) };
  m.run([0x0f, 0x01, 0xc2]); // vmlaunch of an empty VMCS
  expect(m.vcpu.exits[EXIT.VMLAUNCH]).toBe(1);
  expect(told).toHaveLength(1);
  expect(told[0]).toMatch(/^0 .*reserved.* 26\.2\.1/);
  expect(AT.VMCS).toBe(m.nested.v.address);
});
