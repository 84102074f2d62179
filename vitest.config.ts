import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { defineConfig, type Plugin } from 'vitest/config';

const SRC = fileURLToPath(new URL('src/', import.meta.url));
const DIST = fileURLToPath(new URL('dist/', import.meta.url));

/**
 * System tests import `src/…` and get what `tsc -b` made of it, loaded by Node itself: Vitest's own loader turns each
 * use of an import into a property access, with which a guest runs three times slower.
 */
const builtSources: Plugin = {
  name: 'built-sources',
  enforce: 'pre',
  resolveId(source, importer) {
    if (!source.endsWith('.ts') || !importer) return null;
    const file = fileURLToPath(new URL(source, `file://${importer}`));
    if (!file.startsWith(SRC)) return null;
    const built = `${DIST}${file.slice(SRC.length, -2)}js`;
    return existsSync(built) ? built : null;
  },
};

/** No test reads or writes what the user's own runs have left, or leaves them anything. */
const env = { XDG_CACHE_HOME: '/dev/null' };

/** `unit` is fast enough for every commit; `system` boots guests and is what CI adds. */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          env,
          include: ['src/**/*.test.ts', 'scripts/**/*.test.mjs'],
          pool: 'threads',
          testTimeout: 30_000, // for hosts that are busy
        },
      },
      {
        plugins: [builtSources],
        test: {
          name: 'system',
          env,
          include: ['tests/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 600_000,
          pool: 'forks',
          maxWorkers: 2,
          globalSetup: 'tests/build.ts',
          server: { deps: { external: [/\/dist\//] } },
        },
      },
    ],
  },
});
