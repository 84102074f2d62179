/** Text tables for people: columns as wide as they need, numbers to the right. */

const isNumber = (cell: string): boolean => /^(·|-?[\d,.]+ ?%?)$/.test(cell);

/** @param rows  The first one is the heading. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => [...(row[column] ?? '')].length)));
  return rows
    .map((row, index) =>
      row
        .map((cell, column) => {
          const right = isNumber(rows[1]?.[column] ?? '') && (index === 0 || isNumber(cell));
          return right ? cell.padStart(widths[column]!) : cell.padEnd(widths[column]!);
        })
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `12,345,678`. */
export const grouped = (value: number): string =>
  Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ',');

/** Name and value of every counter that is not zero. */
export const nonZero = (counters: Readonly<Record<string, number>>): [string, string][] =>
  Object.entries(counters)
    .filter(([, value]) => value !== 0)
    .map(([name, value]) => [name, grouped(value)]);

/** JSON with 64-bit values as `"0x…"`. */
export const toJson = (value: unknown): string =>
  JSON.stringify(value, (_key, each) => (typeof each === 'bigint' ? `0x${each.toString(16)}` : each), 2);
