#!/usr/bin/env node
/**
 * A long run of a Linux workload on one tier, by default in lockstep: Debian boots, then a shell script goes round and
 * round. Prints a line a minute (memory that grows for ever would be in "the rest"); a difference between the tiers ends it with status 70 and the report.
 */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { touchedMiB } from './touched-memory.mjs';

const HELP = `usage: node scripts/soak.mjs [options]
  --accel lockstep|compiler|interpreter   (default: lockstep)
  --minutes N       of this machine's time (default: 60)
  --threshold N     runs after which code is compiled (default: 100)
  --tb-size MIB     bound on compiled code (default: the machine's own)
  --smp N           CPUs of the guest (default: 1)
  --dist FOLDER     the build to run (default: dist of this checkout)
The guest is .cache/debian/cloud of this checkout: scripts/fetch-debian-kernel.mjs makes it.
`;

const { values } = parseArgs({
  options: {
    accel: { type: 'string', default: 'lockstep' },
    minutes: { type: 'string', default: '60' },
    threshold: { type: 'string', default: '100' },
    'tb-size': { type: 'string' },
    smp: { type: 'string', default: '1' },
    dist: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

/** One round: fork and exec, files, hashing, compression, awk, modules in and out. The last line is what is waited for. */
const ROUND = [
  'i=0; while [ $i -lt 10 ]; do /bin/true; /bin/busybox true; i=$((i+1)); done',
  'for m in virtio_blk virtio_net kvm_intel fuse; do modprobe $m; done; lsmod | wc -l',
  'find /bin /etc /sys/module -xdev 2>/dev/null | sort | sha256sum',
  'dd if=/bin/busybox of=/tmp/a bs=4k count=64 2>/dev/null; sha256sum /tmp/a',
  'gzip -c /tmp/a | gunzip -c | cmp - /tmp/a && echo same',
  `awk 'BEGIN { for (i = 1; i < 500; i++) { s += i / 7; t = t sprintf("%x", i) } printf "%.12f %d\\n", s, length(t) }'`,
  'tar c /etc /usr/bin 2>/dev/null | md5sum',
  'for m in virtio_blk virtio_net kvm_intel fuse virtio_pci; do modprobe -r $m; done; lsmod | wc -l',
  'echo $((0x7fffffff * 3)) | sed s/6/x/g; rm /tmp/a; echo "round is over: <$?>"',
];

const checkout = dirname(dirname(new URL(import.meta.url).pathname));
const dist = values.dist ?? join(checkout, 'dist');
const { prepareV8 } = await import(pathToFileURL(join(dist, 'tools/v8-flags.js')).href);
prepareV8();
const { Machine } = await import(pathToFileURL(join(dist, 'machine/machine.js')).href);
const cloud = join(checkout, '.cache/debian/cloud');
const bytesOf = (name) => new Uint8Array(readFileSync(join(cloud, name)));

let output = '';
const machine = new Machine({
  cpu: 'intel',
  cpus: Number(values.smp),
  ramBytes: 256 << 20,
  epochMs: 1_700_000_000_000,
  reboot: false,
  kernel: { name: 'vmlinuz', bytes: bytesOf('vmlinuz') },
  modules: [{ bytes: bytesOf('initramfs.cpio'), commandLine: '' }],
  commandLine: 'console=ttyS0 panic=-1 nokaslr quiet cryptomgr.notests',
  accel: values.accel,
  jitThreshold: Number(values.threshold),
  ...(values['tb-size'] ? { jitBytes: Number(values['tb-size']) * 2 ** 20 } : {}),
  serial: [
    (byte) => {
      output += String.fromCharCode(byte);
    },
  ],
});

const start = performance.now();
const end = start + Number(values.minutes) * 60_000;
let nextLine = start + 60_000;
let rounds = 0;
let first = '';

function tell() {
  const { compiler, lockstep } = machine.engine;
  const { user, system } = process.cpuUsage();
  const { rss, heapUsed } = process.memoryUsage();
  const alive = compiler?.alive;
  const rssMiB = rss / 2 ** 20;
  const memory = touchedMiB(machine.engine.memory.u8.buffer.byteLength);
  const rest =
    memory === undefined
      ? ''
      : `, of it the machine's memory ${memory.toFixed(0)}, the rest ${(rssMiB - memory).toFixed(0)}`;
  console.log(
    [
      `${((performance.now() - start) / 60_000).toFixed(1)} min`,
      `CPU ${((user + system) / 60e6).toFixed(1)} min`,
      `rounds ${rounds}`,
      `guest ${(machine.nowNs / 1e9).toFixed(1)} s, ${(machine.vcpus.reduce((n, { core }) => n + core.instructions, 0) / 1e6).toFixed(0)} M instructions`,
      lockstep
        ? `compared ${(lockstep.counters.compared / 1e6).toFixed(1)} M calls of ${(lockstep.counters.instructions / 1e6).toFixed(0)} M instructions, ${lockstep.counters.faults} of them with faults`
        : '',
      alive
        ? `regions ${alive.regions}, ${(alive.bytes / 2 ** 20).toFixed(1)} MiB, compiled ${compiler.counters.compiled}, lost ${compiler.counters.lost}, aged ${compiler.counters.aged}`
        : '',
      `RSS ${rssMiB.toFixed(0)} MiB${rest}; heap ${(heapUsed / 2 ** 20).toFixed(0)} MiB`,
    ]
      .filter((part) => part !== '')
      .join('; '),
  );
}

async function until(text) {
  while (!output.includes(text)) {
    const result = machine.run(machine.nowNs + 5e6);
    if (result === 'ended') throw new Error(`the machine ended: ${machine.ending.message}\n${output.slice(-2000)}`);
    if (result === 'idle') machine.advanceTo(Math.max(machine.nextDeadlineNs, machine.nowNs + 1e6));
    if (performance.now() > nextLine) {
      tell();
      nextLine += 60_000;
    }
    if (performance.now() > end) return false;
    await new Promise((resolve) => setImmediate(resolve));
  }
  const at = output.indexOf(text) + text.length;
  const found = output.slice(0, at);
  output = output.slice(at);
  return found;
}

try {
  if ((await until('~ #')) !== false) {
    tell();
    let going = true;
    while (going) {
      machine.serialInput(0, new TextEncoder().encode(`${ROUND.join('\r')}\r`));
      const answer = await until('round is over: <0>');
      going = answer !== false && (await until('~ #')) !== false;
      if (!going) break;
      rounds += 1;
      // What the commands print is the same in every round; the kernel's messages carry times
      const printed = answer.replaceAll('\r', '').replace(/\[ *[\d.]+\].*\n/g, '');
      if (first === '') {
        first = printed;
        console.log(printed);
      } else if (printed !== first) throw new Error(`this round printed something else:\n${printed}`);
    }
  }
  tell();
  console.log('no difference');
} catch (error) {
  tell();
  console.log(output.slice(-500));
  console.log(error.stack);
  process.exit(error.name === 'LockstepDifference' ? 70 : 1);
}
