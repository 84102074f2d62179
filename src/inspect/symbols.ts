/**
 * Names for addresses of code: from the text of System.map or /proc/kallsyms, or from the symbol table of an ELF file.
 *
 * Source  nm(1), "The symbol type"; ELF-64 Object File Format 1.5, "Symbol Table".
 */

export interface FoundSymbol {
  readonly name: string;
  /** Bytes behind the symbol. */
  readonly offset: number;
}

/** What Linux enters at SYSCALL: IA32_LSTAR has its address, KASLR included. */
const ENTRY = 'entry_SYSCALL_64';
/** A name counts for so many bytes behind its address if no other comes: modules and what was freed have none. */
const REACH = 0x10_0000n;

const SHT_SYMTAB = 2;
const STT_FUNC = 2;
const STT_NOTYPE = 0;

export class SymbolTable {
  readonly #addresses: BigUint64Array;
  readonly #names: readonly string[];
  /** What is added to the file's addresses. */
  readonly offset: bigint;

  private constructor(symbols: readonly (readonly [address: bigint, name: string])[], offset: bigint) {
    const sorted = [...symbols].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    this.#addresses = BigUint64Array.from(sorted, ([address]) => address);
    this.#names = sorted.map(([, name]) => name);
    this.offset = offset;
  }

  /**
   * @returns  A table, or why the file has none, as the rest of a sentence that begins with its name.
   */
  static parse(bytes: Uint8Array): SymbolTable | string {
    const isElf = bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46;
    const symbols = isElf ? elfSymbols(bytes) : textSymbols(bytes);
    if (typeof symbols === 'string') return symbols;
    if (symbols.length === 0) return 'has no symbols of code';
    if (symbols.every(([address]) => address === 0n))
      return 'has only zeros for addresses: the guest hides them, read /proc/kallsyms as root after echo 0 > /proc/sys/kernel/kptr_restrict';
    return new SymbolTable(symbols, 0n);
  }

  get size(): number {
    return this.#names.length;
  }

  /** The same table for a kernel that runs `offset` bytes above where it was linked. */
  movedBy(offset: bigint): SymbolTable {
    return new SymbolTable(
      this.#names.map((name, i) => [this.#addresses[i]!, name]),
      offset,
    );
  }

  /** How far above its linked place a Linux runs whose IA32_LSTAR is this; undefined: this is not its table. */
  offsetFor(lstar: bigint): bigint | undefined {
    const at = this.#names.indexOf(ENTRY);
    if (at < 0 || lstar === 0n) return undefined;
    const offset = lstar - this.#addresses[at]!;
    // KASLR moves by 2 MiB; modules' and patched entries are elsewhere
    return (offset & 0x1f_ffffn) === 0n ? offset : undefined;
  }

  find(address: bigint): FoundSymbol | undefined {
    const linked = address - this.offset;
    let low = 0;
    let high = this.#addresses.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#addresses[middle]! <= linked) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return undefined;
    const distance = linked - this.#addresses[low - 1]!;
    if (distance > REACH) return undefined;
    return { name: this.#names[low - 1]!, offset: Number(distance) };
  }
}

/** Lines "ffffffff81000000 T _text", with the module's name behind a tab. */
function textSymbols(bytes: Uint8Array): [bigint, string][] | string {
  const found: [bigint, string][] = [];
  let lines = 0;
  let bad = 0;
  for (const line of latin1(bytes).split('\n')) {
    const text = line.trim();
    if (text === '') continue;
    lines += 1;
    const [, address, type, name, module] = /^([0-9a-f]{8,16}) ([A-Za-z?]) (\S+)(?:\s+(\[\S+\]))?$/.exec(text) ?? [];
    if (address === undefined) bad += 1;
    else if ('tTwW'.includes(type!)) found.push([BigInt(`0x${address}`), module ? `${name} ${module}` : name!]);
  }
  if (lines === 0 || bad > lines / 10)
    return 'is neither an ELF file nor lines such as "ffffffff81000000 T _text" (Debian\'s System.map only says where the real one is)';
  return found;
}

function elfSymbols(bytes: Uint8Array): [bigint, string][] | string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 64 || bytes[4] !== 2 || bytes[5] !== 1) return 'is an ELF file, but not of 64 bits';
  const sections = Number(view.getBigUint64(0x28, true));
  const entryBytes = view.getUint16(0x3a, true);
  const count = view.getUint16(0x3c, true);
  if (sections + count * entryBytes > bytes.length || entryBytes < 64) return 'is not a whole ELF file';
  const place = (index: number): { at: number; size: number; link: number } => {
    const header = sections + index * entryBytes;
    return {
      at: Number(view.getBigUint64(header + 0x18, true)),
      size: Number(view.getBigUint64(header + 0x20, true)),
      link: view.getUint32(header + 0x28, true),
    };
  };
  const found: [bigint, string][] = [];
  for (let index = 0; index < count; index += 1) {
    if (view.getUint32(sections + index * entryBytes + 4, true) !== SHT_SYMTAB) continue;
    const table = place(index);
    if (table.link >= count) return 'is not a whole ELF file';
    const names = place(table.link);
    if (table.at + table.size > bytes.length || names.at + names.size > bytes.length) return 'is not a whole ELF file';
    for (let at = table.at; at + 24 <= table.at + table.size; at += 24) {
      const type = bytes[at + 4]! & 15;
      const section = view.getUint16(at + 6, true);
      if ((type !== STT_FUNC && type !== STT_NOTYPE) || section === 0 || section >= 0xff00) continue;
      const start = names.at + view.getUint32(at, true);
      let end = start;
      while (end < names.at + names.size && bytes[end] !== 0) end += 1;
      const name = latin1(bytes.subarray(start, end));
      if (name !== '') found.push([view.getBigUint64(at + 8, true), name]);
    }
  }
  return found.length === 0 ? 'is an ELF file without a symbol table (it is stripped)' : found;
}

function latin1(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return text;
}
