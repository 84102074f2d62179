/**
 * The loop suite: each kernel of bench/guest and of the demo's workloads, on each machine, in one guest that takes its
 * orders over COM1. Instructions are exact, counted by Terrarium; time is the CPU time of the machine's process.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildGuest, GUESTS } from '../scripts/build-guests.mjs';
import { cpuMsOf, MACHINES, machinesHere } from './lib/machines.mjs';
import { table } from './lib/report.mjs';

export const KERNELS = [
  'integer',
  'crc32',
  'sha256',
  'fib',
  'shell',
  'string',
  'sse2',
  'x87',
  'pointers',
  'copy',
  'movs',
  'dispatch',
];

/** One REP is one instruction to the counter, so that time says more than MIPS: left out of the mean. */
const MOVES_ONLY = new Set(['movs']);

/** CPU time that one measurement wants to take: the sampling is good to some 5 ms. */
const WANTED_MS = 700;

// One more guest for the builder of guests: it is not checked in, for nothing but this starts it
GUESTS.loops = {
  bits: 64,
  sources: ['lib/long-mode.S', '../bench/guest/loops.c', 'demo/workloads.c'],
  flags: ['-m64', '-mno-red-zone', '-mcmodel=small', '-march=x86-64', '-fno-tree-vectorize'],
};

export async function mips({ rounds, machines, kernels = KERNELS }) {
  const names = machinesHere(machines);
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-loops-'));
  const kernel = join(folder, 'loops.bin');
  writeFileSync(kernel, buildGuest('loops'));
  const running = {};
  try {
    for (const name of names) {
      running[name] = await MACHINES[name].start({ kernel, ramMiB: 64 });
      await running[name].line('loops', 120);
      running[name].pause(); // a guest that waits polls: only the one that is measured may run
    }
    const counter = names.includes('interpreter') ? running.interpreter : undefined;
    if (counter === undefined) throw new Error('the interpreter counts the instructions: leave it among --machines');
    return await measure({ rounds, kernels, names, running, counter });
  } finally {
    for (const machine of Object.values(running)) {
      machine.resume();
      await machine.stop();
    }
    rmSync(folder, { recursive: true });
  }
}

async function measure({ rounds, kernels, names, running, counter }) {
  const figures = {};
  for (const kernel of kernels) {
    const per = await instructionsPerRun(counter, kernel);
    const counts = {};
    const results = new Set();
    for (const name of names) counts[name] = await calibrate(running[name], kernel, results);
    if (results.size !== 1) throw new Error(`${kernel}: the machines do not agree: ${[...results].join(', ')}`);
    const best = Object.fromEntries(names.map((name) => [name, 0]));
    for (let round = 0; round < rounds; round += 1) {
      for (const name of names) {
        const { ms } = await order(running[name], kernel, counts[name]);
        best[name] = Math.max(best[name], (per * counts[name]) / ms / 1000);
      }
    }
    figures[kernel] = {
      instructions: per,
      mips: each(names, (name) => significant(best[name])),
      usPerRun: each(names, (name) => significant(per / best[name])),
    };
    console.log(`${kernel}: ${names.map((name) => `${MACHINES[name].label} ${significant(best[name])}`).join(', ')}`);
  }
  const mean = geometricMeans(figures, names);
  const cell = ({ mips, usPerRun }, name) => `${mips[name]} (${usPerRun[name]} µs)`;
  console.log(
    table(
      ['kernel', 'instructions', ...names.map((name) => `${MACHINES[name].label}: MIPS (a run)`)],
      [
        ...Object.entries(figures).map(([kernel, figure]) => [
          kernel,
          figure.instructions,
          ...names.map((name) => cell(figure, name)),
        ]),
        ['geometric mean', '', ...names.map((name) => mean[name])],
        ['of interpreter', '', ...names.map((name) => (mean[name] / mean.interpreter).toFixed(2))],
        ...(names.includes('compiler')
          ? [['compiler tier is so many times', '', ...names.map((name) => (mean.compiler / mean[name]).toFixed(2))]]
          : []),
      ],
    ),
  );
  const ratioToInterpreter = each(names, (name) => significant(mean[name] / mean.interpreter));
  return { rounds, kernels: figures, geometricMeanMips: mean, ratioToInterpreter };
}

/** One order to the guest. @returns  CPU ms it took, the instructions if the machine counts them, the result. */
async function order(machine, kernel, count) {
  machine.resume();
  const before = cpuMsOf(machine.pid);
  machine.send(`${kernel} ${count}\n`);
  const go = await machine.line('go', 120);
  const done = await machine.line('done', 120);
  machine.pause();
  const result = done.line.split(' ')[1];
  if (result === 'unknown') throw new Error(`the guest has no kernel "${kernel}"`);
  // Terrarium's own figures are taken as the line's end is written; of the others the bench sees it a little later
  if (done.instructions === undefined) return { ms: done.cpuMs - before, result };
  return { ms: done.cpuMs - go.cpuMs, instructions: done.instructions - go.instructions, result };
}

/** Exact, and proven to be the same for each run: three runs more are three times that many more. */
async function instructionsPerRun(counter, kernel) {
  await order(counter, kernel, 1); // sets up what is set up once
  const one = (await order(counter, kernel, 1)).instructions;
  const two = (await order(counter, kernel, 2)).instructions;
  const five = (await order(counter, kernel, 5)).instructions;
  if (five - two !== 3 * (two - one)) throw new Error(`${kernel}: its runs differ: ${two - one}, ${(five - two) / 3}`);
  return two - one;
}

/** @returns  A count of runs that takes about WANTED_MS; by then compilers have compiled, too. */
async function calibrate(machine, kernel, results) {
  let count = 1;
  for (;;) {
    const { ms, result } = await order(machine, kernel, count);
    results.add(result);
    if (ms >= WANTED_MS / 3) return Math.max(1, Math.round((count * WANTED_MS) / ms));
    count = ms < WANTED_MS / 40 ? count * 8 : Math.max(count + 1, Math.round((count * WANTED_MS) / ms));
  }
}

function geometricMeans(figures, names) {
  const entries = Object.entries(figures);
  const counted = entries.filter(([kernel]) => !MOVES_ONLY.has(kernel));
  const rows = counted.length > 0 ? counted : entries;
  return each(names, (name) =>
    significant(Math.exp(rows.reduce((sum, [, { mips }]) => sum + Math.log(mips[name]), 0) / rows.length)),
  );
}

const each = (names, value) => Object.fromEntries(names.map((name) => [name, value(name)]));
const significant = (x) => Number(x.toPrecision(4));
