/** Debian as L1, and what scenarios do there. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import type { MachineOptions } from '../../../src/machine/machine.ts';
import { debian, Shell } from '../../boot/debian.ts';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const CACHE = join(ROOT, '.cache/debian');
export const VMM = join(ROOT, 'guests/small-vmm/small-vmm.bin');
const COMMAND_LINE = 'console=ttyS0,115200 cryptomgr.notests quiet';

/** What L1 or L2 prints when something under it is wrong. */
export const COMPLAINTS =
  /WARNING: CPU|BUG:|\bOops|Call Trace|unchecked MSR|soft lockup|rcu.*stall|kvm.*(unhandled|error|failed)/i;

/** With TERRARIUM_ACCEL=compiler the scenarios run on the compiler. */
const ACCEL = process.env['TERRARIUM_ACCEL'] === 'compiler' ? 'compiler' : 'interpreter';

export interface Image {
  readonly flavour?: 'cloud' | 'generic';
  /** Modules loaded at boot; kvm-intel if nothing is said. */
  readonly modules?: readonly string[];
  /** Host's file and where it goes. */
  readonly files?: readonly (readonly [string, string])[];
  /** Packages, and the files of them that are wanted; programs bring their libraries. */
  readonly packages?: readonly string[];
  readonly takes?: readonly string[];
}

/** Kernel and initial file system of an L2, for `Image.files`. */
export function l2Files(flavour: 'cloud' | 'generic' | '686' | '686-pae', folder = '/l2'): [string, string][] {
  debian(flavour, 'l2-inner', ['--bare']);
  return [
    [join(CACHE, flavour, 'vmlinuz'), `${folder}/vmlinuz`],
    [join(CACHE, flavour, 'l2-inner.cpio'), `${folder}/initramfs.cpio`],
  ];
}

/** An initial file system with small-vmm in it, made anew when anything in it changes. */
export function image({ flavour = 'cloud', modules = ['kvm-intel'], files = [], packages = [], takes = [] }: Image) {
  const flags = [
    '--bare',
    ...modules.flatMap((name) => ['--module', name]),
    ...[[VMM, '/vmm'] as const, ...files].flatMap(([host, guest]) => ['--add', `${host}:${guest}`]),
    ...packages.flatMap((name) => ['--package', name]),
    ...takes.flatMap((path) => ['--take', path]),
  ];
  const hash = createHash('sha256').update(readFileSync(VMM)).update(flags.join()).digest('hex').slice(0, 8);
  return { ...debian(flavour, `scenario-${hash}`, flags), path: join(CACHE, flavour, `scenario-${hash}.cpio`) };
}

/** A machine with Debian in it. `say` gets what is worth knowing of a step, with what it cost. */
export class L1 {
  readonly shell: Shell;
  readonly #say: (line: string) => void;
  #before = { ns: 0, instructions: 0, cpu: process.cpuUsage(), wall: performance.now() };

  constructor(
    say: (line: string) => void,
    options: Partial<MachineOptions>,
    kernel: Uint8Array,
    initramfs: Uint8Array,
    commandLine = COMMAND_LINE,
  ) {
    this.#say = say;
    this.shell = new Shell(
      { ramBytes: 1024 << 20, kernel: { name: 'vmlinuz', bytes: kernel }, commandLine, accel: ACCEL, ...options },
      initramfs,
    );
  }

  /** Booted, with kvm_intel loaded, at its shell. */
  static boot(say: (line: string) => void, from: Image = {}, options: Partial<MachineOptions> = {}): L1 {
    const { kernel, initramfs } = image({ files: l2Files('cloud'), ...from });
    const l1 = new L1(say, options, kernel, initramfs);
    l1.shell.waitFor('TERRARIUM-INIT-READY');
    l1.shell.waitFor('~ #');
    l1.run('chmod +x /vmm');
    l1.cost('L1 at its shell');
    return l1;
  }

  /** Virtual time, instructions of all vCPUs, host's CPU and wall time since the last call. */
  cost(what: string): void {
    const { machine } = this.shell;
    const instructions = machine.vcpus.reduce((sum, vcpu) => sum + vcpu.core.instructions, 0);
    const now = { ns: machine.nowNs, instructions, cpu: process.cpuUsage(), wall: performance.now() };
    const old = this.#before;
    const cpu = (now.cpu.user + now.cpu.system - old.cpu.user - old.cpu.system) / 1e6;
    this.#say(
      `${what}: ${((now.ns - old.ns) / 1e9).toFixed(2)} s virtual, ` +
        `${((instructions - old.instructions) / 1e6).toFixed(0)} M instructions, ` +
        `${cpu.toFixed(1)} s CPU, ${((now.wall - old.wall) / 1000).toFixed(1)} s wall`,
    );
    this.#before = now;
  }

  /** Runs a command that must succeed, and gives what it printed. */
  run(command: string, seconds = 120): string {
    // What the shell echoes may be wrapped: the output begins behind a line of its own
    const printed = this.shell.command(`echo "=="; ${command}`, seconds);
    expect(printed, command).toMatch(/\n<0>$/);
    return printed.slice(printed.indexOf('\n==\n') + 4, printed.lastIndexOf('<'));
  }

  expectQuiet(): void {
    expect(this.shell.command('dmesg')).not.toMatch(COMPLAINTS);
  }

  /** Two of the parameters are variables of kvm, which stays loaded: they keep what they were given last. */
  loadKvm(parameters: string): void {
    this.run(`rmmod kvm_intel && modprobe kvm_intel enable_apicv=1 allow_smaller_maxphyaddr=0 ${parameters}`);
  }

  /** Boots an L2 by small-vmm and stays in its shell. */
  startL2(
    options = '--mem 256',
    {
      folder = '/l2',
      append = COMMAND_LINE,
      seconds = 120,
    }: { folder?: string; append?: string; seconds?: number } = {},
  ): void {
    const files = `--kernel ${folder}/vmlinuz --initrd ${folder}/initramfs.cpio`;
    this.shell.type(`/vmm run ${files} ${options} --append "${append}"`);
    const boot = this.shell.waitFor('TERRARIUM-INIT-READY', seconds) + this.shell.waitFor('~ #');
    expect(boot).not.toMatch(COMPLAINTS);
  }

  /** In L2's shell: it has its CPUs, its clock runs, timers come and it forks. */
  exerciseL2(cpus = 1): void {
    expect(this.run('nproc')).toBe(`${cpus}\n`);
    expect(this.run('grep -c hypervisor /proc/cpuinfo')).toBe(`${cpus}\n`);
    const uptimes = this.run('cat /proc/uptime; sleep 1; cat /proc/uptime').split('\n');
    const [from, to] = uptimes.map((line) => Math.round(100 * Number.parseFloat(line)));
    expect(to! - from!).toBeGreaterThanOrEqual(100);
    expect(to! - from!).toBeLessThan(300);
    expect(this.run('i=0; while [ $i -lt 20 ]; do /bin/true; i=$((i+1)); done; echo forked $i')).toBe('forked 20\n');
    this.expectQuiet();
  }

  /** L2 switches itself off; back in L1's shell. */
  endL2(): string {
    this.shell.type('poweroff -f');
    const last = this.shell.waitFor('small-vmm: power-off');
    this.shell.waitFor('~ #');
    this.expectQuiet();
    return last;
  }

  powerOff(): void {
    this.shell.type('poweroff');
    this.shell.end();
    expect(this.shell.machine.ending).toMatchObject({ kind: 'power-off', status: 0 });
  }
}
