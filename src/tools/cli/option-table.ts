/**
 * Command-line options as rows: name, argument, default, help, and what taking one does. `--help` is printed from the
 * rows, so that it cannot lag behind.
 *
 * Knows   nothing of any particular option.
 * Source  DESIGN.md 3.3: QEMU's spellings, GNU long forms beside them; an unknown one is named with the nearest match.
 */
import { nearIfAny } from '../../arch/cpu-models.ts';
import { UserError } from '../../base/assert.ts';

export interface OptionRow<Result> {
  /** Without dashes: `-m`, `--m`, `-memory` and `--memory` are all meant by ['m', 'memory']. */
  readonly names: readonly [string, ...string[]];
  /** What follows, as help shows it; `null`: nothing. */
  readonly argument: string | null;
  /** As a user would write it, or in words; `''`: not given. */
  readonly default: string;
  readonly help: string;
  take(into: Result, argument: string): void;
}

/** What `option` can be in `--help`'s first column: one dash for the QEMU spelling, two for a long one of ours. */
const spelled = (names: readonly string[]): string =>
  names.map((name, index) => `${index === 0 ? '-' : '--'}${name}`).join(', ');

/**
 * Takes every option of `argv` into `into`.
 *
 * @param foreign  Options that are known and not there: what to do instead, as the end of a sentence.
 * @returns  What is not an option, in order.
 * @throws   UserError for an unknown option, a missing or an unwanted argument.
 */
export function parseOptions<Result>(
  rows: readonly OptionRow<Result>[],
  argv: readonly string[],
  into: Result,
  command: string,
  foreign: Readonly<Record<string, string>> = {},
): string[] {
  const byName = new Map(rows.flatMap((row) => row.names.map((name) => [name, row] as const)));
  const rest: string[] = [];
  for (let at = 0; at < argv.length; at += 1) {
    const text = argv[at]!;
    if (text === '--') {
      rest.push(...argv.slice(at + 1));
      break;
    }
    if (!text.startsWith('-') || text === '-') {
      rest.push(text);
      continue;
    }
    const [, dashes, name, attached] = /^(--?)([^=]*)(?:=(.*))?$/s.exec(text)!;
    const row = byName.get(name!);
    if (row === undefined) {
      if (Object.hasOwn(foreign, name!)) throw new UserError(`${dashes}${name}: ${foreign[name!]}.`);
      const close = nearIfAny(name!, [...byName.keys()]);
      const spelling = close && `${byName.get(close)!.names[0] === close ? '-' : '--'}${close}`;
      const guess = spelling ? ` Did you mean ${spelling}?` : '';
      throw new UserError(`there is no option ${dashes}${name}.${guess} "terrarium ${command} --help" lists them all.`);
    }
    if (attached !== undefined && dashes === '-') {
      throw new UserError(`${text}: write -${name} ${attached}, or --${name}=${attached}.`);
    }
    if (row.argument === null) {
      if (attached !== undefined) throw new UserError(`${dashes}${name} takes no argument, found "${attached}".`);
      row.take(into, '');
      continue;
    }
    const argument = attached ?? argv[++at];
    if (argument === undefined) throw new UserError(`${text} lacks its argument: write ${text} ${row.argument}.`);
    row.take(into, argument);
  }
  return rest;
}

const WIDTH = 100;
const INDENT = 6;

/** Every row: its spellings, its argument, what it does and its default. */
export function describeOptions(rows: readonly OptionRow<never>[]): string {
  return rows
    .map((row) => {
      const argument = row.argument === null ? '' : ` ${row.argument}`;
      const standard = row.default === '' ? '' : ` Default: ${row.default}.`;
      return `  ${spelled(row.names)}${argument}\n${wrap(`${row.help}${standard}`, WIDTH, INDENT)}\n`;
    })
    .join('');
}

/** Breaks at spaces; every line is indented. */
export function wrap(text: string, width: number, indent: number): string {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && indent + line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].map((each) => ' '.repeat(indent) + each).join('\n');
}
