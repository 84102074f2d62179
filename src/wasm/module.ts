import { assert } from '../base/assert.ts';
import { Bytes, u32Bytes } from './bytes.ts';
import { type Callee, type Expr, emit, localGet, V128, type ValType } from './expr.ts';

/** A local variable or parameter of a function being built. */
export class Local {
  readonly type: ValType;
  readonly index: number;
  /** Reads it. One shared node: expressions are immutable. */
  readonly get: Expr;
  /** Waits in its builder to be taken again. */
  free = false;

  constructor(type: ValType, index: number) {
    this.type = type;
    this.index = index;
    this.get = localGet(type, index);
  }
}

/** Target of a branch: a `block` (forward) or a `loop` (backward), by its nesting depth. */
export type Label = number;

const BLOCK = 0x02;
const LOOP = 0x03;
const END = 0x0b;
const VOID = 0x40;

/** One function: structured statements are methods, expressions are `Expr`. */
export class FunctionBuilder implements Callee {
  #index = -1;
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
  readonly name: string;
  readonly parameters: readonly Local[];
  readonly code: Bytes;
  readonly #locals: ValType[] = [];
  /** Branches that are likely or not: offset in `code`, 1 or 0. */
  readonly #hints: number[] = [];
  #depth = 0;
  /** By type, from V128 on. */
  readonly #free: Local[][] = [[], [], [], [], []];

  /** @param bytes  What its code will have, roughly. */
  constructor(name: string, params: readonly ValType[], results: readonly ValType[], bytes = 256) {
    this.code = new Bytes(bytes);
    this.name = name;
    this.params = params;
    this.results = results;
    this.parameters = params.map((type, index) => new Local(type, index));
  }

