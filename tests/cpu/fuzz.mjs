#!/usr/bin/env node
/** Starts fuzz.ts: Node itself does not read TypeScript. */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createViteServer } from 'vitest/node';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const server = await createViteServer({
  root,
  configFile: false,
  logLevel: 'error',
  server: { middlewareMode: true, watch: null, hmr: false, ws: false },
  optimizeDeps: { noDiscovery: true },
});
const { main } = await server.ssrLoadModule('/tests/cpu/fuzz.ts');
const status = await main(process.argv.slice(2));
await server.close();
process.exit(status);
