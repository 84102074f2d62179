/** What the benchmarks share: the Debian guest, tables, the host's name. */
import { existsSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { UserError } from '../../scripts/debian/user-error.mjs';
import { checkout } from './machines.mjs';

const cache = process.env.TERRARIUM_CACHE ?? join(checkout, '.cache');

/** What init prints when the modules are in. */
export const READY = 'TERRARIUM-INIT-READY';

export const DEBIAN = {
  kernel: join(cache, 'debian/cloud/vmlinuz'),
  initrd: join(cache, 'debian/cloud/initramfs.cpio'),
  append: 'console=ttyS0',
  ramMiB: 512,
  mark: READY,
  last: READY,
};

export function requireDebianKernel() {
  for (const file of [DEBIAN.kernel, DEBIAN.initrd]) {
    if (!existsSync(file)) throw new UserError(`no ${file}: run node scripts/fetch-debian-kernel.mjs`);
  }
}

export function table(head, rows) {
  const all = [head, ...rows.map((row) => row.map(String))];
  const widths = head.map((_, i) => Math.max(...all.map((row) => row[i].length)));
  const text = (row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ');
  return all.map(text).join('\n');
}

/** Which computer this is: figures of another one are no baseline for it. */
export function hostName() {
  const [first] = cpus();
  const info = readFileSync('/proc/cpuinfo', 'utf8');
  const field = (name) => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(info)?.[1];
  const family = `family ${field('cpu family')} model ${field('model')}`;
  return `${first.model} (${family}), ${cpus().length} CPUs, Node ${process.versions.node}`;
}
