/**
 * Finds kernel modules in an unpacked Debian kernel package, with what they depend on.
 *
 * The package has no modules.dep: depmod writes that when the package is installed, which we never do. But each
 * module names its dependencies itself, in its .modinfo section ("depends=kvm,irqbypass"), and a plain search
 * for that string is enough.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { UserError } from './user-error.mjs';

/** `kvm-intel`, `kvm_intel` and `kvm-intel.ko` are one module: the kernel itself makes no difference. */
export const canonical = (name) => basename(name).replace(/\.ko$/, '').replaceAll('-', '_');

export class Modules {
  #files = new Map();
  #builtin = new Set();

  /** @param root  The package's `lib/modules/<version>` folder. */
  constructor(root) {
    this.root = root;
    for (const file of walk(join(root, 'kernel'))) {
      if (file.endsWith('.ko')) this.#files.set(canonical(file), file);
    }
    for (const line of readFileSync(join(root, 'modules.builtin'), 'utf8').split('\n')) {
      if (line) this.#builtin.add(canonical(line));
    }
  }

  /**
   * The files to load for `names`, dependencies first, each once.
   *
   * @param names     Module names; `virtio*` stands for all that match. Built-in ones need no file.
   * @param optional  Names that may be missing in this flavour without an error.
   */
  closure(names, optional = []) {
    const order = [];
    const seen = new Set();
    const visit = (name, wantedBy) => {
      if (seen.has(name)) return;
      seen.add(name);
      const file = this.#files.get(name);
      if (!file) {
        if (this.#builtin.has(name)) return;
        throw new UserError(
          `no module ${name} (wanted by ${wantedBy}) in ${this.root}: look there for its name, or leave it out`,
        );
      }
      const depends = dependencies(file);
      for (const other of depends) visit(other, name);
      order.push({ name, file, path: relative(this.root, file), depends });
    };
    for (const wanted of [...names, ...optional.filter((name) => this.#has(name))]) {
      for (const name of this.#matching(wanted)) visit(name, 'you');
    }
    return order;
  }

  #has(name) {
    return this.#files.has(canonical(name)) || this.#builtin.has(canonical(name));
  }

  #matching(wanted) {
    if (!wanted.includes('*')) return [canonical(wanted)];
    const pattern = new RegExp(`^${canonical(wanted).replaceAll('*', '.*')}$`);
    return [...this.#files.keys()].filter((name) => pattern.test(name)).sort();
  }
}

function* walk(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else yield path;
  }
}

export function dependencies(file) {
  const bytes = readFileSync(file);
  const at = bytes.indexOf('\0depends=');
  if (at < 0) return [];
  const start = at + '\0depends='.length;
  const list = bytes.toString('latin1', start, bytes.indexOf(0, start));
  return list.split(',').filter(Boolean).map(canonical);
}

/**
 * The module without its appended signature. Loading an unsigned one taints the kernel and spares it a hash and
 * an RSA check, which is more than half of the work of loading kvm.
 *
 * Source  Linux, include/linux/module_signature.h: the file ends in the signature, `struct module_signature` of
 *         12 bytes whose last 4 are the signature's length (big-endian), and the magic string.
 */
export function withoutSignature(bytes) {
  const magic = Buffer.from('~Module signature appended~\n');
  if (!bytes.subarray(-magic.length).equals(magic)) return bytes;
  const descriptorEnd = bytes.length - magic.length;
  return bytes.subarray(0, descriptorEnd - 12 - bytes.readUInt32BE(descriptorEnd - 4));
}
