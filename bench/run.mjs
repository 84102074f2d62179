#!/usr/bin/env node
/**
 * Benchmarks: ratios between machines measured in one run, never a time that a test waits for. README.md says how
 * to read them.
 *
 *   node bench/run.mjs SUBCOMMAND [--rounds N] [--machines a,b] [--kernels a,b] [--baseline]
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { runMain, UserError } from '../scripts/debian/user-error.mjs';
import { dist, MACHINES } from './lib/machines.mjs';
import { hostName } from './lib/report.mjs';

const SUBCOMMANDS = {
  boot: { help: 'Debian to init: CPU time of each machine', run: async (o) => (await import('./boot.mjs')).boot(o) },
  mips: {
    help: 'a dozen loops: instructions per µs of CPU time',
    run: async (o) => (await import('./mips.mjs')).mips(o),
  },
  nested: {
    help: 'a switch between levels, by mode of the nested MMU',
    run: async (o) => (await import('./nested.mjs')).nested(o),
  },
  growth: {
    help: 'what a million round trips leave behind in memory',
    run: async (o) => (await import('./growth.mjs')).growth(o),
  },
  'round-trips': {
    help: 'a guest to its hypervisor and back, bare, through Linux, and nested twice',
    run: async (o) => (await import('./round-trips.mjs')).roundTrips(o),
  },
  syscalls: {
    help: 'fork and exec, find, a shell script, page faults: CPU time of each machine',
    run: async (o) => (await import('./syscalls.mjs')).syscalls(o),
  },
  'l2-boot': {
    help: 'Debian as L2 under the KVM of Debian as L1: CPU time of each machine',
    run: async (o) => (await import('./l2-boot.mjs')).l2Boot(o),
  },
  'hot-forms': {
    help: "a boot's executions by handler",
    run: async (o) => (await import('./hot-forms.mjs')).hotForms(o),
  },
  profile: { help: "where a boot's time goes", run: async (o) => (await import('./profile.mjs')).profile(o) },
};

const HELP = `usage: node bench/run.mjs SUBCOMMAND [options]     (after npm run build)

${Object.entries(SUBCOMMANDS)
  .map(([name, { help }]) => `  ${name.padEnd(13)}${help}`)
  .join('\n')}

  --rounds N        how often each is measured, in turn; the least counts (default: 3)
  --machines A,B    of ${Object.keys(MACHINES).join(', ')} (default: all)
  --kernels A,B     mips: only these; round-trips: of bare, linux, l3
  --top N           hot-forms: how many lines (default: 220)
  --baseline        write the figures into bench/baseline.json
`;

const BASELINE = new URL('baseline.json', import.meta.url);

/** Which Terrarium this is, as far as git knows. */
const commit = () =>
  spawnSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: dirname(dist), encoding: 'utf8' }).stdout?.trim() ?? '';

async function main(argv) {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '3' },
      machines: { type: 'string', default: Object.keys(MACHINES).join(',') },
      kernels: { type: 'string' },
      top: { type: 'string', default: '220' },
      baseline: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const [name] = positionals;
  if (values.help || name === undefined) {
    console.log(HELP);
    return;
  }
  if (!Object.hasOwn(SUBCOMMANDS, name))
    throw new UserError(`no benchmark "${name}": one of ${Object.keys(SUBCOMMANDS).join(', ')}`);
  if (!existsSync(dist)) throw new UserError('Terrarium is not built: npm run build');
  const machines = values.machines.split(',');
  const unknown = machines.find((machine) => !Object.hasOwn(MACHINES, machine));
  if (unknown !== undefined)
    throw new UserError(`no machine "${unknown}": some of ${Object.keys(MACHINES).join(', ')}`);
  const [rounds, top] = [values.rounds, values.top].map(Number);
  if (!(rounds >= 1) || !(top >= 1)) throw new UserError('--rounds and --top want a number from 1');
  const figures = await SUBCOMMANDS[name].run({ rounds, machines, top, kernels: values.kernels?.split(',') });
  if (values.baseline && figures !== undefined) {
    const all = existsSync(BASELINE) ? JSON.parse(readFileSync(BASELINE, 'utf8')) : {};
    all[name] = { machine: hostName(), commit: commit(), ...figures };
    writeFileSync(BASELINE, `${JSON.stringify(all, null, 2)}\n`);
  }
}

// An interrupted bench leaves no machine behind: their end hangs on 'exit'
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(2));
process.setMaxListeners(0);
await runMain('bench', main);
