import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, expect, test } from 'vitest';
import { makeImportsLocal } from './local-imports.mjs';

let folder;
afterEach(() => rmSync(folder, { recursive: true }));

function modules(texts) {
  folder = mkdtempSync(join(tmpdir(), 'terrarium-imports-'));
  mkdirSync(join(folder, 'in'));
  for (const [name, text] of Object.entries(texts)) writeFileSync(join(folder, name), text);
  return folder;
}
const text = (name) => readFileSync(join(folder, name), 'utf8');

test('an imported name becomes a constant of the module, on the same line, once', async () => {
  modules({
    'table.js': 'export const S = { A: 1 };\nexport function twice(x) { return 2 * x; }\n',
    'in/user.js': "import { S as T, twice, } from '../table.js';\nexport const four = twice(T.A) + twice(T.A);\n",
  });
  expect(makeImportsLocal(folder)).toBe(1);
  expect(text('in/user.js').split('\n')[0]).toBe(
    "import { S as T$, twice as twice$ } from '../table.js'; const T = T$, twice = twice$;",
  );
  expect((await import(pathToFileURL(join(folder, 'in/user.js')).href)).four).toBe(4);
  expect(makeImportsLocal(folder)).toBe(0);
});

test('modules that import each other keep their imports: one of them runs before the other', async () => {
  modules({
    'table.js': 'export const S = { A: 1 };\n',
    'even.js':
      "import { S } from './table.js';\nimport { odd } from './odd.js';\nexport const even = (n) => n === 0 || odd(n - S.A);\n",
    'odd.js': "import { even } from './even.js';\nexport const odd = (n) => n !== 0 && even(n - 1);\n",
    'main.js': "import { odd } from './odd.js';\nexport const answer = odd(7);\n",
  });
  expect(makeImportsLocal(folder)).toBe(2);
  expect(text('even.js')).toContain("const S = S$;\nimport { odd } from './odd.js';");
  expect(text('odd.js')).toContain("import { even } from './even.js';\n");
  expect((await import(pathToFileURL(join(folder, 'main.js')).href)).answer).toBe(true);
});
