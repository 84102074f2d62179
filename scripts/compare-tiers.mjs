#!/usr/bin/env node
/**
 * The same run on several tiers, compared to the last byte: serial output with the virtual time of each byte, every exit
 * to L0 with its instruction count and registers, counters of exits, registers and RAM at the end. Status 1 if they differ.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

const HELP = `usage: node scripts/compare-tiers.mjs --kernel FILE [options]
  --kernel FILE, --initrd FILE, --append TEXT, --cpu MODEL, --smp N, --memory MIB, --tdp on|off   as terrarium run has them
  --until TEXT      run until COM1 has printed this (default: until the machine ends)
  --seconds N       at most so many seconds of virtual time (default: 60)
  --type TEXT       type this line when COM1 shows "~ #"; may be repeated
  --every N         look at the registers every N instructions, too (default: never)
  --tiers LIST      (default: interpreter,compiler:1,compiler); a number behind a colon is the threshold
  --dist FOLDER     the build to run (default: dist of this checkout)
  --show            print what COM1 printed
`;

const { values } = parseArgs({
  options: {
    kernel: { type: 'string' },
    initrd: { type: 'string' },
    append: { type: 'string', default: '' },
    cpu: { type: 'string', default: 'intel' },
    smp: { type: 'string', default: '1' },
    memory: { type: 'string', default: '64' },
    tdp: { type: 'string', default: 'on' },
    until: { type: 'string' },
    seconds: { type: 'string', default: '60' },
    type: { type: 'string', multiple: true, default: [] },
    every: { type: 'string' },
    tiers: { type: 'string', default: 'interpreter,compiler:1,compiler' },
    dist: { type: 'string' },
    show: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
if (values.help || !values.kernel) {
  (values.help ? process.stdout : process.stderr).write(HELP);
  process.exit(values.help ? 0 : 2);
}

const checkout = dirname(dirname(new URL(import.meta.url).pathname));
const load = (file) => import(pathToFileURL(join(values.dist ?? join(checkout, 'dist'), file)).href);
const { Machine } = await load('machine/machine.js');
const { TraceHash, hashWords } = await load('inspect/trace-hash.js');
const { snapshotRegisters } = await load('inspect/registers.js');
const { snapshotCounters } = await load('inspect/counters.js');

const bytesOf = (file) => new Uint8Array(readFileSync(file));
const PROMPT = '~ #';

/** Everything that must be equal under `same`; what may differ beside it. */
function run(tier) {
  const [accel, threshold] = tier.split(':');
  const serial = createHash('sha256');
  const stamp = new Float64Array(2);
  let output = '';
  const machine = new Machine({
    cpu: values.cpu,
    cpus: Number(values.smp),
    ramBytes: Number(values.memory) * 2 ** 20,
    tdp: values.tdp !== 'off',
    kernel: { name: basename(values.kernel), bytes: bytesOf(values.kernel) },
    modules: values.initrd ? [{ bytes: bytesOf(values.initrd), commandLine: '' }] : [],
    commandLine: values.append,
    debugExit: { iobase: 0xf4, iosize: 4 },
    epochMs: 1_700_000_000_000,
    reboot: false,
    accel,
    ...(threshold ? { jitThreshold: Number(threshold) } : {}),
    serial: [
      (byte) => {
        output += String.fromCharCode(byte);
        stamp[0] = byte;
        stamp[1] = machine.vm.clock.nowNs();
        serial.update(new Uint8Array(stamp.buffer));
      },
    ],
  });
  const trace = new TraceHash(values.every ? Number(values.every) : undefined);
  machine.vm.watcher = trace;
  const start = process.cpuUsage();
  const limit = Number(values.seconds) * 1e9;
  const lines = [...values.type];
  let typedAt = 0;
  let result = 'time';
  while (result !== 'ended' && machine.nowNs < limit) {
    if (lines.length > 0 && output.indexOf(PROMPT, typedAt) >= 0) {
      typedAt = output.length;
      machine.serialInput(0, new TextEncoder().encode(`${lines.shift()}\r`));
    }
    if (lines.length === 0 && values.until && output.indexOf(values.until, typedAt) >= 0) break;
    result = machine.run(Math.min(limit, machine.nowNs + 5e6));
    if (result === 'idle') machine.advanceTo(Math.min(limit, Math.max(machine.nextDeadlineNs, machine.nowNs + 1e6)));
  }
  const { user, system } = process.cpuUsage(start);
  const { compiler, lockstep } = machine.engine;
  const { exits, instructions } = snapshotCounters(machine.vm);
  const registers = machine.vcpus.map((vcpu) => {
    const { activity, level, ...all } = snapshotRegisters(vcpu);
    return JSON.stringify({ activity, level, ...all }, (_, value) =>
      typeof value === 'bigint' ? value.toString(16) : value,
    );
  });
  return {
    output,
    same: {
      end: machine.ending ? `${machine.ending.kind} ${machine.ending.status}` : result,
      nowNs: machine.nowNs,
      instructions,
      serial: serial.digest('hex').slice(0, 16),
      bytes: output.length,
      exits: Object.entries(exits)
        .map(([name, count]) => `${name} ${count}`)
        .join(', '),
      trace: `${trace.text} of ${trace.exits} exits and ${trace.stops} stops`,
      registers: createHash('sha256').update(registers.join()).digest('hex').slice(0, 16),
      memory: hashWords(machine.engine.memory.u32.subarray(machine.engine.memory.ram >>> 2)),
    },
    beside: {
      cpuSeconds: ((user + system) / 1e6).toFixed(1),
      compiled: compiler?.counters.compiled ?? 0,
      lost: compiler?.counters.lost ?? 0,
      compared: lockstep?.counters.compared ?? 0,
    },
  };
}

let first;
let differences = 0;
for (const tier of values.tiers.split(',')) {
  const { output, same, beside } = run(tier);
  if (!first) {
    first = same;
    if (values.show) console.log(output);
    for (const [name, value] of Object.entries(same)) console.log(`${name.padEnd(13)}${value}`);
  }
  const others = Object.keys(same).filter((name) => same[name] !== first[name]);
  for (const name of others) console.log(`${tier}: ${name} differs: ${same[name]}`);
  differences += others.length;
  const counts = Object.entries(beside).map(([name, value]) => `${name} ${value}`);
  console.log(`${tier}: ${others.length === 0 ? 'the same' : 'DIFFERENT'} (${counts.join(', ')})`);
}
process.exit(differences === 0 ? 0 : 1);
