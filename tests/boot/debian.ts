import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Machine, type MachineOptions } from '../../src/machine/machine.ts';

const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../..');
/** scripts/ has no types. */
const packages: {
  bring(name: string, cache: string, options: { refresh: boolean; say: (line: string) => void }): { folder: string };
} = await import(pathToFileURL(join(ROOT, 'scripts/debian/packages.mjs')).href);

/** Why Debian's kernel cannot be fetched here, or undefined. */
export const missing = (): string | undefined =>
  spawnSync('apt-get', ['--version']).error || spawnSync('dpkg-deb', ['--version']).error
    ? 'Debian packages can only be fetched on a Debian-like system'
    : undefined;

/** Kernel and initramfs of a flavour, fetched if they are not there. */
export function debian(flavour: 'cloud' | 'generic' | '686' | '686-pae', name: string, flags: readonly string[] = []) {
  const folder = join(ROOT, '.cache/debian', flavour);
  const kernel = join(folder, 'vmlinuz');
  const initramfs = join(folder, `${name}.cpio`);
  if (!existsSync(kernel) || !existsSync(initramfs)) {
    const script = join(ROOT, 'scripts/fetch-debian-kernel.mjs');
    const fetch = () =>
      spawnSync('node', [script, '--flavour', flavour, '--name', name, ...flags], { stdio: 'inherit' });
    let made = fetch();
    if (made.status !== 0) {
      // A machine that is new has no list of packages yet
      spawnSync('apt-get', ['update'], { stdio: 'inherit' });
      made = fetch();
    }
    if (made.status !== 0) throw new Error('scripts/fetch-debian-kernel.mjs failed');
  }
  return { kernel: new Uint8Array(readFileSync(kernel)), initramfs: new Uint8Array(readFileSync(initramfs)) };
}

/** A file of a Debian package, fetched if it is not there. */
export function packageFile(name: string, path: string): string {
  const { folder } = packages.bring(name, join(ROOT, '.cache/debian'), { refresh: false, say: console.log });
  return join(folder, path);
}

/** A machine with a shell on COM1: types lines, waits for text. Virtual time jumps while the guest idles. */
export class Shell {
  readonly machine: Machine;
  output = '';
  #read = 0;
  readonly #decoder = new TextDecoder();

  constructor(
    options: Partial<MachineOptions> & { kernel: { name: string; bytes: Uint8Array } },
    initramfs: Uint8Array,
  ) {
    this.machine = new Machine({
      cpu: 'intel',
      ramBytes: 512 << 20,
      cpus: 1,
      epochMs: 1_700_000_000_000,
      reboot: false,
      modules: [{ bytes: initramfs, commandLine: '' }],
      serial: [
        (byte) => {
          this.output += this.#decoder.decode(Uint8Array.of(byte), { stream: true });
        },
      ],
      ...options,
    });
  }

  /** Runs until `text` has been printed behind what was waited for before. Fails after `seconds` of virtual time. */
  waitFor(text: string, seconds = 60): string {
    const { machine } = this;
    const limit = machine.nowNs + seconds * 1e9;
    for (;;) {
      const at = this.output.indexOf(text, this.#read);
      if (at >= 0) {
        const found = this.output.slice(this.#read, at + text.length);
        this.#read = at + text.length;
        return found;
      }
      const result = machine.run(Math.min(limit, machine.nowNs + 20e6));
      if (result === 'ended' || machine.nowNs >= limit) {
        throw new Error(`no "${text}" (${machine.ending?.message ?? 'time is up'}):\n${this.output.slice(-2000)}`);
      }
      if (result === 'idle') machine.advanceTo(machine.nowNs + 20e6);
    }
  }

  type(line: string): void {
    this.machine.serialInput(0, new TextEncoder().encode(`${line}\r`));
  }

  /** Runs a command and gives what it printed. */
  command(line: string, seconds?: number): string {
    // The line is echoed as typed; only the status itself stands at the start of a line
    this.type(`${line}; echo "<$?>"`);
    let all = this.waitFor('\n<', seconds);
    while (!/\n<\d+>$/.test(all)) all += this.waitFor('>', seconds);
    return all.replaceAll('\r', '');
  }

  /** Runs to the end of the machine. */
  end(seconds = 30): void {
    const limit = this.machine.nowNs + seconds * 1e9;
    while (this.machine.run(this.machine.nowNs + 20e6) !== 'ended') {
      if (this.machine.nowNs >= limit) throw new Error(`the machine did not end:\n${this.output.slice(-1000)}`);
      this.machine.advanceTo(this.machine.nowNs + 20e6);
    }
  }
}
