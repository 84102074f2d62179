/**
 * What a host may know of modules that the engine generates: their native code from an earlier run.
 *
 * The engine compiles what the host does not have, and asks for nothing that changes what a module does.
 */
export interface ModuleSource {
  /** The module of exactly these bytes, a WebAssembly.Module; undefined: it is compiled. */
  find(bytes: Uint8Array): object | undefined;
  /** What this build generated under this name, which says all that it depends on, in an earlier run. */
  recall(name: string): Generated | undefined;
  /** It was generated, because nobody had it. */
  keep(name: string, generated: Generated): void;
  /** What runs find out about code; undefined: nobody wants to know. */
  readonly pages?: PageNotes | undefined;
  /** A module, found or compiled, has an instance, and these are its exports. */
  made(bytes: Uint8Array, module: object, exports: Readonly<Record<string, unknown>>): void;
}

/**
 * Where code is hot, from run to run: by page, named by a hash of what it held when code was first found there, and its mode.
 *
 * Only a hint: what is compiled when changes nothing about what it does.
 */
export interface PageNotes {
  /** Undefined: it is not known. */
  hot(page: number): HotPage | undefined;
  /** Runs at these offsets were; what is new is `changes` of a page that was not known. */
  note(page: number, offsets: readonly number[], changes: number): void;
  /** `tell` is called before notes are kept: it notes what is not noted yet. */
  beforeKeeping(tell: () => void): void;
}

export interface HotPage {
  /** Where runs of instructions were entered often, in ascending order. */
  readonly offsets: Uint16Array;
  /** How often the page was written to before it was compiled, or found to be hot. */
  readonly changes: number;
}

/** A module's bytes, and what has to be known of them, in words of who generates them. */
export interface Generated {
  readonly bytes: Uint8Array;
  readonly about: string;
}

/** An instance of the module of these bytes. */
export function instantiate(
  bytes: Uint8Array,
  imports: WebAssembly.Imports,
  source: ModuleSource | undefined,
): WebAssembly.Instance {
  const module = (source?.find(bytes) as WebAssembly.Module | undefined) ?? new WebAssembly.Module(bytes);
  const instance = new WebAssembly.Instance(module, imports);
  source?.made(bytes, module, instance.exports);
  return instance;
}
