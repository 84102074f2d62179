#!/usr/bin/env node
/**
 * Fetches Debian's kernel through apt and builds an initial file system for it, both under .cache/debian of this
 * checkout, which git ignores: nothing of Debian's enters the repository.
 *
 *   .cache/debian/<flavour>/vmlinuz            the unmodified bzImage
 *   .cache/debian/<flavour>/initramfs.cpio     busybox, our init, modules (--name gives another name)
 *   .cache/debian/<flavour>/about.json         package versions, SHA-256 of both, modules inside
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { buildInitramfs, initramfsPath } from './debian/initramfs.mjs';
import { canonical, Modules } from './debian/modules.mjs';
import { bring, bringWithDependencies, requireDebian, resolveMetapackage } from './debian/packages.mjs';
import { takeFiles } from './debian/programs.mjs';
import { runMain, UserError } from './debian/user-error.mjs';

/** Flavour → metapackage, and modules put in (not loaded) by default. All virtio, disks and networks are modules. */
export const FLAVOURS = {
  cloud: { metapackage: 'linux-image-cloud-amd64', carried: ['virtio*'] },
  generic: { metapackage: 'linux-image-amd64', carried: ['virtio*', 'ext4'] },
  // 32 bits: the one without PAE, the other with it
  686: { metapackage: 'linux-image-686', carried: ['virtio*', 'ext4'], architecture: 'i386' },
  '686-pae': { metapackage: 'linux-image-686-pae', carried: ['virtio*', 'ext4'], architecture: 'i386' },
};
const CARRIED = ['irqbypass', 'kvm', 'kvm-intel', 'kvm-amd', 'virtio_blk', 'virtio_net', 'virtio_console', 'ext4'];

const HELP = `usage: node scripts/fetch-debian-kernel.mjs [options]
  --flavour NAME            cloud, generic, 686 or 686-pae; may be repeated (default: cloud)
  --module NAME             load this module at boot, after its dependencies; may be repeated
  --add HOST:GUEST          copy a file into the initial file system; may be repeated
  --package NAME            download this package too, with all it depends on, for --take; may be repeated
  --take PATH               copy this file of those packages, a program with its libraries; may be repeated
  --strip HOW               none (default), signatures, or unneeded: smaller modules load with fewer instructions
  --bare                    carry no module but those of --module
  --name NAME               write NAME.cpio (default: initramfs)
  --out FOLDER              (default: .cache/debian of this checkout)
  --refresh                 ask apt again although the packages are in the cache
The kernel command line can say TERRARIUM_RUN="cmd" (run it, then power off) and TERRARIUM_MODULES=no.
`;

const OPTIONS = {
  flavour: { type: 'string', multiple: true, default: ['cloud'] },
  module: { type: 'string', multiple: true, default: [] },
  add: { type: 'string', multiple: true, default: [] },
  package: { type: 'string', multiple: true, default: [] },
  take: { type: 'string', multiple: true, default: [] },
  strip: { type: 'string', default: 'none' },
  bare: { type: 'boolean', default: false },
  name: { type: 'string', default: 'initramfs' },
  out: { type: 'string' },
  refresh: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
};

const checkout = dirname(dirname(new URL(import.meta.url).pathname));
const say = (line) => console.log(line);
const sha256 = (file) => createHash('sha256').update(readFileSync(file)).digest('hex');

/**
 * Brings one flavour and writes its kernel and initial file system.
 *
 * @returns  Absolute paths `{ kernel, initramfs, about }`.
 */
