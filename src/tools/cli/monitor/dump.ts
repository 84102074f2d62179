import { UserError } from '../../../base/assert.ts';

/** `/FMT` of `x` and `xp`: how many, shown how, how wide. */
export interface DumpFormat {
  readonly count: number;
  readonly as: 'x' | 'd' | 'u' | 'o' | 'c';
  readonly bytes: 1 | 2 | 4 | 8;
}

const SIZES = { b: 1, h: 2, w: 4, g: 8 } as const;
const COUNT_MAX = 4096;

/** `/8xg` and the like. Missing parts: one, hexadecimal, four bytes. @throws UserError */
export function parseDumpFormat(text: string): DumpFormat {
  const [, count = '', letters = ''] = /^\/(\d*)([a-z]*)$/i.exec(text) ?? [];
  let as: DumpFormat['as'] = 'x';
  let bytes: DumpFormat['bytes'] | undefined;
  for (const letter of letters) {
    if (letter in SIZES) bytes = SIZES[letter as keyof typeof SIZES];
    else if ('xduoc'.includes(letter)) as = letter as DumpFormat['as'];
    else {
      throw new UserError(
        `${text} is no format: expected a count, one of x d u o c, and one of b h w g, found "${letter}".`,
      );
    }
  }
  if (!text.startsWith('/') || (count === '' && letters === '' && text !== '/')) {
    throw new UserError(`${text} is no format: write one such as /8xg.`);
  }
  const many = count === '' ? 1 : Number(count);
  if (many < 1 || many > COUNT_MAX) throw new UserError(`${text}: expected a count from 1 to ${COUNT_MAX}.`);
  return { count: many, as, bytes: bytes ?? (as === 'c' ? 1 : 4) };
}

/** Lines of at most 16 bytes, each with its address. `valid`: how many bytes there are to show. */
export function formatDump(address: bigint, bytes: Uint8Array, valid: number, format: DumpFormat): string {
  const lines: string[] = [];
  const perLine = Math.max(1, (format.as === 'c' ? 8 : 16) / format.bytes);
  for (let at = 0; at < format.count; at += perLine) {
    const cells: string[] = [];
    for (let n = at; n < Math.min(at + perLine, format.count); n += 1) {
      const first = n * format.bytes;
      if (first + format.bytes > valid) {
        if (cells.length > 0) lines.push(line(address, at * format.bytes, cells));
        lines.push(`Cannot access memory at 0x${BigInt.asUintN(64, address + BigInt(valid)).toString(16)}`);
        return lines.join('\n');
      }
      cells.push(cell(bytes, first, format));
    }
    lines.push(line(address, at * format.bytes, cells));
  }
  return lines.join('\n');
}

const line = (address: bigint, offset: number, cells: readonly string[]): string =>
  `${BigInt.asUintN(64, address + BigInt(offset))
    .toString(16)
    .padStart(16, '0')}: ${cells.join(' ')}`;

function cell(bytes: Uint8Array, first: number, { as, bytes: width }: DumpFormat): string {
  let value = 0n;
  for (let i = width - 1; i >= 0; i -= 1) value = (value << 8n) | BigInt(bytes[first + i]!);
  switch (as) {
    case 'x':
      return `0x${value.toString(16).padStart(2 * width, '0')}`;
    case 'o':
      return `0${value.toString(8)}`;
    case 'u':
      return value.toString();
    case 'd':
      return BigInt.asIntN(8 * width, value).toString();
    case 'c': {
      const code = Number(value & 0xffn);
      return code >= 0x20 && code < 0x7f
        ? `'${String.fromCharCode(code)}'`
        : `'\\x${code.toString(16).padStart(2, '0')}'`;
    }
  }
}
