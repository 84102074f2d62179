import { describe, expect, test } from 'vitest';
import { SymbolTable } from './symbols.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const KALLSYMS = `ffffffff81000000 T _text
ffffffff81001000 t inner
ffffffff81000800 W weak
ffffffff81e00040 T entry_SYSCALL_64
ffffffff82000000 D data
ffffffffc0000000 t probe\t[virtio]
`;

function table(text: string | Uint8Array): SymbolTable {
  const made = SymbolTable.parse(typeof text === 'string' ? bytes(text) : text);
  if (typeof made === 'string') throw new Error(made);
  return made;
}

/** An ELF file with one symbol table: [address, type, section, name]. */
function elf(symbols: readonly (readonly [bigint, number, number, string])[]): Uint8Array {
  const out = new Uint8Array(2048);
  const view = new DataView(out.buffer);
  out.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setBigUint64(0x28, 64n, true); // section headers
  view.setUint16(0x3a, 64, true);
  view.setUint16(0x3c, 2, true);
  view.setUint32(64 + 4, 2, true); // SHT_SYMTAB
  view.setBigUint64(64 + 0x18, 256n, true);
  view.setBigUint64(64 + 0x20, BigInt(24 * symbols.length), true);
  view.setUint32(64 + 0x28, 1, true);
  view.setBigUint64(128 + 0x18, 1024n, true);
  view.setBigUint64(128 + 0x20, 512n, true);
  let name = 1;
  symbols.forEach(([address, type, section, text], i) => {
    const at = 256 + 24 * i;
    view.setUint32(at, name, true);
    out[at + 4] = type;
    view.setUint16(at + 6, section, true);
    view.setBigUint64(at + 8, address, true);
    out.set(bytes(text), 1024 + name);
    name += text.length + 1;
  });
  return out;
}

describe('a symbol table', () => {
  test('finds the function that an address is in, and how far', () => {
    const symbols = table(KALLSYMS);
    expect(symbols.find(0xffff_ffff_8100_0000n)).toEqual({ name: '_text', offset: 0 });
    expect(symbols.find(0xffff_ffff_8100_07ffn)).toEqual({ name: '_text', offset: 0x7ff });
    expect(symbols.find(0xffff_ffff_8100_0801n)).toEqual({ name: 'weak', offset: 1 });
    expect(symbols.find(0xffff_ffff_c000_0010n)).toEqual({ name: 'probe [virtio]', offset: 0x10 });
  });

  test('has no name for what is before the first symbol, far behind the last, or data', () => {
    const symbols = table(KALLSYMS);
    expect(symbols.find(0xffff_ffff_80ff_ffffn)).toBeUndefined();
    expect(symbols.find(0x40_1000n)).toBeUndefined();
    expect(symbols.find(0xffff_ffff_c020_0000n)).toBeUndefined();
    expect(symbols.size).toBe(5);
  });

  test("follows KASLR by the kernel's own IA32_LSTAR, and takes no other register for it", () => {
    const symbols = table(KALLSYMS);
    expect(symbols.offsetFor(0xffff_ffff_81e0_0040n)).toBe(0n);
    const moved = symbols.offsetFor(0xffff_ffff_93e0_0040n)!;
    expect(moved).toBe(0x1200_0000n);
    expect(symbols.movedBy(moved).find(0xffff_ffff_9300_1004n)).toEqual({ name: 'inner', offset: 4 });
    expect(symbols.offsetFor(0xffff_ffff_93e0_0140n)).toBeUndefined();
    expect(symbols.offsetFor(0n)).toBeUndefined();
  });

  test('comes out of an ELF file: functions, no data, nothing undefined', () => {
    const symbols = table(
      elf([
        [0x1000n, 2, 1, 'main'],
        [0x1100n, 1, 1, 'object'],
        [0x1200n, 0, 1, 'label'],
        [0n, 2, 0, 'undefined'],
      ]),
    );
    expect(symbols.size).toBe(2);
    expect(symbols.find(0x11ffn)?.name).toBe('main');
    expect(symbols.find(0x1201n)?.name).toBe('label');
  });

  test.each([
    ['ffffffffffffffff B The real System.map is in the linux-image-…-dbg package\n', /neither an ELF file nor lines/],
    ['', /neither/],
    ['0000000000000000 T _text\n0000000000000000 t x\n', /only zeros/],
    ['ffffffff81000000 D data\n', /no symbols of code/],
    [elf([]), /stripped/],
    [elf([[1n, 2, 1, 'x']]).subarray(0, 200), /not a whole ELF file/],
    [Uint8Array.of(0x7f, 0x45, 0x4c, 0x46, 1, 1), /not of 64 bits/],
  ])('says what is wrong with another file (%#)', (text, why) => {
    const made = SymbolTable.parse(typeof text === 'string' ? bytes(text) : text);
    expect(made).toMatch(why);
  });
});
