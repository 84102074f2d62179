// Puts each historical bug of mmu-mutants.json back into a copy of the MMU and expects its named test to fail.
// Usage: node tests/nested/mmu-mutants.mjs [part of a test's name]
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');
const mutants = JSON.parse(readFileSync(join(import.meta.dirname, 'mmu-mutants.json'), 'utf8'));
const wanted = mutants.filter(({ test }) => test.includes(process.argv[2] ?? ''));
const copy = mkdtempSync(join(tmpdir(), 'mmu-mutants-'));

for (const room of ['base', 'contracts', 'arch', 'hypervisor/mmu', 'hypervisor/vm']) {
  mkdirSync(join(copy, 'src', room), { recursive: true });
  cpSync(join(root, 'src', room), join(copy, 'src', room), { recursive: true });
}
for (const name of ['vitest.config.ts', 'package.json', 'tsconfig.base.json'])
  cpSync(join(root, name), join(copy, name));
symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));

/** A mutant may loop for ever. */
const HANGS_MS = 120_000;

/** The failing assertion, or null if the test passes. */
function failureOf(test) {
  try {
    // By itself and not by npx, so that what is killed is what loops
    const vitest = join(root, 'node_modules/vitest/vitest.mjs');
    const args = [vitest, 'run', '--project', 'unit', 'src/hypervisor/mmu/history', '-t', test];
    const out = execFileSync(process.execPath, args, {
      cwd: copy,
      encoding: 'utf8',
      stdio: 'pipe',
      timeout: HANGS_MS,
      killSignal: 'SIGKILL',
      env: { ...process.env, NO_COLOR: '1' },
    });
    return /Tests +\d+ passed/.test(out) ? null : 'no test of that name';
  } catch (error) {
    if (error.signal === 'SIGKILL') return `hangs for ${HANGS_MS / 1000} s`;
    return /^\S*Error: .*$/m.exec(`${error.stdout}\n${error.stderr}`)?.[0] ?? `failed: ${error.stdout.slice(-300)}`;
  }
}

const healthy = failureOf('row');
if (healthy !== null) {
  console.error(`the copy fails without any mutant: ${healthy}`);
  process.exit(1);
}
let survivors = 0;
for (const { test, file, find, replace } of wanted) {
  const path = join(copy, 'src/hypervisor/mmu', file);
  const good = readFileSync(path, 'utf8');
  if (good.split(find).length !== 2) {
    console.log(`${test} the text to replace is not (once) in ${file}`);
    survivors += 1;
    continue;
  }
  writeFileSync(
    path,
    good.replace(find, () => replace),
  );
  const failure = failureOf(test);
  writeFileSync(path, good);
  if (failure === null) survivors += 1;
  console.log(`${test} ${failure === null ? 'SURVIVES' : `killed: ${failure}`}`);
}
rmSync(copy, { recursive: true });
console.log(`${wanted.length - survivors} of ${wanted.length} mutants killed`);
process.exitCode = survivors === 0 ? 0 : 1;