  get index(): number {
    assert(this.#index >= 0, 'what is called has its number: not so where imports are declared as they are used');
    return this.#index;
  }

  set index(index: number) {
    this.#index = index;
  }

  local(type: ValType): Local {
    let local = this.#free[type - V128]!.pop();
    if (local) local.free = false;
    else {
      this.#locals.push(type);
      local = new Local(type, this.params.length + this.#locals.length - 1);
    }
    this.#taken?.push(local);
    return local;
  }

  /** Locals taken in the `scope` under way. */
  #taken: Local[] | undefined;

  /** Gives a local back for reuse by a later `local` of its type. Its value is no longer to be read. */
  release(local: Local): void {
    if (local.free) return;
    local.free = true;
    this.#free[local.type - V128]!.push(local);
  }

  /** Runs `body`; the locals it took are free again behind it. */
  scope(body: () => void): void {
    const outer = this.enterScope();
    body();
    this.leaveScope(outer);
  }

  /** Locals that are taken from here on are free again behind `leaveScope`. @returns  What to tell that. */
  enterScope(): Local[] | undefined {
    const outer = this.#taken;
    this.#taken = [];
    return outer;
  }

  leaveScope(outer: Local[] | undefined): void {
    for (const local of this.#taken!) this.release(local);
    this.#taken = outer;
  }

  /** A fresh local that holds `value`, read as often as wanted. */
  let(value: Expr): Local {
    const local = this.local(value.type);
    this.set(local, value);
    return local;
  }

  set(local: Local, value: Expr): void {
    assert(local.type === value.type, 'a local is set to a value of its own type');
    emit(this.code, value);
    this.code.byte(0x21);
    this.code.u32(local.index);
  }

  /** A store, or a call without results. */
  do(statement: Expr): void {
    emit(this.code, statement);
  }

  drop(value: Expr): void {
    emit(this.code, value);
    this.code.byte(0x1a);
  }

  /** Runs `body` in a block; a branch to its label goes behind the block. */
  block(body: (label: Label) => void): void {
    body(this.open());
    this.close();
  }

  /** A branch to a loop's label goes to its start. */
  loop(body: (label: Label) => void): void {
    body(this.open(LOOP));
    this.close();
  }

  /** Begins a block or a loop, for what is generated in an order that is not that of its nesting. */
  open(opcode: typeof BLOCK | typeof LOOP = BLOCK): Label {
    this.code.byte(opcode);
    this.code.byte(VOID);
    this.#depth += 1;
    return this.#depth;
  }

  /** Ends what was opened last. */
  close(): void {
    this.#depth -= 1;
    this.code.byte(END);
  }

  /** @param likely  Whether the condition holds as a rule, where that is known: compilers put the other path out of the way. */
  if(condition: Expr, then: () => void, otherwise?: () => void, likely?: boolean): void {
    this.openIf(condition, likely);
    then();
    if (otherwise) {
      this.code.byte(0x05);
      otherwise();
    }
    this.close();
  }

  /** Begins what is run if `condition` holds, to `close`. */
  openIf(condition: Expr, likely?: boolean): void {
    emit(this.code, condition);
    this.#hint(likely);
    this.code.byte(0x04);
    this.code.byte(VOID);
    this.#depth += 1;
  }

  /** An `if` that gives a value. */
  ifValue(condition: Expr, then: () => Expr, otherwise: () => Expr, type: ValType): Local {
    const result = this.local(type);
    this.if(
      condition,
      () => this.set(result, then()),
      () => this.set(result, otherwise()),
    );
    return result;
  }

  br(label: Label): void {
    this.code.byte(0x0c);
    this.code.u32(this.#depth - label);
  }

  brIf(label: Label, condition: Expr, likely?: boolean): void {
    emit(this.code, condition);
    this.#hint(likely);
    this.code.byte(0x0d);
    this.code.u32(this.#depth - label);
  }

  brTable(index: Expr, targets: readonly Label[], fallback: Label): void {
    emit(this.code, index);
    this.code.byte(0x0e);
    this.code.u32(targets.length);
    for (const target of targets) this.code.u32(this.#depth - target);
    this.code.u32(this.#depth - fallback);
  }

  ret(...values: Expr[]): void {
    for (const value of values) emit(this.code, value);
    this.code.byte(0x0f);
  }

  unreachable(): void {
    this.code.byte(0x00);
  }

  get depth(): number {
    return this.#depth;
  }

  /** The next instruction is a branch that is taken as a rule, or not. */
  #hint(likely: boolean | undefined): void {
    if (likely !== undefined) this.#hints.push(this.code.length, likely ? 1 : 0);
  }

  /** Puts what `body` generates in front of the code from `at` on, at whose depth it stands. It has no hints. */
  insert(at: number, body: () => void): void {
    const end = this.code.length;
    body();
    this.code.rotate(at, end);
    const moved = this.code.length - end;
    for (let i = this.#hints.length - 2; i >= 0 && this.#hints[i]! >= at; i -= 2) this.#hints[i]! += moved;
  }

  /** Branches that are likely or not: pairs of an offset in `code`, and 1 or 0. */
  get hints(): readonly number[] {
    return this.#hints;
  }

  /** What stands in front of the code in a module: the locals, in groups of one type. */
  head(): Bytes {
    const out = new Bytes(16);
    const locals = this.#locals;
    let groups = 0;
    for (let i = 0; i < locals.length; i += 1) if (locals[i] !== locals[i - 1]) groups += 1;
    out.u32(groups);
    for (let first = 0; first < locals.length; ) {
      let end = first + 1;
      while (locals[end] === locals[first]) end += 1;
      out.u32(end - first);
      out.byte(locals[first]!);
      first = end;
    }
    return out;
  }
}

/** Magic and version. */
const MAGIC = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);

interface Import extends Callee {
  readonly module: string;
  readonly name: string;
}

function areSame(a: readonly ValType[], b: readonly ValType[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return false;
  return true;
}

/** An import that a module has only if something calls it. */
class LateImport implements Import {
  readonly module: string;
  readonly name: string;
  readonly params: readonly ValType[];
  readonly results: readonly ValType[];
  readonly #declare: (self: LateImport) => number;
  #index = -1;

  constructor(
    module: string,
    name: string,
    params: readonly ValType[],
    results: readonly ValType[],
    declare: (self: LateImport) => number,
  ) {
    this.module = module;
    this.name = name;
    this.params = params;
    this.results = results;
    this.#declare = declare;
  }

  get index(): number {
    if (this.#index < 0) this.#index = this.#declare(this);
    return this.#index;
  }

  forget(): void {
    this.#index = -1;
  }
}

/** Functions that a module imports when code that calls them is generated. They serve one module after another. */
export class LateImports {
  #module: ModuleBuilder | undefined;
  readonly #used: LateImport[] = [];

  add(module: string, name: string, params: readonly ValType[], results: readonly ValType[]): Callee {
    return new LateImport(module, name, params, results, (self) => {
      assert(this.#module !== undefined, 'what is imported late is called in a module');
      this.#used.push(self);
      return this.#module.importLate(self);
    });
  }

  /** From here on they are imports of `m`. */
  serve(m: ModuleBuilder): void {
    for (const callee of this.#used) callee.forget();
    this.#used.length = 0;
    this.#module = m;
  }
}

/**
 * A module: imports first, then functions, then `finish`. Indices are assigned as things are declared; with late imports
 * functions have theirs only at the end, and cannot call each other.
 *
 * Source  WebAssembly Core Specification 2.0, 5.5 "Modules"; the custom section with hints: WebAssembly proposal "Branch
 *         Hinting". Who does not know it passes over it.
 */
export class ModuleBuilder {
  readonly #signatures: { params: readonly ValType[]; results: readonly ValType[] }[] = [];
  readonly #imports: Import[] = [];
  readonly #functions: FunctionBuilder[] = [];
  readonly #exports: { name: string; function: FunctionBuilder | undefined }[] = [];
  readonly #elements: { offset: number; functions: FunctionBuilder[] }[] = [];
  #memory: { module: string; name: string; pages: number } | undefined;
  #tableSize = 0;
  /** Imports are declared as they are used. */
  #late = false;

  typeIndex(params: readonly ValType[], results: readonly ValType[]): number {
    for (let i = 0; i < this.#signatures.length; i += 1) {
      const known = this.#signatures[i]!;
      if (areSame(known.params, params) && areSame(known.results, results)) return i;
    }
    return this.#signatures.push({ params, results }) - 1;
  }

  importFunction(module: string, name: string, params: readonly ValType[], results: readonly ValType[]): Callee {
    assert(this.#functions.length === 0, 'imports are declared before functions');
    this.typeIndex(params, results);
    const entry = { module, name, params, results, index: this.#imports.length };
    this.#imports.push(entry);
    return entry;
  }

  /** An import declared when code that calls it is generated: for `LateImports`. */
  importLate(entry: Import): number {
    this.typeIndex(entry.params, entry.results);
    return this.#imports.push(entry) - 1;
  }

  /** Functions have no numbers before the end: imports are declared as they are used. */
  awaitImports(): void {
    this.#late = true;
  }

  importMemory(module: string, name: string, pages: number): void {
    this.#memory = { module, name, pages };
  }

  /** An own table of `size` slots, exported as `table`. */
  table(size: number): void {
    this.#tableSize = size;
    this.#exports.push({ name: 'table', function: undefined });
  }

  /** Puts functions into the table from slot `offset` on. */
  elements(offset: number, functions: FunctionBuilder[]): void {
    this.#elements.push({ offset, functions });
  }

  /** @param bytes  What its code will have, roughly. */
  func(
    name: string,
    params: readonly ValType[],
    results: readonly ValType[],
    exported = false,
    bytes?: number,
  ): FunctionBuilder {
    const builder = new FunctionBuilder(name, params, results, bytes);
    this.typeIndex(params, results);
    if (!this.#late) builder.index = this.#imports.length + this.#functions.length;
    this.#functions.push(builder);
    if (exported) this.export(name, builder);
    return builder;
  }

  /** Exports a function under a name; a second export under the same name is left out. */
  export(name: string, builder: FunctionBuilder): void {
    if (this.#exports.some((entry) => entry.name === name)) return;
    this.#exports.push({ name, function: builder });
  }

  finish(): Uint8Array<ArrayBuffer> {
    if (this.#late) {
      assert(this.#elements.length === 0, 'a module with late imports has no table');
      for (const [i, builder] of this.#functions.entries()) builder.index = this.#imports.length + i;
    }
    const functions = this.#functions.map((builder) => ({ builder, head: builder.head() }));
    let codeBytes = u32Bytes(functions.length);
    for (const { builder, head } of functions) {
      const bytes = head.length + builder.code.length + 1;
      codeBytes += u32Bytes(bytes) + bytes;
    }
    const out = new Bytes(codeBytes + 2048);
    out.raw(MAGIC);
    const section = (id: number, write: (body: Bytes) => void): void => {
      const body = new Bytes();
      write(body);
      out.byte(id);
      out.u32(body.length);
      out.append(body);
    };
    section(1, (body) => {
      body.u32(this.#signatures.length);
      for (const { params, results } of this.#signatures) {
        body.byte(0x60);
        body.u32(params.length);
        for (const type of params) body.byte(type);
        body.u32(results.length);
        for (const type of results) body.byte(type);
      }
    });
    section(2, (body) => {
      body.u32(this.#imports.length + (this.#memory ? 1 : 0));
      for (const { module, name, params, results } of this.#imports) {
        body.name(module);
        body.name(name);
        body.byte(0);
        body.u32(this.typeIndex(params, results));
      }
      if (this.#memory) {
        body.name(this.#memory.module);
        body.name(this.#memory.name);
        body.byte(2);
        body.byte(0);
        body.u32(this.#memory.pages);
      }
    });
    section(3, (body) => {
      body.u32(this.#functions.length);
      for (const { params, results } of this.#functions) body.u32(this.typeIndex(params, results));
    });
    if (this.#tableSize > 0) {
      section(4, (body) => {
        body.u32(1);
        body.byte(0x70);
        body.byte(0);
        body.u32(this.#tableSize);
      });
    }
    section(7, (body) => {
      body.u32(this.#exports.length);
      for (const { name, function: builder } of this.#exports) {
        body.name(name);
        body.byte(builder ? 0 : 1);
        body.u32(builder ? builder.index : 0);
      }
    });
    if (this.#elements.length > 0) {
      section(9, (body) => {
        body.u32(this.#elements.length);
        for (const { offset, functions } of this.#elements) {
          body.u32(0);
          body.byte(0x41);
          body.s32(offset);
          body.byte(0x0b);
          body.u32(functions.length);
          for (const { index } of functions) body.u32(index);
        }
      });
    }
    const hinted = functions.filter(({ builder }) => builder.hints.length > 0);
    if (hinted.length > 0) {
      section(0, (body) => {
        body.name('metadata.code.branch_hint');
        body.u32(hinted.length);
        for (const { builder, head } of hinted) {
          const { hints, index } = builder;
          body.u32(index);
          body.u32(hints.length / 2);
          for (let i = 0; i < hints.length; i += 2) {
            body.u32(head.length + hints[i]!);
            body.u32(1);
            body.byte(hints[i + 1]!);
          }
        }
      });
    }
    out.byte(10);
    out.u32(codeBytes);
    out.u32(functions.length);
    for (const { builder, head } of functions) {
      out.u32(head.length + builder.code.length + 1);
      out.append(head);
      out.append(builder.code);
      out.byte(END);
    }
    return out.done() as Uint8Array<ArrayBuffer>;
  }

  /** For `callee` identity checks and size reports: bytes of each function's body. */
  sizes(): { name: string; bytes: number }[] {
    return this.#functions.map((builder) => ({ name: builder.name, bytes: builder.code.length }));
  }
}
