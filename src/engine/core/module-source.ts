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
  /** A module, found or compiled, has an instance, and these are its exports. */
  made(bytes: Uint8Array, module: object, exports: Readonly<Record<string, unknown>>): void;
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
