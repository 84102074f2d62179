/** How much of a WebAssembly memory has been touched: what is left of the process's RSS is the host program's own. */
import { readFileSync } from 'node:fs';

/**
 * MiB that are resident of the mapping of `bytes` bytes that this process has: a WebAssembly memory is one, and nothing
 * else is as long. Undefined where there is none, or no /proc.
 */
export function touchedMiB(bytes) {
  let maps;
  try {
    maps = readFileSync('/proc/self/smaps', 'latin1');
  } catch {
    return undefined;
  }
  let found = false;
  for (const line of maps.split('\n')) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) rw-p /.exec(line) ?? [];
    if (from !== undefined) found = Number.parseInt(to, 16) - Number.parseInt(from, 16) === bytes;
    else if (found && line.startsWith('Rss:')) return Number.parseInt(line.slice(4), 10) / 1024;
  }
  return undefined;
}
