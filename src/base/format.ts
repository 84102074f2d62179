/** `0x` and at least `digits` lower-case hex digits. */
export const hex = (value: number | bigint, digits = 1): string =>
  `0x${(typeof value === 'number' && value < 0 ? value >>> 0 : value).toString(16).padStart(digits, '0')}`;

/** Two halves as sixteen hex digits, without `0x`. */
export const hex64 = (low: number, high: number): string =>
  (high >>> 0).toString(16).padStart(8, '0') + (low >>> 0).toString(16).padStart(8, '0');

/** Bytes as `7f 45 4c 46`. */
export const hexBytes = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');

/** `1.5 MiB`, `512 B`: binary units, at most one decimal. */
export function byteSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${units[unit]}`;
}
