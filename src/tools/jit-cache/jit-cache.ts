/**
 * Generated modules with the native code that V8 made of them in an earlier run: V8 needs not compile them again, neither
 * quickly nor well.
 *
 * Owns    when code is taken out of V8 and written; the bounds of what that may cost a run.
 *
 * Nothing depends on it: what is not there, is damaged, or V8 does not take is compiled. A module is found by the SHA-256 of
 * its bytes, and does what they say in any case; instructions, virtual time and output are the same.
 */
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import type { Generated, ModuleSource } from '../../engine/core/module-source.ts';
import { type Build, buildNamed } from './build-name.ts';
import { CacheFile, type Digest } from './cache-file.ts';
import { type NativeCode, nativeCode } from './native-code.ts';
import { PageProfile } from './page-profile.ts';

/** All modules of a file. A boot of Debian has 1.4 MiB of code and as much WebAssembly. */
export const BYTES_MAX = 64 * 2 ** 20;

/** When a running machine is looked at, what is worth writing at once, and after how long anything is. */
const PACE = { lookMs: 5_000, modules: 16, anyMs: 60_000 };
/** Work at a time while the machine runs, and the rest behind it. */
const WORK_MS = 5;
const REST_MS = 20;

/** Under which name the file has what is known of pages. */
const PAGES = 'pages';

/** A module that has an instance, as long as the engine keeps that. */
interface Known {
  readonly key: string;
  readonly module: WeakRef<object>;
  readonly exports: WeakRef<Readonly<Record<string, unknown>>>;
  /** Its bytes, until it is in the file. */
  bytes: Uint8Array | undefined;
  /** Functions whose code is there already. */
  functions: number;
}

export interface JitCacheCounters {
  /** Modules that were asked for: code was there; it was not; V8 did not take it, or it was damaged. */
  hits: number;
  misses: number;
  refused: number;
  /** Modules that were not generated: their bytes were there. */
  recalled: number;
  /** Modules whose code was taken out of V8, and times that the file was written. */
  taken: number;
  writes: number;
}

/** `$XDG_CACHE_HOME` as the XDG Base Directory Specification has it. */
export function defaultFolder(): string {
  const { XDG_CACHE_HOME: folder = '' } = process.env;
  return join(isAbsolute(folder) ? folder : join(homedir(), '.cache'), 'terrarium');
}

export interface JitCacheOptions {
  /** Where a file of earlier runs is, or is to be; by default there is none, and what came with the build is all. */
  readonly folder?: string | undefined;
  readonly bytesMax?: number | undefined;
  /** False: nothing of earlier runs is known but modules. */
  readonly pages?: boolean | undefined;
  readonly pace?: typeof PACE | undefined;
}

export class JitCache implements ModuleSource {
  readonly counters: JitCacheCounters = { hits: 0, misses: 0, refused: 0, recalled: 0, taken: 0, writes: 0 };
  readonly #native: NativeCode | undefined;
  readonly #digest: Digest;
  /** What came with the build. */
  readonly #built: CacheFile | undefined;
  /** Of earlier runs. */
  readonly #file: CacheFile | undefined;
  /** Where code was hot in earlier runs; undefined: there is no file for that. */
  readonly pages: PageProfile | undefined;
  /** Digests of the modules that a build is to bring; by default all are kept. */
  readonly #only: Set<string> | undefined;
  readonly #pace: typeof PACE;
  #known: Known[] = [];
  /** Of the bytes that `find` was asked for last. */
  #key = '';
  #work: Generator<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #writtenAtMs = performance.now();

  /** Undefined where there is no cache: this is not a build with a name. */
  static open(options: JitCacheOptions = {}): JitCache | undefined {
    const build = buildNamed();
    return build && attempt(() => new JitCache(build, options, false));
  }

  /** Makes the file that comes with the build, of what machines have in common that are given this one. */
  static record(): JitCache | undefined {
    const build = buildNamed();
    return build && new JitCache(build, { bytesMax: Number.POSITIVE_INFINITY }, true);
  }

