/**
 * The initial file system of our Linux guests: static busybox, an init of our own, modules and the user's files.
 *
 * The init's lines that tests wait for start with TERRARIUM-INIT. What the kernel command line may say to it (the
 * kernel hands words it does not know to init's environment):
 *
 *   TERRARIUM_RUN="cmd"     runs cmd with sh instead of an interactive shell, then powers off
 *   TERRARIUM_MODULES=no    loads no module
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { CpioArchive } from './cpio.mjs';
import { withoutSignature } from './modules.mjs';
import { UserError } from './user-error.mjs';

/**
 * PID 1 is this shell, and it only waits: so it can act at once on the signals that `poweroff`, `reboot` and `halt`
 * send it. The user's shell is no `&` child, for such a child has to ignore SIGINT for good (POSIX 2.11 "Signals
 * and Error Handling") and Ctrl-C would do nothing: start-stop-daemon gives it a session of its own instead.
 */
const INIT = `#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM="\${TERM:-linux}"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /tmp 2>/dev/null
mount -t tmpfs tmpfs /run 2>/dev/null

if [ "$TERRARIUM_MODULES" != no ]; then
  while read -r module; do
    modprobe "$module" 2>/dev/null || echo "TERRARIUM-INIT-MODULE-REFUSED $module"
  done < /etc/terrarium-modules
fi

hostname terrarium
echo TERRARIUM-INIT-READY

trap 'poweroff -f' USR2
trap 'reboot -f' TERM
trap 'halt -f' USR1
start-stop-daemon -S -b -p /run/session.pid -a /bin/sh -- /etc/terrarium-session
while :; do sleep 100000 & wait $!; done
`;

const SESSION = `exec < /dev/console > /dev/console 2>&1
cd /root
if [ -n "$TERRARIUM_RUN" ]; then
  sh -c "$TERRARIUM_RUN"
else
  setsid cttyhack sh -i
fi
echo "TERRARIUM-INIT-EXIT $?"
poweroff -f
`;

/**
 * @param busybox  Path of the static binary.
 * @param modules  What `Modules.closure` gave; loaded at boot in this order.
 * @param adds     `{ host, guest }` files to copy in, with their host's permission bits.
 * @param strip    'none', 'signatures' or 'unneeded' (binutils' strip: symbols and signature go).
 */
export function buildInitramfs({ busybox, kernelVersion, modules, loaded, adds, strip }) {
  const archive = new CpioArchive();
  for (const path of ['bin', 'sbin', 'usr/bin', 'usr/sbin', 'etc', 'proc', 'sys', 'run', 'root', 'dev']) {
    archive.directory(path);
  }
  archive.directory('tmp', 0o1777);
  archive.characterDevice('dev/console', 5, 1); // init's standard files, before devtmpfs is mounted
  archive.characterDevice('dev/null', 1, 3, 0o666);

  archive.file('bin/busybox', readFileSync(busybox), 0o755);
  const applets = spawnSync(busybox, ['--list-full'], { encoding: 'utf8' });
  if (applets.status !== 0)
    throw new UserError(`${busybox} does not run on this machine: an x86-64 Linux is needed here`);
  for (const applet of applets.stdout.split('\n').filter(Boolean)) {
    if (applet !== 'bin/busybox') archive.link(applet, '/bin/busybox');
  }
  if (!applets.stdout.includes('/modprobe\n')) throw new UserError(`${busybox} has no modprobe; busybox-static has`);

  archive.file('init', INIT, 0o755);
  archive.file('etc/terrarium-session', SESSION);
  archive.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n');
  archive.file('etc/group', 'root:x:0:\n');
  archive.file('etc/terrarium-modules', loaded.map((name) => `${name}\n`).join(''));

  const root = `lib/modules/${kernelVersion}`;
  for (const { file, path } of modules) archive.file(`${root}/${path}`, moduleBytes(file, strip));
  const pathOf = new Map(modules.map(({ name, path }) => [name, path]));
  const lines = modules.map(
    ({ name, path }) =>
      `${path}: ${orderOf(name, modules)
        .map((n) => pathOf.get(n))
        .join(' ')}\n`,
  );
  archive.file(`${root}/modules.dep`, lines.join(''));

  for (const { host, guest } of adds) {
    let content;
    try {
      content = readFileSync(host);
    } catch (error) {
      throw new UserError(`cannot read ${host} for --add (${error.code}): give --add HOSTFILE:GUESTPATH`);
    }
    archive.file(guest, content, statSync(host).mode & 0o777);
  }
  return archive.bytes();
}

/**
 * modules.dep wants every dependency, and a module before what it depends on: modprobe loads from the end. Reversed
 * post-order does that where two modules share one.
 */
function orderOf(name, modules) {
  const byName = new Map(modules.map((module) => [module.name, module]));
  const found = [];
  const visit = (current) => {
    for (const other of byName.get(current)?.depends ?? []) {
      if (byName.has(other) && !found.includes(other)) visit(other);
    }
    found.push(current);
  };
  visit(name);
  return found.reverse().slice(1);
}

function moduleBytes(file, strip) {
  if (strip === 'none') return readFileSync(file);
  if (strip === 'signatures') return withoutSignature(readFileSync(file));
  const into = join(mkdtempSync(join(tmpdir(), 'terrarium-')), 'module.ko');
  const result = spawnSync('strip', ['--strip-unneeded', '-o', into, file]);
  if (result.error)
    throw new UserError('--strip unneeded runs binutils\' strip, which is not here: "apt-get install binutils"');
  if (result.status !== 0) {
    throw new UserError(`strip failed on ${file} (${result.stderr.toString().trim()}): use --strip signatures`);
  }
  const bytes = readFileSync(into);
  rmSync(dirname(into), { recursive: true });
  return bytes;
}

export const initramfsPath = (cache, flavour, name) => join(cache, flavour, `${name}.cpio`);
