/** Option rows that several commands share. */
import type { OptionRow } from './option-table.ts';

export const HELP: OptionRow<{ help: boolean }> = {
  names: ['h', 'help'],
  argument: null,
  default: '',
  help: 'This text.',
  take: (into) => {
    into.help = true;
  },
};

/** @param what  That is printed so. */
export const json = (what: string): OptionRow<{ json: boolean }> => ({
  names: ['json'],
  argument: null,
  default: '',
  help: `${what} as JSON, and nothing else.`,
  take: (into) => {
    into.json = true;
  },
});

export const DEFAULT_CPU = 'intel';

/** @param help  What is behind "CPU model". */
export const cpu = (argument: string, help: string): OptionRow<{ cpu: string }> => ({
  names: ['cpu'],
  argument,
  default: DEFAULT_CPU,
  help: `CPU model${help}`,
  take: (into, text) => {
    into.cpu = text;
  },
});
