/**
 * The machines that are compared, each a child process with COM1 in our hands.
 *
 * Owns    how each is started, and CPU time (user and system) as the one measure: the host is shared, so the clock
 *         on the wall says nothing.
 */
import { spawn, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

export const checkout = dirname(dirname(dirname(new URL(import.meta.url).pathname)));
export const dist = join(checkout, 'dist');

const found = (tool, argument = '--version') => !spawnSync(tool, [argument]).error;

/** CPU time of all threads of a process, in ms: /proc/PID/task/N/schedstat, first number, ns. */
export function cpuMsOf(pid) {
  let ns = 0;
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    try {
      ns += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]);
    } catch (error) {
      if (error.code !== 'ENOENT' && error.code !== 'ESRCH') throw error; // a thread that has just ended
    }
  }
  return ns / 1e6;
}

/** A machine that runs. Every line of COM1 becomes an event {line, cpuMs, atMs} and, from Terrarium, its counters. */
class Running {
  events = [];
  /** CPU time that firmware and loader had, where the machine needs them to start a kernel. */
  loaderMs = 0;
  /** When the machine was started, or had a kernel loaded by itself: `performance.now()`. */
  startedMs = performance.now();
  #child;
  #wake = () => {};
  #ended = false;
  #cleanUp;

  constructor(child, cleanUp = () => {}) {
    this.#child = child;
    this.#cleanUp = cleanUp;
    process.once('exit', () => child.kill('SIGKILL'));
    child.on('exit', () => {
      this.#ended = true;
      this.#wake();
    });
    child.on('error', () => {
      this.#ended = true;
      this.#wake();
    });
  }

  get pid() {
    return this.#child.pid;
  }

  event(event) {
    event.atMs = performance.now();
    this.events.push(event);
    this.#wake();
  }

