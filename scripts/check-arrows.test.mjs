import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ARROWS, breaches } from './check-arrows.mjs';

const root = join(dirname(new URL(import.meta.url).pathname), '..');
const json = (path) => JSON.parse(readFileSync(join(root, path), 'utf8'));
const rooms = Object.keys(ARROWS).filter((room) => existsSync(join(root, 'src', room)));

describe('the table of arrows and the TypeScript project references say the same', () => {
  test.each(rooms)('%s', (room) => {
    const { references = [] } = json(`src/${room}/tsconfig.json`);
    const named = references.map(({ path }) => path.replace('../', ''));
    expect(named.sort()).toEqual([...ARROWS[room]].sort());
  });

  test('and the build knows every room', () => {
    const built = json('tsconfig.json').references.map(({ path }) => path.replace('src/', ''));
    expect(built.sort()).toEqual([...rooms].sort());
  });

  test('and no arrow goes up: what a room imports never imports it', () => {
    for (const [room, below] of Object.entries(ARROWS)) {
      for (const other of below) expect(ARROWS[other], `${other} under ${room}`).not.toContain(room);
    }
  });
});

describe('a breach is named with its place', () => {
  let folder;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'terrarium-arrows-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const check = (file, text) => {
    mkdirSync(join(folder, 'src', dirname(file)), { recursive: true });
    writeFileSync(join(folder, 'src', file), text);
    return breaches(folder);
  };

  test.each([
    [
      'an import of a room above',
      'arch/a.ts',
      "import { x } from '../engine/x.ts';",
      'src/arch/a.ts:1: arch imports engine',
    ],
    [
      'a device that knows the hypervisor',
      'pc/a.ts',
      "\nexport * from '../hypervisor/x.ts';",
      'src/pc/a.ts:2: pc imports',
    ],
    ['an import at run time', 'base/a.ts', "await import('../pc/x.ts');", 'src/base/a.ts:1: base imports pc'],
    [
      'one vendor that imports the other',
      'hypervisor/nested/vmx/a.ts',
      "import '../svm/x.ts';\nimport { y } from '../svm/y.ts';",
      'never import each other',
    ],
    ['a Node built-in in the machine', 'machine/a.ts', "import fs from 'node:fs';", 'machine uses a Node built-in'],
    ['host time in the engine', 'engine/a.ts', 'const now = Date.now();', 'engine uses host time'],
    ['host randomness in a device', 'pc/a.ts', 'const r = Math.random();', 'pc uses host time or randomness'],
    ['the DOM outside the page', 'tools/a.ts', 'document.title = "x";', 'tools uses the DOM'],
    ['a folder that is no room', 'extra/a.ts', 'export {};', 'extra is not a room'],
  ])('%s', (_what, file, text, message) => {
    expect(check(file, text).join('\n')).toContain(message);
  });

  test.each([
    ['an import of a room below', 'pc/a.ts', "import { x } from '../arch/x.ts';"],
    ['a neighbour in the same room', 'pc/boot/a.ts', "import { x } from '../layout.ts';"],
    ['a built-in in tools', 'tools/a.ts', "import fs from 'node:fs'; Date.now();"],
    ['a test that uses built-ins', 'pc/a.test.ts', "import fs from 'node:fs';"],
    ['words in a comment', 'engine/a.ts', '// unlike Date.now(), this repeats\n * Math.random'],
  ])('%s is none', (_what, file, text) => {
    expect(check(file, text)).toEqual([]);
  });
});