export function fetchDebianKernel({
  flavour,
  load,
  adds,
  packages = [],
  takes = [],
  strip,
  bare,
  name,
  cache,
  refresh,
}) {
  const { metapackage, carried, architecture } = FLAVOURS[flavour];
  const kernelPackage = refreshable(cache, flavour, refresh) ?? resolveMetapackage(metapackage, cache, architecture);
  const kernel = bring(kernelPackage, cache, { refresh, say, architecture });
  const busybox = bring('busybox-static', cache, { refresh, say, architecture });
  const taken = takes.length ? takeFiles(takes, bringWithDependencies(packages, cache, { refresh, say })) : [];

  const image = readdirSync(join(kernel.folder, 'boot')).find((file) => file.startsWith('vmlinuz-'));
  const kernelVersion = image.replace('vmlinuz-', '');
  const modules = new Modules(join(kernel.folder, 'lib/modules', kernelVersion));
  const wanted = modules.closure(load, bare ? [] : CARRIED.concat(carried.filter((wild) => !wild.includes('*'))));
  const wild = bare ? [] : modules.closure(carried.filter((entry) => entry.includes('*')));
  const all = [...wanted, ...wild.filter(({ name: other }) => !wanted.some((module) => module.name === other))];

  const folder = join(cache, flavour);
  mkdirSync(folder, { recursive: true });
  const paths = { kernel: join(folder, 'vmlinuz'), initramfs: initramfsPath(cache, flavour, name) };
  writeWhole(paths.kernel, readFileSync(join(kernel.folder, 'boot', image)));
  const busyboxBinary = join(busybox.folder, 'bin/busybox');
  const archive = buildInitramfs({
    busybox: busyboxBinary,
    kernelVersion,
    modules: all,
    loaded: load.map(canonical),
    adds: [...adds, ...taken],
    strip,
  });
  writeWhole(paths.initramfs, archive);
  const about = join(folder, 'about.json');
  const before = existsSync(about) ? JSON.parse(readFileSync(about, 'utf8')) : {};
  const facts = {
    kernelPackage,
    kernelDeb: kernel.deb,
    busyboxDeb: busybox.deb,
    kernelVersion,
    kernelSha256: sha256(paths.kernel),
    initramfs: {
      ...before.initramfs,
      [name]: {
        sha256: sha256(paths.initramfs),
        bytes: archive.length,
        strip,
        loaded: load,
        modules: all.map((m) => m.name),
      },
    },
  };
  writeFileSync(about, `${JSON.stringify(facts, null, 2)}\n`);
  say(`${flavour}: ${relative(process.cwd(), paths.kernel)} (${kernelVersion})`);
  say(
    `${flavour}: ${relative(process.cwd(), paths.initramfs)} (${(archive.length / 2 ** 20).toFixed(1)} MiB, ${all.length} modules)`,
  );
  return { ...paths, about };
}

/** Another process that reads the file sees the old one or the new one. */
function writeWhole(path, bytes) {
  writeFileSync(`${path}.${process.pid}`, bytes);
  renameSync(`${path}.${process.pid}`, path);
}

/** The kernel package of the last run, so that a cached kernel needs neither network nor apt's lists. */
function refreshable(cache, flavour, refresh) {
  const about = join(cache, flavour, 'about.json');
  return refresh || !existsSync(about) ? undefined : JSON.parse(readFileSync(about, 'utf8')).kernelPackage;
}

function parse(argv) {
  let values;
  try {
    ({ values } = parseArgs({ args: argv, options: OPTIONS }));
  } catch (error) {
    throw new UserError(`${error.message.split('. ')[0]}: --help lists the options`);
  }
  for (const flavour of values.flavour) {
    if (!FLAVOURS[flavour])
      throw new UserError(`no flavour ${flavour}: there are ${Object.keys(FLAVOURS).join(' and ')}`);
  }
  if (!['none', 'signatures', 'unneeded'].includes(values.strip)) {
    throw new UserError(`--strip ${values.strip} is unknown: say none, signatures or unneeded`);
  }
  const adds = values.add.map((text) => {
    const colon = text.lastIndexOf(':');
    if (colon <= 0 || colon === text.length - 1)
      throw new UserError(`--add ${text} lacks a path: write --add HOST:GUEST`);
    return { host: text.slice(0, colon), guest: text.slice(colon + 1) };
  });
  if (values.take.length && !values.package.length) throw new UserError('--take wants a --package to take it from');
  return { ...values, adds };
}

async function main(argv) {
  const options = parse(argv);
  const { flavour, module, adds, strip, bare, name, out, refresh, help } = options;
  const { package: packages, take: takes } = options;
  if (help) {
    process.stdout.write(HELP);
    return;
  }
  requireDebian();
  const cache = resolve(out ?? join(checkout, '.cache/debian'));
  for (const one of new Set(flavour)) {
    fetchDebianKernel({ flavour: one, load: module, adds, packages, takes, strip, bare, name, cache, refresh });
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) await runMain('fetch-debian-kernel', main);
