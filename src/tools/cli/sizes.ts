import { nearIfAny } from '../../arch/cpu-models.ts';
import { UserError } from '../../base/assert.ts';

/** Binary multiples, as QEMU reads them. */
const UNITS: Readonly<Record<string, number>> = { b: 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/**
 * A size as the command line writes it: `512M`, `2G`, `1.5g`, `4096K`; without a letter `unit` is meant.
 *
 * @returns  Bytes, a whole number.
 * @throws   UserError if it is none; it names the option.
 */
export function parseSize(option: string, text: string, unit: 'b' | 'm'): number {
  const [, digits, letter] = /^(\d+(?:\.\d+)?)([bkmgt])?(?:i?b)?$/i.exec(text.trim()) ?? [];
  if (digits === undefined) {
    throw new UserError(
      `${option} ${text || '(nothing)'}: expected a size such as 512M or 2G` +
        `${unit === 'm' ? ' (a plain number means MiB)' : ''}, found "${text}".`,
    );
  }
  const bytes = Math.floor(Number(digits) * UNITS[letter?.toLowerCase() ?? unit]!);
  if (!Number.isSafeInteger(bytes)) {
    throw new UserError(`${option} ${text}: expected a whole number of bytes below 8 PiB, found ${bytes}.`);
  }
  return bytes;
}

/** A whole number, decimal or `0x…`, within bounds. */
export function parseInteger(option: string, text: string, least: number, most: number): number {
  const value = /^(0x[\da-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!(value >= least && value <= most)) {
    throw new UserError(`${option} ${text || '(nothing)'}: expected a whole number from ${least} to ${most}.`);
  }
  return value;
}

/** `on` or `off`, and QEMU's other spellings. */
export function parseSwitch(option: string, text: string): boolean {
  if (text === 'on' || text === 'yes' || text === 'true' || text === '') return true;
  if (text === 'off' || text === 'no' || text === 'false') return false;
  throw new UserError(`${option}=${text}: expected on or off.`);
}

/**
 * QEMU's comma lists: `file=disk.img,if=virtio`; a doubled comma is a comma in a value.
 *
 * @param first  Name that the first part has when it has none: `-device virtio-rng-pci`, `-m 512M`.
 */
export function parseProperties(text: string, first?: string): Map<string, string> {
  const found = new Map<string, string>();
  const parts = text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
  parts.forEach((part, index) => {
    if (part === '') return;
    const equals = part.indexOf('=');
    if (equals >= 0) found.set(part.slice(0, equals), part.slice(equals + 1));
    else if (index === 0 && first !== undefined) found.set(first, part);
    else found.set(part, '');
  });
  return found;
}

/** `a, b or c`. */
const listed = (words: readonly string[], last: 'and' | 'or'): string =>
  words.join(', ').replace(/, (?=[^,]*$)/, ` ${last} `);

/** @throws UserError for a property that is none of these. */
export function requireKnown(option: string, properties: ReadonlyMap<string, string>, known: readonly string[]): void {
  for (const name of properties.keys()) {
    if (known.includes(name)) continue;
    const close = nearIfAny(name, known);
    throw new UserError(
      `${option}: there is no "${name}". ${close ? `Did you mean ${close}?` : `There is ${listed(known, 'and')}.`}`,
    );
  }
}

/** One of a few words. */
export function oneOf<const Words extends readonly string[]>(
  option: string,
  text: string,
  words: Words,
): Words[number] {
  if (words.includes(text)) return text;
  throw new UserError(`${option} ${text}: expected ${listed(words, 'or')}.`);
}