  /** Next event whose line contains the text; those before it are dropped. */
  async line(text, seconds = 600) {
    const end = performance.now() + seconds * 1000;
    for (;;) {
      while (this.events.length > 0) {
        const event = this.events.shift();
        if (event.line?.includes(text)) return event;
      }
      if (this.#ended) throw new Error(`the machine ended before it printed "${text}"`);
      if (performance.now() > end) throw new Error(`no "${text}" within ${seconds} s`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async ask(message, key) {
    this.#child.send(message);
    for (;;) {
      const event = this.events.find((each) => key in each);
      if (event) return event[key];
      await new Promise((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  pause() {
    process.kill(this.pid, 'SIGSTOP');
  }

  resume() {
    process.kill(this.pid, 'SIGCONT');
  }

  async stop(how = 'SIGKILL') {
    if (!this.#ended) {
      const gone = new Promise((resolve) => this.#child.once('exit', resolve));
      if (how === 'end') this.#child.send('end');
      else this.#child.kill(how);
      await gone;
    }
    this.#cleanUp();
  }
}

/** Calls back with each line of a byte stream. */
function lines(stream, each) {
  let rest = '';
  stream.on('data', (bytes) => {
    const parts = (rest + bytes.toString('latin1')).split('\n');
    rest = parts.pop();
    for (const part of parts) each(part.trim());
  });
  stream.on('error', () => {});
}

/** @param nodeOptions  For node itself, as --cpu-prof. */
export function startTerrarium(accel, guest, more = {}, nodeOptions = []) {
  const program = new URL('terrarium-child.mjs', import.meta.url).pathname;
  const child = spawn(
    process.execPath,
    [...nodeOptions, program, JSON.stringify({ ...guest, accel, dist: more.dist ?? dist, ...more })],
    { stdio: ['pipe', 'pipe', 'inherit', 'ipc'] },
  );
  const running = new Running(child);
  child.stdout.resume();
  child.on('message', (message) => running.event(message));
  running.send = (text) => child.stdin.write(text);
  return running;
}

function startQemu(guest) {
  const options = ['-M', 'pc', '-accel', 'tcg', '-cpu', 'max', '-m', `${guest.ramMiB ?? 512}`, '-display', 'none'];
  const initrd = guest.initrd ? ['-initrd', guest.initrd] : [];
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...options,
      '-nodefaults',
      '-no-reboot',
      '-serial',
      'stdio',
      '-kernel',
      guest.kernel,
      ...initrd,
      '-append',
      guest.append ?? '',
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const running = new Running(child);
  lines(child.stdout, (line) => running.event({ line, cpuMs: cpuMsOf(child.pid) }));
  running.send = (text) => child.stdin.write(text);
  return running;
}

/** A CD with GRUB, which starts the kernel and says so on COM1: firmware and loader are not counted. */
const KERNEL_STARTS = 'BENCH-KERNEL-STARTS';
const BOCHS_MODEL = 'corei7_haswell_4770';

function bochsDisc(folder, guest) {
  const boot = join(folder, 'iso/boot');
  mkdirSync(join(boot, 'grub'), { recursive: true });
  copyFileSync(guest.kernel, join(boot, 'kernel'));
  if (guest.initrd) copyFileSync(guest.initrd, join(boot, 'initrd'));
  const append = guest.append ?? '';
  const how = guest.initrd ? `linux /boot/kernel ${append}\ninitrd /boot/initrd` : `multiboot /boot/kernel ${append}`;
  writeFileSync(
    join(boot, 'grub/grub.cfg'),
    `set timeout=0\nserial --unit=0 --speed=115200\nterminal_output serial\nmenuentry k {\n${how}\necho ${KERNEL_STARTS}\nboot\n}\n`,
  );
  const made = spawnSync('grub-mkrescue', ['-o', join(folder, 'k.iso'), join(folder, 'iso')], { encoding: 'utf8' });
  if (made.status !== 0) throw new Error(`grub-mkrescue: ${made.stderr}`);
}

/** Where a Bochs is: the program, the folder of its BIOS, what its bochsrc says of display and sound, its surroundings. */
const DEBIAN_BOCHS = {
  program: 'bochs-bin',
  bios: '/usr/share/bochs',
  // ALSA's driver ends a host without sound card with a buffer overflow
  options: 'display_library: rfb, options="timeout=0"\nsound: driver=dummy',
  env: { BXSHARE: '/usr/share/bochs', LTDL_LIBRARY_PATH: '/usr/lib/x86_64-linux-gnu/bochs/plugins' },
};
/** A Bochs that was built by hand: TERRARIUM_BOCHS names the folder that it was built in. */
const ownBochs = () => {
  const folder = process.env.TERRARIUM_BOCHS ?? '';
  return { program: join(folder, 'bochs'), bios: join(folder, 'bios'), options: 'display_library: nogui', env: {} };
};

/** With a debugger built in, Bochs waits for a command before it starts. */
const hasDebugger = ({ program }) => {
  const { stdout, stderr } = spawnSync(program, ['--help'], { encoding: 'utf8' });
  return /^ *-rc /m.test(stdout + stderr);
};

async function startBochs(bochs, guest) {
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-bochs-'));
  bochsDisc(folder, guest);
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const ram = guest.ramMiB ?? 512;
  writeFileSync(
    join(folder, 'bochsrc'),
    `cpu: model=${BOCHS_MODEL}, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=${ram}, host=${ram}
romimage: file=${bochs.bios}/BIOS-bochs-latest
vgaromimage: file=${bochs.bios}/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=${folder}/k.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=socket-client, dev=127.0.0.1:${server.address().port}
log: ${folder}/log
${bochs.options}
panic: action=report
error: action=report
`,
  );
  writeFileSync(join(folder, 'rc'), 'c\n');
  const commands = hasDebugger(bochs) ? ['-rc', join(folder, 'rc')] : [];
  const child = spawn(bochs.program, ['-q', '-f', join(folder, 'bochsrc'), ...commands], {
    stdio: ['ignore', 'ignore', 'ignore'],
    env: { ...process.env, ...bochs.env },
  });
  const running = new Running(child, () => {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  });
  server.on('connection', (socket) => {
    lines(socket, (line) => {
      const cpuMs = cpuMsOf(child.pid);
      if (line.includes(KERNEL_STARTS)) {
        running.loaderMs = cpuMs;
        running.startedMs = performance.now();
      }
      running.event({ line, cpuMs });
    });
    running.send = (text) => socket.write(text);
  });
  try {
    await running.line(KERNEL_STARTS, 300);
  } catch (error) {
    const log = existsSync(join(folder, 'log')) ? readFileSync(join(folder, 'log'), 'latin1') : '';
    await running.stop();
    throw new Error(`${bochs.program}: ${error.message}; its log ends:\n${log.split('\n').slice(-12).join('\n')}`);
  }
  return running;
}

/** By guest and number of runs: folders with what those have left. */
const leftBy = new Map();

/** The compiler tier with what earlier runs of the same guest have left, which are not measured: up to its line `last`. */
async function startAgain(guest, runs) {
  const key = JSON.stringify([guest, runs]);
  let left = leftBy.get(key);
  if (!left) {
    left = temporaryFolder();
    for (let run = 0; run < runs; run += 1) {
      const earlier = startTerrarium('compiler', guest, { jitCache: left });
      await earlier.line(guest.last, 3_600);
      await earlier.stop('end');
    }
    leftBy.set(key, left);
  }
  // Each has so many before it, and no more
  const jitCache = temporaryFolder();
  cpSync(left, jitCache, { recursive: true });
  return startTerrarium('compiler', guest, { jitCache });
}

function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Name → how it is started with a guest {kernel, initrd, append, ramMiB, last}, and whether it is here. */
export const MACHINES = {
  interpreter: {
    label: 'Terrarium, interpreter',
    here: () => true,
    start: async (guest) => startTerrarium('interpreter', guest),
  },
  compiler: {
    label: 'Terrarium, compiler tier',
    here: () => existsSync(join(dist, 'engine/tiers/compiler/compiler.js')),
    start: async (guest) => startTerrarium('compiler', guest),
  },
  second: {
    label: 'Terrarium, compiler tier, second start',
    starts: true,
    // What is known to work: src/tools/jit-cache/native-code.ts
    here: () => existsSync(join(dist, 'tools/jit-cache/jit-cache.js')) && process.versions.node.startsWith('20.'),
    start: (guest) => startAgain(guest, 1),
  },
  later: {
    label: 'Terrarium, compiler tier, later start',
    starts: true,
    here: () => MACHINES.second.here(),
    start: (guest) => startAgain(guest, 3),
  },
  qemu: { label: 'QEMU TCG', here: () => found('qemu-system-x86_64'), start: async (guest) => startQemu(guest) },
  bochs: {
    label: "Debian's Bochs",
    slow: true, // a boot takes a minute: one is enough
    here: () => found('bochs-bin', '--help') && found('grub-mkrescue'),
    start: async (guest) => startBochs(DEBIAN_BOCHS, guest),
  },
  'bochs-own': {
    label: 'Bochs of TERRARIUM_BOCHS',
    slow: true,
    here: () => 'TERRARIUM_BOCHS' in process.env && found(ownBochs().program, '--help') && found('grub-mkrescue'),
    start: async (guest) => startBochs(ownBochs(), guest),
  },
};

/**
 * Those asked for that are here; says which are not.
 *
 * @param starts  What is measured begins when the guest does: also machines that differ in that alone.
 */
export function machinesHere(names, { starts = false } = {}) {
  return names.filter((name) => {
    if (MACHINES[name].starts && !starts) return false;
    const here = MACHINES[name].here();
    if (!here) console.log(`${MACHINES[name].label}: not here, left out`);
    return here;
  });
}
