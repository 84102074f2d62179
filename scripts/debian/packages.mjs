/**
 * Brings Debian packages through apt and unpacks them without installing them.
 *
 * Owns    `<cache>/packages/` and `<cache>/closures/` (the .deb files) and `<cache>/unpacked/` (their contents).
 * Never   changes the system: no package is installed, and no maintainer script runs.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { UserError } from './user-error.mjs';

const run = (command, args, options = {}) =>
  spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28, env: { ...process.env, LC_ALL: 'C' }, ...options });

export function requireDebian() {
  for (const tool of ['apt-get', 'apt-cache', 'dpkg-deb']) {
    if (run(tool, ['--version']).error) {
      throw new UserError(
        `${tool} is not on this machine, and Debian's packages come through it: run this in Debian (or its container, ` +
          'debian:bookworm) and copy .cache/debian over, or give terrarium a bzImage of your own with -kernel',
      );
    }
  }
}

const AMD64 = 'amd64';

/**
 * Options that let apt see the packages of another architecture, with lists of its own below the cache: the system's
 * configuration stays as it is.
 */
function foreign(architecture, cache) {
  if (architecture === AMD64) return [];
  const state = join(cache, `apt-${architecture}`);
  const options = [
    `APT::Architecture=${architecture}`,
    `APT::Architectures=${architecture}`,
    `Dir::State::lists=${join(state, 'lists')}`,
    `Dir::Cache=${join(state, 'cache')}`,
  ].flatMap((option) => ['-o', option]);
  if (!existsSync(state)) {
    for (const folder of ['lists/partial', 'cache/archives/partial'])
      mkdirSync(join(state, folder), { recursive: true });
    // One list of several may be missing while a mirror is being written; whether ours is there, the next command says
    run('apt-get', ['update', '-q', ...asRoot(), ...options]);
  }
  return options;
}

const asRoot = () => (process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : []);

/** The package that a metapackage such as linux-image-cloud-amd64 stands for now; the name itself if it is none. */
export function resolveMetapackage(name, cache, architecture = AMD64) {
  const flags = ['--no-recommends', '--no-suggests', ...foreign(architecture, cache)];
  const result = run('apt-cache', ['depends', ...flags, name]);
  const depends = [...(result.stdout ?? '').matchAll(/^\s*Depends: (linux-image-\S+)$/gm)].map((match) => match[1]);
  if (result.status !== 0) {
    throw new UserError(
      `apt knows no package ${name}: run "apt-get update" first, or see sources.list for Debian's main`,
    );
  }
  return depends[0] ?? name;
}

/**
 * Downloads and unpacks a package, or takes it from the cache if it is there.
 *
 * @returns  The folder with the package's contents and the file name of the .deb.
 */
export function bring(name, cache, { refresh, say, architecture = AMD64 }) {
  const packages = join(cache, 'packages');
  mkdirSync(packages, { recursive: true });
  let deb = newest(packages, name, architecture);
  if (deb && !refresh) {
    say(`${name}: ${deb} is in the cache (--refresh asks apt for a newer one)`);
  } else {
    say(`${name}: downloading through apt`);
    const args = ['download', '-q', ...asRoot(), ...foreign(architecture, cache), name];
    const result = run('apt-get', args, { cwd: packages });
    const found = newest(packages, name, architecture);
    if (result.status !== 0 && !found) {
      const reason = result.stderr.match(/^E: (.*)$/m)?.[1] ?? 'no reason given';
      throw new UserError(
        `apt could not download ${name} (${reason}): run "apt-get update" first, or check the network`,
      );
    }
    if (result.status !== 0) say(`${name}: apt could not download it; using ${found} from the cache`);
    deb = found;
  }
  return { folder: unpack(join(packages, deb), join(cache, 'unpacked'), say), deb };
}

/** @returns  The folder with the contents of a .deb. */
function unpack(deb, into, say) {
  const folder = join(into, basename(deb, '.deb'));
  if (existsSync(folder)) return folder;
  say(`unpacking ${basename(deb)}`);
  rmSync(`${folder}.part`, { recursive: true, force: true });
  mkdirSync(`${folder}.part`, { recursive: true });
  const result = run('dpkg-deb', ['-x', deb, `${folder}.part`]);
  if (result.status !== 0) {
    throw new UserError(`dpkg-deb could not unpack ${deb}: delete that file and run this again`);
  }
  renameSync(`${folder}.part`, folder); // whole or not at all: an interrupted run leaves only .part
  return folder;
}

/**
 * Downloads and unpacks packages with all they depend on, libc included, as apt would install them on an empty system.
 *
 * @returns  The folders of their contents.
 */
export function bringWithDependencies(names, cache, { refresh, say }) {
  const root = join(cache, 'closures', names.join('+'));
  const archives = join(root, 'archives');
  if (refresh || !existsSync(join(root, 'complete'))) {
    say(`${names.join(', ')}: downloading through apt, with dependencies`);
    mkdirSync(join(archives, 'partial'), { recursive: true });
    writeFileSync(join(root, 'status'), '');
    const options = [
      `Dir::State::status=${join(root, 'status')}`,
      `Dir::Cache::archives=${archives}`,
      'Debug::NoLocking=1',
    ];
    const result = run('apt-get', [
      ...['install', '-q', '-y', '--no-install-recommends', '--download-only', ...asRoot()],
      ...options.flatMap((option) => ['-o', option]),
      ...names,
    ]);
    if (result.status !== 0) {
      const reason = result.stderr.match(/^E: (.*)$/m)?.[1] ?? 'no reason given';
      throw new UserError(`apt could not download ${names.join(', ')} (${reason}): run "apt-get update" first`);
    }
    writeFileSync(join(root, 'complete'), '');
  }
  return readdirSync(archives)
    .filter((file) => file.endsWith('.deb'))
    .map((file) => unpack(join(archives, file), join(cache, 'unpacked'), () => {}));
}

/** Version numbers compare as Debian does it, so dpkg is asked. */
function newest(packages, name, architecture) {
  const debs = readdirSync(packages).filter(
    (file) => file.startsWith(`${name}_`) && [`_${architecture}.deb`, '_all.deb'].some((end) => file.endsWith(end)),
  );
  const version = (file) => decodeURIComponent(file.split('_')[1]);
  return debs.reduce(
    (best, file) =>
      best && run('dpkg', ['--compare-versions', version(best), 'ge', version(file)]).status === 0 ? best : file,
    undefined,
  );
}
