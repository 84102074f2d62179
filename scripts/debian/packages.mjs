/**
 * Brings Debian packages through apt and unpacks them without installing them.
 *
 * Owns    `<cache>/packages/` (the .deb files) and `<cache>/unpacked/` (their contents).
 * Never   changes the system: no package is installed, and no maintainer script runs.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
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

/** The package that a metapackage such as linux-image-cloud-amd64 stands for now; the name itself if it is none. */
export function resolveMetapackage(name) {
  const result = run('apt-cache', ['depends', '--no-recommends', '--no-suggests', name]);
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
export function bring(name, cache, { refresh, say }) {
  const packages = join(cache, 'packages');
  mkdirSync(packages, { recursive: true });
  let deb = newest(packages, name);
  if (deb && !refresh) {
    say(`${name}: ${deb} is in the cache (--refresh asks apt for a newer one)`);
  } else {
    say(`${name}: downloading through apt`);
    const args = ['download', '-q', ...(process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : []), name];
    const result = run('apt-get', args, { cwd: packages });
    const found = newest(packages, name);
    if (result.status !== 0 && !found) {
      const reason = result.stderr.match(/^E: (.*)$/m)?.[1] ?? 'no reason given';
      throw new UserError(
        `apt could not download ${name} (${reason}): run "apt-get update" first, or check the network`,
      );
    }
    if (result.status !== 0) say(`${name}: apt could not download it; using ${found} from the cache`);
    deb = found;
  }
  const folder = join(cache, 'unpacked', deb.replace(/\.deb$/, ''));
  if (!existsSync(folder)) {
    say(`${name}: unpacking ${deb}`);
    rmSync(`${folder}.part`, { recursive: true, force: true });
    mkdirSync(`${folder}.part`, { recursive: true });
    const result = run('dpkg-deb', ['-x', join(packages, deb), `${folder}.part`]);
    if (result.status !== 0) {
      throw new UserError(`dpkg-deb could not unpack ${join(packages, deb)}: delete that file and run this again`);
    }
    renameSync(`${folder}.part`, folder); // whole or not at all: an interrupted run leaves only .part
  }
  return { folder, deb };
}

/** Version numbers compare as Debian does it, so dpkg is asked. */
function newest(packages, name) {
  const debs = readdirSync(packages).filter((file) => file.startsWith(`${name}_`) && file.endsWith('.deb'));
  const version = (file) => decodeURIComponent(file.split('_')[1]);
  return debs.reduce(
    (best, file) =>
      best && run('dpkg', ['--compare-versions', version(best), 'ge', version(file)]).status === 0 ? best : file,
    undefined,
  );
}
