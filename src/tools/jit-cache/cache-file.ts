/**
 * One file of modules and their native code, by key: an index, and behind it the modules, last used first.
 *
 * Owns    the format, what is checked before anything of it is believed, how many bytes it may have.
 * Knows   nothing of V8, nor of what the bytes are.
 *
 * The file stays open, and a module is read when it is asked for. A new one takes the place of the old under its name, so
 * that each reader has a whole one; who writes takes along what others have written meanwhile.
 */
import {
  close,
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

const MAGIC = 'terrarium jit 1\n';
const DIGEST = 32;
/** Magic, identity, number of rows and a word to spare, digest of the index. */
const HEADER_BYTES = MAGIC.length + DIGEST + 8 + DIGEST;
/** Key, digests of module and code, their lengths, functions, time of last use. */
const ROW_BYTES = 3 * DIGEST + 16;
/** What is copied between two rests. */
const PIECE_BYTES = 512 * 1024;
/** Files of other builds and other Nodes beside this one. */
const OTHERS_MAX = 3;
const SECONDS_OF_DAY = 86_400;
const NAME = /^[\da-f]{32}\.jit$/;
const TEMPORARY = /^[\da-f]{32}\.jit\.\d+$/;

/** SHA-256, as Latin-1 text of 32 characters. */
export type Digest = (bytes: Uint8Array | string) => string;

interface Row {
  readonly key: string;
  readonly wireDigest: string;
  readonly codeDigest: string;
  readonly wireBytes: number;
  readonly codeBytes: number;
  /** How many functions had code when it was taken. */
  readonly functions: number;
  /** Seconds since 1970. */
  used: number;
  /** Where it is: bytes that are in no file yet, or a place in one. */
  data: { readonly wire: Uint8Array; readonly code: Uint8Array } | { readonly file: number; readonly at: number };
}

export interface CacheFileOptions {
  readonly path: string;
  /** Digest of all that must be the same for a file to be of use. */
  readonly identity: string;
  readonly digest: Digest;
  readonly bytesMax: number;
  /** It came with the program: whose it is does not matter. */
  readonly built?: boolean;
  /** Seconds since 1970. */
  readonly now: () => number;
}

const nowhere: ReadonlyMap<string, Row> = new Map();
const sizeOf = ({ wireBytes, codeBytes }: Row): number => wireBytes + codeBytes;

export class CacheFile {
  readonly #options: CacheFileOptions;
  #file = -1;
  #rows = new Map<string, Row>();
  /** Keys of what is of no use: not taken from another's file again. */
  readonly #forgotten = new Set<string>();
  /** Rows that are in no file yet, or whose time of use there is long ago. */
  #news = 0;
  /** It could not be written: it will not be tried again. */
  #failed = false;

  constructor(options: CacheFileOptions) {
    this.#options = options;
    const { file, rows } = this.#open();
    this.#file = file;
    this.#rows = new Map(rows);
  }

  get path(): string {
    return this.#options.path;
  }

  /** Modules with native code. */
  get modules(): number {
    let count = 0;
    for (const { functions } of this.#rows.values()) if (functions > 0) count += 1;
    return count;
  }

  get bytes(): number {
    let bytes = 0;
    for (const row of this.#rows.values()) bytes += sizeOf(row);
    return bytes;
  }

  /** How many changes `write` would write. */
  get news(): number {
    return this.#failed ? 0 : this.#news;
  }

  /** Functions with code under this key; -1: there is nothing. */
  functions(key: string): number {
    return this.#rows.get(key)?.functions ?? -1;
  }

  /** Native code in a buffer of its own; undefined: there is none, or it is damaged. */
  code(key: string): ArrayBuffer | undefined {
    const row = this.#rows.get(key);
    if (!row) return undefined;
    this.#use(row);
    return this.#part(row, 'code');
  }

  /** The module's bytes; undefined: as with `code`. */
  wire(key: string): Uint8Array | undefined {
    const row = this.#rows.get(key);
    if (!row) return undefined;
    this.#use(row);
    const bytes = this.#part(row, 'wire');
    return bytes && new Uint8Array(bytes);
  }

  /** The bytes that the file under the path has now, which another process may have written since: as with `code`. */
  latest(key: string): Uint8Array | undefined {
    const { file, rows } = this.#open();
    const row = rows.get(key);
    const bytes = row && this.#part(row, 'wire');
    if (file >= 0) closeSync(file);
    return bytes && new Uint8Array(bytes);
  }

  #use(row: Row): void {
    const now = this.#options.now();
    if (now - row.used > SECONDS_OF_DAY) this.#news += 1;
    row.used = now;
  }

  put(key: string, wire: Uint8Array, code: Uint8Array, functions: number): void {
    const { digest, now } = this.#options;
    this.#rows.set(key, {
      key,
      wireDigest: digest(wire),
      codeDigest: digest(code),
      wireBytes: wire.length,
      codeBytes: code.length,
      functions,
      used: now(),
      data: { wire, code },
    });
    this.#news += 1;
  }

  /** It is of no use here. */
  forget(key: string): void {
    this.#rows.delete(key);
    this.#forgotten.add(key);
  }

  #part(row: Row, part: 'wire' | 'code'): ArrayBuffer | undefined {
    const { data } = row;
    const length = part === 'wire' ? row.wireBytes : row.codeBytes;
    const bytes = new Uint8Array(length);
    if ('file' in data) {
      if (!readAll(data.file, bytes, data.at + (part === 'wire' ? 0 : row.wireBytes))) return undefined;
    } else bytes.set(data[part]);
    const wanted = part === 'wire' ? row.wireDigest : row.codeDigest;
    return this.#options.digest(bytes) === wanted ? bytes.buffer : undefined;
  }

  /** The file under the path now, if it is one of ours and whole as far as can be seen. */
  #open(): { file: number; rows: ReadonlyMap<string, Row> } {
    const { path, identity, digest, built } = this.#options;
    let file = -1;
    try {
      file = openSync(path, 'r');
      const { uid, mode, size } = fstatSync(file);
      // Native code of someone else's is not run
      const isOurs = built || ((process.getuid === undefined || uid === process.getuid()) && (mode & 0o022) === 0);
      const header = Buffer.alloc(HEADER_BYTES);
      const isWhole = isOurs && readAll(file, header, 0);
      const names = MAGIC + identity;
      if (!isWhole || header.toString('latin1', 0, names.length) !== names) throw new Error('not of this build');
      const count = header.readUInt32LE(names.length);
      if (HEADER_BYTES + count * ROW_BYTES > size) throw new Error('cut off');
      const index = Buffer.alloc(count * ROW_BYTES);
      if (
        !readAll(file, index, HEADER_BYTES) ||
        digest(index) !== header.toString('latin1', names.length + 8, HEADER_BYTES)
      )
        throw new Error('damaged');
      return { file, rows: parseIndex(index, file, size) };
    } catch {
      if (file >= 0) closeSync(file);
      return { file: -1, rows: nowhere };
    }
  }

  /**
   * Writes what is new, and what is in the file already; rests between two pieces, whenever it yields.
   *
   * @returns  false: it cannot be written.
   */
  *write(): Generator<void, boolean> {
    const { path } = this.#options;
    const temporary = `${path}.${process.pid}`;
    let into = -1;
    let theirs = -1;
    try {
      mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      const others = this.#open();
      theirs = others.file;
      this.#news = 0;
      const chosen = this.#choose(others.rows);
      rmSync(temporary, { force: true });
      into = openSync(temporary, 'wx+', this.#options.built ? 0o644 : 0o600);
      writeAll(into, this.#head(chosen));
      const places = new Map<string, Row>();
      let at = HEADER_BYTES + chosen.length * ROW_BYTES;
      let sinceRest = 0;
      for (const row of chosen) {
        const size = sizeOf(row);
        if ('file' in row.data) {
          const bytes = new Uint8Array(size);
          if (!readAll(row.data.file, bytes, row.data.at)) throw new Error('cut off');
          writeAll(into, bytes);
        } else {
          writeAll(into, row.data.wire);
          writeAll(into, row.data.code);
        }
        places.set(row.key, { ...row, data: { file: into, at } });
        at += size;
        sinceRest += size;
        if (sinceRest < PIECE_BYTES) continue;
        sinceRest = 0;
        yield;
      }
      renameSync(temporary, path);
      this.#moveTo(into, places, new Set(chosen));
      into = -1;
      this.#clean();
      return true;
    } catch {
      // Without a cache everything works
      this.#failed = true;
      try {
        if (into >= 0) rmSync(temporary, { force: true });
      } catch {
        // the folder is gone
      }
      return false;
    } finally {
      for (const file of [into, theirs]) if (file >= 0) release(file);
    }
  }

  /** Of ours and theirs the last used, as many as there may be. */
  #choose(theirs: ReadonlyMap<string, Row>): Row[] {
    const all = new Map(this.#rows);
    for (const [key, row] of theirs) {
      if (this.#forgotten.has(key)) continue;
      const own = all.get(key);
      if (!own || own.functions < row.functions) all.set(key, { ...row, used: Math.max(row.used, own?.used ?? 0) });
      else own.used = Math.max(row.used, own.used);
    }
    const chosen: Row[] = [];
    let bytes = HEADER_BYTES;
    for (const row of [...all.values()].sort((a, b) => b.used - a.used)) {
      const size = ROW_BYTES + sizeOf(row);
      if (bytes + size > this.#options.bytesMax) continue;
      bytes += size;
      chosen.push(row);
    }
    return chosen;
  }

  /** From now on rows are in this file, but for those that have come while it was written. */
  #moveTo(file: number, places: Map<string, Row>, written: ReadonlySet<Row>): void {
    for (const [key, row] of this.#rows) {
      if (!('file' in row.data) && !written.has(row)) places.set(key, row);
    }
    this.#rows = places;
    if (this.#file >= 0) release(this.#file);
    this.#file = file;
  }

  #head(rows: readonly Row[]): Buffer {
    const { identity, digest } = this.#options;
    const head = Buffer.alloc(HEADER_BYTES + rows.length * ROW_BYTES);
    let at = HEADER_BYTES;
    const text = (value: string): void => {
      at += head.write(value, at, 'latin1');
    };
    for (const row of rows) {
      text(row.key);
      text(row.wireDigest);
      text(row.codeDigest);
      for (const value of [row.wireBytes, row.codeBytes, row.functions, row.used]) at = head.writeUInt32LE(value, at);
    }
    at = 0;
    text(MAGIC + identity);
    head.writeUInt32LE(rows.length, at);
    at += 8;
    text(digest(head.subarray(HEADER_BYTES)));
    return head;
  }

  /** Takes the oldest files of other builds away, and what a process has left that was killed while it wrote. */
  #clean(): void {
    const { path, now } = this.#options;
    const folder = dirname(path);
    const others: { file: string; seconds: number }[] = [];
    for (const name of readdirSync(folder)) {
      const file = join(folder, name);
      if (file === path || !(NAME.test(name) || TEMPORARY.test(name))) continue;
      const seconds = (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0) / 1000;
      if (NAME.test(name)) others.push({ file, seconds });
      else if (now() - seconds > SECONDS_OF_DAY) rmSync(file, { force: true });
    }
    others.sort((a, b) => b.seconds - a.seconds);
    for (const { file } of others.slice(OTHERS_MAX)) rmSync(file, { force: true });
  }
}

function parseIndex(index: Buffer, file: number, size: number): ReadonlyMap<string, Row> {
  const rows = new Map<string, Row>();
  let at = HEADER_BYTES + index.length;
  for (let from = 0; from < index.length; from += ROW_BYTES) {
    const digest = (number: number): string =>
      index.toString('latin1', from + number * DIGEST, from + (number + 1) * DIGEST);
    const word = (number: number): number => index.readUInt32LE(from + 3 * DIGEST + 4 * number);
    const row: Row = {
      key: digest(0),
      wireDigest: digest(1),
      codeDigest: digest(2),
      wireBytes: word(0),
      codeBytes: word(1),
      functions: word(2),
      used: word(3),
      data: { file, at },
    };
    at += sizeOf(row);
    if (at > size) break; // cut off
    rows.set(row.key, row);
  }
  return rows;
}

/** Closes a file that may be nobody's now: the host frees its blocks then, 50 ms for 64 MiB, but not in this thread. */
const release = (file: number): void => close(file, () => {});

/** False: the file has no such bytes, or cannot be read. */
function readAll(file: number, into: Uint8Array, at: number): boolean {
  let done = 0;
  try {
    while (done < into.length) {
      const read = readSync(file, into, done, into.length - done, at + done);
      if (read === 0) return false;
      done += read;
    }
  } catch {
    return false;
  }
  return true;
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
}
