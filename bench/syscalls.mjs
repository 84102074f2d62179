/**
 * System calls, page faults and processes: what a shell does all day. The same kernel, busybox and script on each machine;
 * each phase is said on COM1, and the CPU time between is the machine's.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { begins, debianWith, ends, measurePhases, QUIET } from './lib/phases.mjs';

/** Phase → what is done. Each is seconds long on a machine of 500 MIPS. */
const PHASES = {
  'fork and exec': 'i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done',
  find: 'for i in 1 2 3; do find / -xdev > /dev/null; find /proc /sys -maxdepth 4 > /dev/null 2>&1; done',
  'shell script': `i=0
while [ $i -lt 3000 ]; do
  case $((i % 7)) in 0) word=seven;; 1|2) word="low $i";; *) word=\${word#l};; esac
  [ -n "$word" ] && text="$text\${word%?}"
  [ \${#text} -gt 400 ] && text=
  i=$((i+1))
done
i=0
while [ $i -lt 40 ]; do
  echo "line $i of a pipe" | sed 's/of/in/' | cut -d ' ' -f 2- | tr a-z A-Z > /tmp/out
  read first rest < /tmp/out
  i=$((i+1))
done`,
  'page faults':
    'i=0; while [ $i -lt 6 ]; do dd if=/dev/zero of=/tmp/zero bs=8M count=2 2>/dev/null; rm /tmp/zero; i=$((i+1)); done',
};

const SECONDS = 3_600;

export async function syscalls({ rounds, machines }) {
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-syscalls-'));
  try {
    const parts = Object.entries(PHASES).map(([name, text]) => `${begins(name)}\n${text}\n${ends(name)}\n`);
    // The files that are looked for and started come from the page cache in every phase
    const script = `#!/bin/sh\nfind / -xdev > /dev/null; /bin/true\n${parts.join('')}`;
    const { kernel, initramfs } = debianWith(folder, 'bench-syscalls', script);
    const guest = {
      kernel,
      initrd: initramfs,
      append: `${QUIET} TERRARIUM_RUN=/bench`,
      ramMiB: 512,
      mark: 'BENCH-PHASE',
    };
    const phases = Object.keys(PHASES).map((name) => ({ name }));
    return await measurePhases({ rounds, machines, guest, phases, seconds: SECONDS });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
