/** `-profile`: samples while the machine runs, names and files at its end. */
import { writeFileSync } from 'node:fs';
import { UserError } from '../../base/assert.ts';
import { hex } from '../../base/format.ts';
import { collapsed, type Level, Profiler } from '../../inspect/profiler.ts';
import { SymbolTable } from '../../inspect/symbols.ts';
import type { Machine } from '../../machine/machine.ts';
import { readWhole, reasonOf } from './files.ts';
import type { RunOptions, SymbolsOption } from './run-options.ts';
import { grouped, table } from './tables.ts';

const ROWS_MAX = 40;

export class GuestProfile {
  readonly #profiler: Profiler;
  readonly #path: string;
  readonly #every: number;
  readonly #symbols: readonly { readonly option: SymbolsOption; readonly table: SymbolTable }[];
  #done = false;

  /** @throws UserError if a file of symbols is none, or the profile cannot be written. */
  constructor({ path, every }: NonNullable<RunOptions['profile']>, symbols: readonly SymbolsOption[]) {
    this.#symbols = symbols.map((option) => {
      const made = SymbolTable.parse(readWhole('-symbols', option.path));
      if (typeof made === 'string') throw new UserError(`${option.path} ${made}.`);
      return { option, table: made };
    });
    // Now, not after an hour's run
    this.#write(path, '');
    this.#path = path;
    this.#every = every;
    this.#profiler = new Profiler(every);
  }

  attach(machine: Machine): void {
    machine.vm.watcher = this.#profiler;
  }

  /** Writes the file, and gives the table with a line about where the names are from. */
  finish(): string {
    if (this.#done) return '';
    this.#done = true;
    const profiler = this.#profiler;
    const notes: string[] = [];
    const tables: Partial<Record<Level, SymbolTable>> = {};
    for (const { option, table: symbols } of this.#symbols) {
      const { level, path } = option;
      const found = option.offset ?? symbols.offsetFor(profiler.lstar(level));
      if (found === undefined)
        notes.push(`${level} has no SYSCALL entry that ${path} knows: its addresses are taken as they are`);
      else if (found !== 0n && option.offset === null)
        notes.push(`${level} runs ${found < 0n ? `${hex(-found)} below` : `${hex(found)} above`} ${path}`);
      tables[level] = symbols.movedBy(found ?? 0n);
    }
    if (this.#symbols.length === 0)
      notes.push('no names: -symbols FILE gives them (System.map, a copy of /proc/kallsyms, vmlinux)');
    const rows = profiler.rows(tables);
    this.#write(this.#path, collapsed(rows));
    const shown = rows
      .slice(0, ROWS_MAX)
      .map(({ share, samples, level, cpl, name }) => [
        `${(100 * share).toFixed(2)} %`,
        grouped(samples),
        level,
        `${cpl}`,
        name,
      ]);
    const rest = rows.length > ROWS_MAX ? `\n… and ${rows.length - ROWS_MAX} more in ${this.#path}` : '';
    return [
      `${grouped(profiler.samples)} samples, one in ${grouped(this.#every)} instructions`,
      ...notes,
      shown.length === 0
        ? 'no code has run so long'
        : table([['share', 'samples', 'level', 'CPL', 'symbol'], ...shown]) + rest,
    ].join('\n');
  }

  #write(path: string, text: string): void {
    try {
      writeFileSync(path, text);
    } catch (error) {
      throw new UserError(`-profile ${path} cannot be written: ${reasonOf(error)}.`);
    }
  }
}
