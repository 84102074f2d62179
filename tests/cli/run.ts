import { spawnSync } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GUESTS, tinyGuest } from './tiny-guest.ts';

export const root = fileURLToPath(new URL('../..', import.meta.url));

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The built command line, as a user starts it. `input` is what comes through stdin before it ends. */
export function terrarium(args: readonly string[], input: string | Uint8Array = ''): Outcome {
  const command = [join(root, 'bin/terrarium.mjs'), ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { input, timeout: 120_000 });
  return { status, stdout: stdout.toString('latin1'), stderr: stderr.toString() };
}

/** A folder with one kernel file for each of GUESTS; `path('tripleFault')` is one of them. */
export function guestFolder(): { folder: string; path: (guest: keyof typeof GUESTS) => string } {
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-cli-'));
  const path = (guest: string) => join(folder, `${guest}.bin`);
  for (const [name, code] of Object.entries(GUESTS)) writeFileSync(path(name), tinyGuest(code));
  return { folder, path };
}
