import { defineConfig } from 'vitest/config';

/** `unit` is fast enough for every commit; `system` boots guests and is what CI adds. */
export default defineConfig({
  test: {
    projects: [
      { test: { name: 'unit', include: ['src/**/*.test.ts', 'scripts/**/*.test.mjs'], pool: 'threads' } },
      {
        test: {
          name: 'system',
          include: ['tests/**/*.test.ts'],
          testTimeout: 600_000,
          hookTimeout: 600_000,
          pool: 'forks',
          maxWorkers: 2,
        },
      },
    ],
  },
});
