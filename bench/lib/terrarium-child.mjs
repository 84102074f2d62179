/**
 * One Terrarium machine in a process of its own, so that its CPU time is the process's. COM1 is stdin and stdout.
 *
 * argv[2]   the machine as JSON: kernel, initrd, append, ramMiB, cpu, accel, nestedMmu, profile, mark, dist;
 *           jitCache: a folder with native code of earlier runs.
 * IPC       after each line of COM1 (of those with the text `mark`, if there is one) {line, instructions, cpuMs, mmu, exits}; the message 'profile' is answered by
 *           {profile: [[name, count], …]}, the message 'end' ends the process in good order (--cpu-prof wants that).
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { loadBundle } from '../../bin/bundle.mjs';

const options = JSON.parse(process.argv[2]);
const { JitCache, Machine, once, snapshotCounters } = await loadBundle(options.dist);

const SLICE_NS = 5_000_000;
const bytesOf = (file) => ({ name: basename(file), bytes: readFileSync(file) });

// What came with the build is as much a part of it as its code
const cache = JitCache.open({ folder: options.jitCache });

let line = '';
let out = [];
const machine = once(
  () =>
    new Machine({
      cpu: options.cpu ?? 'intel',
      cpus: 1,
      ramBytes: (options.ramMiB ?? 512) * 2 ** 20,
      kernel: bytesOf(options.kernel),
      ...(options.initrd ? { modules: [{ ...bytesOf(options.initrd), commandLine: '' }] } : {}),
      commandLine: options.append ?? '',
      accel: options.accel ?? 'interpreter',
      ...(options.jitThreshold ? { jitThreshold: options.jitThreshold } : {}),
      ...(options.nestedMmu ? { nestedMmu: options.nestedMmu } : {}),
      ...(options.profile ? { profile: true } : {}),
      ...(cache ? { jitModules: cache } : {}),
      debugExit: { iobase: 0xf4, iosize: 4 },
      epochMs: Date.UTC(2026, 0, 1),
      serial: [
        (byte) => {
          out.push(byte);
          if (byte !== 10) {
            line += String.fromCharCode(byte);
            return;
          }
          if (options.mark && !line.includes(options.mark)) {
            line = '';
            return;
          }
          const { user, system } = process.cpuUsage();
          const { instructions, mmu, exits } = snapshotCounters(machine.vm);
          process.send({ line: line.trim(), instructions, cpuMs: (user + system) / 1000, mmu, exits });
          line = '';
        },
      ],
    }),
);

process.stdin.on('data', (bytes) => machine.serialInput(0, bytes));
process.on('message', (message) => {
  if (message === 'end') {
    cache?.finish();
    process.exit(0);
  }
  if (message === 'profile') process.send({ profile: handlerCounts() });
});

function handlerCounts() {
  const { memory, interpreter } = machine.engine;
  return interpreter.names
    .map((name, i) => [name, memory.u32[(memory.profile >> 2) + i]])
    .filter(([, count]) => count > 0)
    .sort(([, a], [, b]) => b - a);
}

cache?.start();
for (;;) {
  const result = machine.run(machine.nowNs + SLICE_NS);
  if (out.length > 0) process.stdout.write(Uint8Array.from(out));
  out = [];
  if (result === 'ended') break;
  if (result === 'idle' && machine.nextDeadlineNs >= 0) machine.advanceTo(machine.nextDeadlineNs);
  await new Promise((resolve) => setImmediate(resolve));
}
// A guest that powers off behind its last line may be faster than the message
cache?.finish();
process.send({ ended: machine.ending.kind, status: machine.ending.status }, () => process.exit(0));
