#!/usr/bin/env node
/** `npm run scenarios -- NAME…`: scenarios of table.ts by name, "all", or without one a list of them. */
import { spawnSync } from 'node:child_process';

const names = process.argv.slice(2);
const { status } = spawnSync(
  'npx',
  ['vitest', 'run', 'tests/nested/scenarios', '--project=system', '--reporter=verbose', '--disable-console-intercept'],
  { stdio: 'inherit', env: { ...process.env, SCENARIOS: names.length ? names.join(' ') : 'list' } },
);
process.exitCode = status ?? 1;
