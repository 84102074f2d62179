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
  process.exitCode = await main(process.argv.slice(2));
}