  private constructor(build: Build, options: JitCacheOptions, isRecord: boolean) {
    const { folder, bytesMax = BYTES_MAX, pages = true, pace = PACE } = options;
    this.#pace = pace;
    const { createHash } = process.getBuiltinModule('node:crypto');
    const digest = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('binary');
    // With other options V8 may be another one, in ways that it does not tell from code
    const flags = JSON.stringify([process.execArgv, process.env['NODE_OPTIONS'] ?? '']);
    const identity = digest([build.name, process.version, process.versions.v8, process.arch, flags].join('\n'));
    const now = () => Math.floor(Date.now() / 1000);
    this.#native = nativeCode();
    this.#digest = digest;
    const built = new CacheFile({ path: build.modules, identity, digest, bytesMax, now, built: true });
    if (isRecord) {
      this.#file = built;
      this.#only = new Set();
      return;
    }
    this.#built = built;
    if (folder === undefined || !this.#native) return;
    const name = Buffer.from(identity.slice(0, 16), 'binary').toString('hex');
    this.#file = new CacheFile({ path: join(folder, `${name}.jit`), identity, digest, bytesMax, now });
    if (pages) this.pages = new PageProfile(this.#file.wire(digest(PAGES)), now);
  }

  /** Where the file of earlier runs is, if there may be one, how many modules it has, and how many bytes. */
  get contents():
    | { readonly path: string; readonly modules: number; readonly bytes: number; readonly pages: number }
    | undefined {
    if (!this.#file) return undefined;
    const { path, modules, bytes } = this.#file;
    return { path, modules, bytes, pages: this.pages?.size ?? 0 };
  }

  // ---- the engine asks ----------------------------------------------------------------------------------------------

  recall(name: string): Generated | undefined {
    const key = this.#digest(name);
    const packed = this.#file?.wire(key) ?? this.#built?.wire(key);
    if (!packed) return undefined;
    this.counters.recalled += 1;
    const length = new DataView(packed.buffer).getUint32(0, true);
    const about = new TextDecoder().decode(packed.subarray(4, 4 + length));
    return { about, bytes: packed.subarray(4 + length) };
  }

  keep(name: string, { about, bytes }: Generated): void {
    this.#only?.add(this.#digest(bytes));
    const text = new TextEncoder().encode(about);
    const packed = new Uint8Array(4 + text.length + bytes.length);
    new DataView(packed.buffer).setUint32(0, text.length, true);
    packed.set(text, 4);
    packed.set(bytes, 4 + text.length);
    this.#file?.put(this.#digest(name), packed, new Uint8Array(0), 0);
  }

  find(bytes: Uint8Array): object | undefined {
    if (!this.#native) return undefined;
    const key = this.#digest(bytes);
    this.#key = key;
    let isRefused = false;
    for (const file of [this.#file, this.#built]) {
      if (!file || file.functions(key) <= 0) continue;
      const code = file.code(key);
      const module = code && this.#native.module(code, bytes);
      if (module) {
        this.counters.hits += 1;
        return module;
      }
      isRefused = true;
      file.forget(key);
    }
    this.counters[isRefused ? 'refused' : 'misses'] += 1;
    return undefined;
  }

  made(bytes: Uint8Array, module: object, exports: Readonly<Record<string, unknown>>): void {
    const key = this.#key;
    if (!this.#file || !this.#native || (this.#only && !this.#only.has(key))) return;
    const functions = this.#functions(key);
    this.#known.push({
      key,
      module: new WeakRef(module),
      exports: new WeakRef(exports),
      bytes: this.#file.functions(key) > 0 ? undefined : bytes,
      functions,
    });
  }

  /** Of those with this key how many have code in a file. */
  #functions(key: string): number {
    return Math.max(0, this.#file?.functions(key) ?? 0, this.#built?.functions(key) ?? 0);
  }

  // ---- what is kept -------------------------------------------------------------------------------------------------

  /** From now on looks now and then what V8 has compiled, and writes that. */
  start(): void {
    if (!this.#file) return;
    this.#timer = setTimeout(() => this.#look(), this.#pace.lookMs).unref();
  }

  /** Writes what is new, at once: the process ends. */
  finish(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    try {
      // What is under way first
      for (const _rest of this.#work ?? []);
      this.#work = undefined;
      this.pages?.ask();
      for (const _rest of this.#keep());
    } catch {
      // Without a cache everything works
    }
  }

  #look(): void {
    if (!this.#work) {
      const waiting = this.#fresh().length;
      const isLong = performance.now() - this.#writtenAtMs >= this.#pace.anyMs;
      const isNews = waiting > 0 || (this.pages?.news ?? 0) > 0;
      if (waiting >= this.#pace.modules || (isLong && isNews)) this.#work = this.#keep();
    }
    this.#timer = setTimeout(() => this.#look(), this.#work && !this.#isDone() ? REST_MS : this.#pace.lookMs).unref();
  }

  /** Some more of the work under way; true: that was all. */
  #isDone(): boolean {
    const endMs = performance.now() + WORK_MS;
    try {
      do {
        if (this.#work!.next().done) {
          this.#work = undefined;
          return true;
        }
      } while (performance.now() < endMs);
      return false;
    } catch {
      this.#work = undefined;
      return true;
    }
  }

  /** Modules that have more code than the file. */
  #fresh(): { readonly known: Known; readonly functions: number }[] {
    this.#known = this.#known.filter(({ exports }) => exports.deref() !== undefined);
    const fresh: { known: Known; functions: number }[] = [];
    for (const known of this.#known) {
      const exports = known.exports.deref();
      const functions = exports && this.#native ? this.#native.optimized(exports) : 0;
      if (functions > Math.max(known.functions, this.#functions(known.key))) fresh.push({ known, functions });
    }
    return fresh;
  }

  *#keep(): Generator<void> {
    const file = this.#file;
    if (!file) return;
    for (const { known, functions } of this.#fresh()) {
      const module = known.module.deref();
      const bytes = known.bytes ?? file.wire(known.key);
      const exports = known.exports.deref();
      const code = module && bytes && exports && this.#native?.of(module, exports);
      known.functions = functions;
      known.bytes = undefined;
      if (!code) continue;
      file.put(known.key, bytes, new Uint8Array(code), functions);
      this.counters.taken += 1;
      yield;
    }
    if (this.pages && this.pages.news > 0) {
      const key = this.#digest(PAGES);
      file.put(key, this.pages.pack(file.latest(key)), new Uint8Array(0), 0);
    }
    if (file.news === 0) return;
    if (yield* file.write()) this.counters.writes += 1;
    this.#writtenAtMs = performance.now();
  }
}

function attempt<T>(f: () => T): T | undefined {
  try {
    return f();
  } catch {
    return undefined;
  }
}
