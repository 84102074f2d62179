/**
 * Finds files of unpacked Debian packages, and for a program or library the libraries that it needs.
 *
 * Source  System V ABI "Dynamic Section" (DT_NEEDED), "Program Interpreter"; ld.so(8) for where libraries are looked for.
 */
import { lstatSync, readFileSync, readlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { UserError } from './user-error.mjs';

const LIBRARY_FOLDERS = ['usr/lib/x86_64-linux-gnu', 'lib/x86_64-linux-gnu', 'usr/lib', 'lib', 'lib64', 'usr/lib64'];
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1n;
const DT_STRTAB = 5n;

/**
 * @param takes    Paths in the packages, such as /usr/bin/qemu-system-x86_64.
 * @param folders  Where the packages are unpacked.
 * @returns        `{ host, guest }` of each file and of all the libraries below it.
 */
export function takeFiles(takes, folders) {
  const found = new Map();
  const add = (guest, host) => {
    if (found.has(guest)) return;
    found.set(guest, { host, guest });
    const { interpreter, needed } = dependencies(readFileSync(host));
    if (interpreter) add(interpreter, requireFile(interpreter, folders, guest));
    for (const name of needed) {
      const folder = LIBRARY_FOLDERS.find((candidate) => find(join(candidate, name), folders));
      if (!folder) throw new UserError(`no package has the library ${name}, which ${guest} needs`);
      add(`/usr/lib/x86_64-linux-gnu/${name}`, find(join(folder, name), folders));
    }
  };
  for (const take of takes) add(take, requireFile(take, folders, 'you'));
  return [...found.values()];
}

function requireFile(path, folders, wantedBy) {
  const host = find(path, folders);
  if (!host) throw new UserError(`no package has ${path} (wanted by ${wantedBy})`);
  return host;
}

/** A file of any package, through links that may lead into another package. */
function find(path, folders, depth = 0) {
  const relative = path.replace(/^\//, '');
  for (const folder of folders) {
    const host = join(folder, relative);
    const stat = lstatSync(host, { throwIfNoEntry: false });
    if (!stat) continue;
    if (!stat.isSymbolicLink()) return stat.isFile() ? host : undefined;
    if (depth === 8) return undefined;
    const target = readlinkSync(host);
    return find(target.startsWith('/') ? target : join(dirname(relative), target), folders, depth + 1);
  }
  return undefined;
}

/** What an ELF64 file asks the dynamic linker for; nothing for another file. */
export function dependencies(bytes) {
  const nothing = { interpreter: undefined, needed: [] };
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2) return nothing;
  const text = (at) => bytes.toString('latin1', at, bytes.indexOf(0, at));
  const headers = Array.from({ length: bytes.readUInt16LE(56) }, (_, i) => {
    const at = Number(bytes.readBigUInt64LE(32)) + i * bytes.readUInt16LE(54);
    const word = (offset) => Number(bytes.readBigUInt64LE(at + offset));
    return { type: bytes.readUInt32LE(at), offset: word(8), address: word(16), size: word(32) };
  });
  const dynamic = headers.find(({ type }) => type === PT_DYNAMIC);
  if (!dynamic) return nothing;
  const entries = Array.from({ length: dynamic.size / 16 }, (_, i) => ({
    tag: bytes.readBigUInt64LE(dynamic.offset + i * 16),
    value: Number(bytes.readBigUInt64LE(dynamic.offset + i * 16 + 8)),
  }));
  const table = entries.find(({ tag }) => tag === DT_STRTAB).value;
  const home = headers.find(
    ({ type, address, size }) => type === PT_LOAD && table >= address && table < address + size,
  );
  const interp = headers.find(({ type }) => type === PT_INTERP);
  return {
    interpreter: interp && text(interp.offset),
    needed: entries
      .filter(({ tag }) => tag === DT_NEEDED)
      .map(({ value }) => text(table - home.address + home.offset + value)),
  };
}
