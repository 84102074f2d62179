/**
 * Writes a cpio archive in the "newc" format, which Linux unpacks as its initial file system.
 *
 * Owns    the 110-byte headers, the padding to 4 bytes, inode numbers and link counts.
 * Never   reads the host's clock, owner or inode numbers: equal contents make an equal archive. Device nodes and
 *         root's files need no privilege, because nothing is created on the host.
 *
 * Source  Linux, Documentation/driver-api/early-userspace/buffer-format.rst "initramfs buffer format".
 */

const TYPE = { directory: 0o040000, file: 0o100000, link: 0o120000, character: 0o020000 };

export class CpioArchive {
  #parts = [];
  #inode = 0;
  #known = new Set();

  /** Adds the directory and, before it, those of its parents that are not there yet. */
  directory(path, mode = 0o755) {
    const name = clean(path);
    if (name === '' || this.#known.has(name)) return;
    this.#parents(name);
    this.#entry(name, TYPE.directory | mode, { links: 2 });
  }

  file(path, content, mode = 0o644) {
    const name = clean(path);
    this.#parents(name);
    this.#entry(name, TYPE.file | mode, { data: typeof content === 'string' ? Buffer.from(content) : content });
  }

  link(path, target) {
    const name = clean(path);
    this.#parents(name);
    this.#entry(name, TYPE.link | 0o777, { data: Buffer.from(target) });
  }

  characterDevice(path, major, minor, mode = 0o600) {
    const name = clean(path);
    this.#parents(name);
    this.#entry(name, TYPE.character | mode, { major, minor });
  }

  /** The archive with its trailer, padded to 512 bytes so that another archive may follow. */
  bytes() {
    const trailer = record('TRAILER!!!', 0, 0, { links: 1 });
    const body = Buffer.concat([...this.#parts, trailer]);
    return Buffer.concat([body, Buffer.alloc((512 - (body.length % 512)) % 512)]);
  }

  #parents(name) {
    const parent = name.slice(0, Math.max(0, name.lastIndexOf('/')));
    if (parent !== '') this.directory(parent);
  }

  #entry(name, mode, rest) {
    if (this.#known.has(name)) throw new Error(`broken invariant: /${name} is added to the archive only once`);
    this.#known.add(name);
    this.#inode += 1;
    this.#parts.push(record(name, this.#inode, mode, rest));
  }
}

const clean = (path) => path.replace(/^\/+|\/+$/g, '');

function record(name, inode, mode, { data = Buffer.alloc(0), links = 1, major = 0, minor = 0 }) {
  //               ino    mode  uid gid nlink  mtime filesize     devmajor devminor rdevmajor rdevminor namesize         check
  const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, major, minor, Buffer.byteLength(name) + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).toUpperCase().padStart(8, '0')).join('')}`;
  return Buffer.concat([padded(Buffer.from(`${header}${name}\0`)), padded(data)]);
}

const padded = (bytes) => Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
