import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { guestFolder, root } from './run.ts';

const { folder, path } = guestFolder();
afterAll(() => rmSync(folder, { recursive: true }));

/** CPU seconds of a process and its threads so far: proc(5), in ticks of 10 ms. */
function cpuSeconds({ pid }: ChildProcess): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

test.skipIf(process.platform !== 'linux').each([
  ['haltForEver', 'halted'],
  ['waitsForTicks', 'waiting'],
] as const)('%s costs next to no CPU while somebody may still type', async (guest, said) => {
  const child = spawn(process.execPath, [join(root, 'bin/terrarium.mjs'), 'run', '-kernel', path(guest)]);
  let output = '';
  child.stdout.on('data', (text) => {
    output += text;
  });
  try {
    for (let waited = 0; !output.includes(said) && waited < 600; waited += 1) await sleep(50);
    expect(output).toContain(said);
    await sleep(500); // V8's compilers have something left to do
    const before = cpuSeconds(child);
    await sleep(2000);
    expect(cpuSeconds(child) - before).toBeLessThan(0.4);
  } finally {
    child.kill();
  }
});
