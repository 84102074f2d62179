#!/usr/bin/env node
/**
 * Compares the engine with the real processor of this machine on fresh random cases, round by round, each with a seed
 * of its own; stops at the first round that finds something. `npm run fuzz:cpu -- --rounds 100`.
 *
 * Every round is tests/cpu/isa.test.ts, which repeats with the seed that is printed.
 */
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const HELP = `usage: npm run fuzz:cpu -- [options]
  --rounds N     how many rounds (default: 10)
  --cases N      cases a form and round (default: 200)
  --seed N       seed of the first round; the next ones count up (default: random)
  --forms TEXT   only forms whose opcode or instruction contains TEXT, such as "SHLD" or "0F 3A"
`;

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

function options() {
  const number = (name, text) => {
    if (/^\d+$/.test(text)) return Number(text);
    throw new Error(`--${name} ${text} is no number`);
  };
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '10' },
      cases: { type: 'string', default: '200' },
      seed: { type: 'string', default: String(randomInt(1 << 30)) },
      forms: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  return {
    ...values,
    rounds: number('rounds', values.rounds),
    cases: number('cases', values.cases),
    seed: number('seed', values.seed),
  };
}

/** @returns  Exit status: 0 nothing found, 1 a difference, 2 used wrongly. */
function main() {
  let wanted;
  try {
    wanted = options();
  } catch (error) {
    console.error(`fuzz: ${error.message.split('. ')[0]}: --help lists the options`);
    return 2;
  }
  if (wanted.help) {
    process.stdout.write(HELP);
    return 0;
  }
  for (let round = 0; round < wanted.rounds; round++) {
    const seed = wanted.seed + round;
    const env = { ...process.env, TERRARIUM_CASES: String(wanted.cases), TERRARIUM_SEED: String(seed) };
    if (wanted.forms) env.TERRARIUM_FORMS = wanted.forms;
    const args = ['vitest', 'run', '--project', 'system', 'tests/cpu/isa'];
    const result = spawnSync('npx', args, { cwd: root, env, encoding: 'utf8' });
    const summary = /\d+ vectors, \d+ mismatches in \d+ forms/.exec(result.stdout)?.[0] ?? 'no summary';
    console.log(`round ${round + 1} of ${wanted.rounds}, seed ${seed}: ${summary}`);
    if (result.status !== 0) {
      process.stdout.write(result.stdout);
      process.stderr.write(result.stderr);
      console.log(`to repeat: npm run fuzz:cpu -- --rounds 1 --cases ${wanted.cases} --seed ${seed}`);
      return 1;
    }
  }
  return 0;
}

process.exitCode = main();
