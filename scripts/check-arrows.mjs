// Checks that imports go only the way DESIGN.md 2 draws, and that each room touches only the world it may.
// One table, one message per breach: file:line, what it imports, what its room may import.
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

/** Room → rooms it may import. The TypeScript project references say the same; a test of this script compares them. */
export const ARROWS = {
  base: [],
  contracts: ['base'],
  arch: ['contracts', 'base'],
  wasm: ['base'],
  engine: ['wasm', 'arch', 'contracts', 'base'],
  hypervisor: ['engine', 'wasm', 'arch', 'contracts', 'base'],
  pc: ['arch', 'contracts', 'base'],
  inspect: ['hypervisor', 'engine', 'arch', 'contracts', 'base'],
  machine: ['inspect', 'hypervisor', 'pc', 'engine', 'wasm', 'arch', 'contracts', 'base'],
  tools: ['machine', 'inspect', 'hypervisor', 'pc', 'engine', 'wasm', 'arch', 'contracts', 'base'],
  web: ['machine', 'inspect', 'hypervisor', 'pc', 'engine', 'wasm', 'arch', 'contracts', 'base'],
};

/** Inside a room: folders that may never import each other. */
const STRANGERS = [['hypervisor/nested/vmx', 'hypervisor/nested/svm']];

/** Words that only some rooms may say. */
const WORLDS = [
  { what: 'a Node built-in', pattern: /from '(node:[^']+)'/, rooms: ['tools'] },
  {
    what: 'host time or randomness',
    pattern: /\b(Date\.now|new Date\(|performance\.now|Math\.random|setTimeout|setInterval)\b/,
    rooms: ['tools', 'web'],
  },
  { what: 'the DOM', pattern: /\b(document|window)\.[a-z]/, rooms: ['web'] },
];

function* sources(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) yield* sources(path);
    else if (/\.tsx?$/.test(name)) yield path;
  }
}

export function breaches(root) {
  const found = [];
  const src = join(root, 'src');
  for (const file of sources(src)) {
    const room = relative(src, file).split('/')[0];
    const allowed = ARROWS[room];
    const isTest = /\.test\.tsx?$/.test(file);
    const lines = readFileSync(file, 'utf8').split('\n');
    lines.forEach((line, index) => {
      const at = `${relative(root, file)}:${index + 1}`;
      if (!allowed) found.push(`${at}: ${room} is not a room; the rooms are ${Object.keys(ARROWS).join(', ')}`);
      const target = /(?:from|import)\s*\(?'(\.[^']+)'/.exec(line)?.[1];
      if (target && allowed) {
        const path = relative(src, resolve(dirname(file), target));
        const other = path.split('/')[0];
        if (other !== room && !allowed.includes(other) && !(isTest && other === '..')) {
          found.push(`${at}: ${room} imports ${path}, but may import only ${allowed.join(', ') || 'nothing'}`);
        }
        for (const [a, b] of STRANGERS) {
          const here = relative(src, file);
          if ((here.startsWith(a) && path.startsWith(b)) || (here.startsWith(b) && path.startsWith(a))) {
            found.push(`${at}: ${a} and ${b} never import each other`);
          }
        }
      }
      if (isTest || /^\s*(\/\/|\*)/.test(line)) return;
      for (const { what, pattern, rooms } of WORLDS) {
        if (pattern.test(line) && !rooms.includes(room)) {
          found.push(`${at}: ${room} uses ${what}, which only ${rooms.join(' and ')} may: ${line.trim()}`);
        }
      }
    });
  }
  return found;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const found = breaches(join(dirname(new URL(import.meta.url).pathname), '..'));
  for (const line of found) console.error(line);
  console.log(found.length === 0 ? 'arrows: every import goes down' : `arrows: ${found.length} breaches`);
  process.exitCode = found.length === 0 ? 0 : 1;
}
