#!/usr/bin/env node
// Starts the built command line, or says in a sentence why it cannot.
import { isBuilt, loadBundle } from './bundle.mjs';

const major = Number(process.versions.node.split('.')[0]);

if (major < 20) {
  console.error(`terrarium: Node 20 or later is needed, this is ${process.versions.node}.`);
  process.exitCode = 2;
} else if (!isBuilt()) {
  console.error('Terrarium is not built: run npm install && npm run build');
  process.exitCode = 2;
} else {
  const { main } = await loadBundle();
  const status = await main(process.argv.slice(2));
  await Promise.all([process.stdout, process.stderr].map(written));
  // Node by itself would wait until V8 has compiled what was to come in the background
  process.exit(status);
}

/** What was written to a stream is on its way, or never will be. */
function written(stream) {
  if (stream.writableLength === 0) return undefined;
  return new Promise((resolve) => {
    for (const event of ['drain', 'error', 'close']) stream.once(event, resolve);
  });
}
