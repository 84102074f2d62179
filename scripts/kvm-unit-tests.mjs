#!/usr/bin/env node
/**
 * Runs a built copy of kvm-unit-tests on this machine and prints a table: test, verdict, reports, time.
 *
 * Owns    what a section of the suite's x86/unittests.cfg means for `terrarium run`, and what a run's end says.
 * Knows   nothing of how the suite is built, and of no test by name: arguments, processors, memory, CPU flags and time
 *         limits are the suite's.
 *
 * docs/kvm-unit-tests.md has what came of it, why each failure, and what is open.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runMain, UserError } from './debian/user-error.mjs';

const HELP = `usage: node scripts/kvm-unit-tests.mjs PATH [options] [-- OPTION OF terrarium run…]
  PATH             a built copy of kvm-unit-tests (x86/*.flat and x86/unittests.cfg), of 64 bits or of 32
  --filter REGEX   only tests whose name, "section" or "section/sub-test", matches
  --singly         every sub-test of a section that names them in its arguments by itself
  --all            sections marked "nodefault", too
  --jobs N         so many at a time (default: 1)
  --icount N       an instruction takes 2^N ns (default: 5). Many tests repeat something until the TSC has come so far,
                   or wait for a timer: the fewer instructions a tick has, the sooner they are done
  --limit FACTOR   the suite's time limits times this (default: 10; the suite means a processor by them)
  --logs FOLDER    keep what each test printed
  --markdown FILE  the table, also as Markdown
  --json FILE      the table, also as data
  --list           what would run, and with which options
`;

const OPTIONS = {
  filter: { type: 'string' },
  singly: { type: 'boolean', default: false },
  all: { type: 'boolean', default: false },
  jobs: { type: 'string', default: '1' },
  icount: { type: 'string', default: '5' },
  limit: { type: 'string', default: '10' },
  logs: { type: 'string' },
  markdown: { type: 'string' },
  json: { type: 'string' },
  list: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
};

const TERRARIUM = fileURLToPath(new URL('../bin/terrarium.mjs', import.meta.url));
/** The suite's scripts give this long to a test that does not say. */
const TIMEOUT_S = 90;
/** RAM of QEMU when nobody says, and the most that one 32-bit WebAssembly memory can give beside its tables. */
const RAM_MIB = 128;
const RAM_MIB_MAX = 2816;
/**
 * What a test tells isa-debug-exit, as that makes a status of it. "Skipped" and "aborted" are 77 and 127, halved:
 * lib/report.c and lib/abort.c of the suite.
 */
const STATUS = new Map([
  [1, 'PASS'],
  [3, 'FAIL'],
  [77, 'SKIP'],
  [127, 'ABORT'],
]);

/** Sections of unittests.cfg: `[name]`, `key = value`, a value in quotes or to the end of its line. */
export function parseSections(text) {
  const sections = [];
  for (const line of text.replaceAll('\\\n', ' ').split('\n')) {
    const [, name] = /^\[(.*)\]\s*$/.exec(line) ?? [];
    if (name !== undefined) sections.push({ name });
    const [, key, value] = /^(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (key !== undefined && sections.length > 0) sections.at(-1)[key] = value.replace(/^(['"])(.*)\1$/, '$2');
  }
  return sections;
}

/** Names of sub-tests: those that main() asks for one by one, then the rows of the table, spelled as its filter wants. */
export function parseSubTests(name, source) {
  const asked = [...source.matchAll(/test_wanted\("(\w+)"/g)].map(([, name]) => name);
  const [, table = ''] =
    new RegExp(`struct ${name}_test ${name}_tests\\[\\] = \\{\\n([\\s\\S]*?)\\n\\};`).exec(source) ?? [];
  const rows = [...table.matchAll(/^\t(?:\{ "([^"]+)"|TEST\((\w+)\))/gm)].map(([, text, word]) => text ?? word);
  return [...asked, ...rows.map((name) => name.replaceAll(' ', '_'))];
}

/** As the suite's filter: `*` at either end. */
export function matches(name, pattern) {
  const start = pattern.startsWith('*');
  const end = pattern.endsWith('*');
  const text = pattern.slice(start ? 1 : 0, end && pattern.length > 1 ? -1 : undefined);
  if (start && end) return name.includes(text);
  if (start) return name.endsWith(text);
  return end ? name.startsWith(text) : name === text;
}

function wants(argumentText, name) {
  const words = argumentText.split(/\s+/).filter(Boolean);
  if (words.some((word) => word.startsWith('-') && matches(name, word.slice(1))))
    return { wanted: false, named: false };
  const positive = words.filter((word) => !word.startsWith('-'));
  const named = positive.some((word) => matches(name, word));
  return { wanted: positive.length === 0 || named, named };
}

/** QEMU's `-cpu`, as this machine's: models are ours, features are those that the suite asks for. */
export function cpuOption(text) {
  const [model = '', ...changes] = text.split(',');
  const isAmd = changes.includes('vendor=AuthenticAMD') || changes.includes('+svm');
  const kept = changes.filter((change) => /^[+-]|^phys-bits=/.test(change));
  // A model with fewer features than ours is asked for by what the suite takes away or adds, not by its name
  return [isAmd ? 'amd' : model === 'max' ? 'max' : 'intel', ...kept].join(',');
}

/** What a section means: a test with options of `terrarium run`, or why it cannot run here. */
function testOf(section, suite, subTest = null) {
  const parameters = (section.qemu_params ?? section.extra_params ?? '').split(/\s+/).filter(Boolean);
  const name = subTest === null ? section.name : `${section.name}/${subTest}`;
  const kernel = join(suite, 'x86', section.file ?? '');
  const test = { name, kernel, limitS: parseInt(section.timeout ?? `${TIMEOUT_S}`, 10), skip: null, options: [] };
  const groups = (section.groups ?? '').split(/\s+/);
  test.isDefault = !groups.includes('nodefault');
  if (!existsSync(kernel)) {
    const why = section.arch === 'i386' ? 'in the 32-bit build of the suite only' : `${section.file} is not built`;
    return { ...test, skip: why };
  }
  let cpu = 'intel';
  let ramMib = RAM_MIB;
  const lacks = [];
  for (let at = 0; at < parameters.length; at += 1) {
    const [option, value] = [parameters[at], parameters[at + 1] ?? ''];
    if (option === '-cpu') cpu = cpuOption(value);
    else if (option === '-m') ramMib = /g$/i.test(value) ? 1024 * parseInt(value, 10) : parseInt(value, 10);
    else if (option === '-device') lacks.push(`${option} ${value}`);
    // What is switched off is not missed
    else if (/^-(machine|M)$/.test(option) && !/^\w+=off$/.test(value)) lacks.push(`${option} ${value}`);
    else continue;
    at += 1;
  }
  if (lacks.length > 0) return { ...test, skip: `this machine has no ${lacks.join(', ')}` };
  const argumentText = (subTest ?? section.test_args ?? '').replace('`date +%s`', `${Math.floor(Date.now() / 1000)}`);
  test.options = [
    ...['-kernel', kernel, '-cpu', cpu, '-m', `${Math.min(ramMib, RAM_MIB_MAX)}`],
    ...['-smp', section.smp ?? '1', '-nodefaults', '-no-reboot', '-serial', 'stdio', '-monitor', 'none'],
    ...['-device', 'pc-testdev', '-device', 'isa-debug-exit,iobase=0xf4,iosize=0x4'],
    ...(argumentText === '' ? [] : ['-append', argumentText]),
  ];
  return test;
}

/** All tests of the suite at PATH. */
export function testsOf(suite, singly) {
  const file = join(suite, 'x86', 'unittests.cfg');
  if (!existsSync(file)) throw new UserError(`${file} does not exist: PATH must be a built copy of kvm-unit-tests.`);
  const sections = parseSections(readFileSync(file, 'utf8'));
  if (!singly) return sections.map((section) => testOf(section, suite));
  const tests = [];
  for (const flat of new Set(sections.map(({ file }) => file))) {
    const sources = sections.filter(({ file }) => file === flat);
    const stem = (flat ?? '').replace(/\.flat$/, '');
    const sourceFiles = [`${stem}.c`, `${stem}_tests.c`].map((name) => join(suite, 'x86', name)).filter(existsSync);
    const names = parseSubTests(stem, sourceFiles.map((path) => readFileSync(path, 'utf8')).join('\n'));
    if (names.length === 0) {
      tests.push(...sources.map((section) => testOf(section, suite)));
      continue;
    }
    for (const name of names) {
      // A section that names a test knows what the test needs; one that only excludes others runs what is left over,
      // and what no section wants runs with the options of the first
      const naming = sources.filter(({ test_args = '' }) => wants(test_args, name).named);
      const taking = sources.filter(({ test_args = '' }) => wants(test_args, name).wanted);
      const chosen = naming.length > 0 ? naming : taking.length > 0 ? taking : sources.slice(0, 1);
      tests.push(...chosen.map((section) => testOf(section, suite, name)));
    }
  }
  return tests;
}

const count = (output, word) => (output.match(new RegExp(`^${word}:`, 'gm')) ?? []).length;

/** What a run's end and its output say. */
export function verdictOf({ status, timedOut, output, errors }) {
  const reports = {
    pass: count(output, 'PASS') + count(output, 'XFAIL'),
    fail: count(output, 'FAIL') + count(output, 'XPASS'),
    skip: count(output, 'SKIP'),
  };
  const lastError =
    errors
      .trim()
      .split('\n')
      .findLast((line) => line.startsWith('terrarium: ')) ?? '';
  let verdict = timedOut ? 'TIMEOUT' : (STATUS.get(status) ?? 'CRASH');
  let note = '';
  if (status === 2) {
    verdict = 'SKIP';
    note = lastError.replace(/^terrarium: /, '');
  } else if (verdict === 'CRASH') note = lastError || `status ${status}`;
  else if (verdict === 'SKIP') note = /^SKIP: (.*)/m.exec(output)?.[1] ?? '';
  // A test may say that it skipped everything and yet leave with success
  else if (verdict === 'PASS' && reports.pass === 0 && reports.skip > 0) {
    verdict = 'SKIP';
    note = /^SKIP: (.*)/m.exec(output)[1];
  } else if (verdict === 'PASS' && /didn't match any tests/.test(output)) verdict = 'FAIL';
  else if (verdict === 'FAIL') note = /^(?:FAIL|XPASS): (.*)/m.exec(output)?.[1] ?? '';
  else if (verdict === 'ABORT') note = output.trim().split('\n').slice(-1)[0] ?? '';
  return { verdict, ...reports, note: note.replaceAll('\r', '').trim().slice(0, 160) };
}

function runTest(test, extra, factor) {
  return new Promise((resolve) => {
    const began = performance.now();
    const child = spawn(process.execPath, [TERRARIUM, 'run', '-jit-cache', 'off', ...test.options, ...extra], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    let errors = '';
    let timedOut = false;
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      errors += text;
    });
    const timer = setTimeout(
      () => {
        timedOut = true;
        child.kill('SIGKILL');
      },
      test.limitS * factor * 1000,
    );
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      output = output.replaceAll('\r', '');
      const seconds = (performance.now() - began) / 1000;
      const end = verdictOf({ status: code ?? `signal ${signal}`, timedOut, output, errors });
      resolve({ name: test.name, ...end, seconds, output, errors });
    });
  });
}

const HEADER = ['test', 'verdict', 'pass', 'fail', 'skip', 's', ''];
const cells = ({ name, verdict, pass, fail, skip, seconds, note }) => [
  ...[name, verdict, `${pass}`, `${fail}`, `${skip}`],
  ...[seconds === null ? '' : seconds.toFixed(1), note],
];
const line = ([name, verdict, pass, fail, skip, seconds, note]) =>
  `${name.padEnd(60)} ${verdict.padEnd(8)} ${pass.padStart(7)} ${fail.padStart(5)} ${skip.padStart(5)} ${seconds.padStart(7)}  ${note}`.trimEnd();

function totals(results) {
  const by = new Map();
  for (const { verdict } of results) by.set(verdict, (by.get(verdict) ?? 0) + 1);
  return [...by].map(([verdict, n]) => `${n} ${verdict}`).join(', ');
}

function writeTables(results, { markdown, json }) {
  const rows = results.map(cells);
  if (markdown) {
    const text = [HEADER, HEADER.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
    writeFileSync(markdown, `${text}\n\n${totals(results)}\n`);
  }
  if (json)
    writeFileSync(
      json,
      `${JSON.stringify(
        results.map(({ output, errors, ...rest }) => rest),
        null,
        1,
      )}\n`,
    );
}

async function main(argv) {
  const dashes = argv.indexOf('--');
  const extra = dashes < 0 ? [] : argv.slice(dashes + 1);
  let parsed;
  try {
    parsed = parseArgs({
      args: dashes < 0 ? argv : argv.slice(0, dashes),
      options: OPTIONS,
      allowPositionals: true,
    });
  } catch (error) {
    throw new UserError(`${error.message}\n${HELP}`);
  }
  const { values, positionals } = parsed;
  if (values.help || positionals.length !== 1) {
    if (values.help) return void console.log(HELP);
    throw new UserError(`expected the path of a built kvm-unit-tests.\n${HELP}`);
  }
  const options = ['-icount', `shift=${values.icount}`, ...extra];
  const filter = new RegExp(values.filter ?? '');
  const tests = testsOf(positionals[0], values.singly).filter(
    (test) => filter.test(test.name) && (values.all || test.isDefault || values.filter !== undefined),
  );
  if (values.list) {
    for (const { name, options, skip } of tests) console.log(`${name}: ${skip ?? options.join(' ')}`);
    return;
  }
  if (values.logs) mkdirSync(values.logs, { recursive: true });
  console.log(line(HEADER));
  const results = new Array(tests.length);
  let next = 0;
  let shown = 0;
  const worker = async () => {
    while (next < tests.length) {
      const at = next;
      next += 1;
      const test = tests[at];
      const nothing = { name: test.name, verdict: 'SKIP', pass: 0, fail: 0, skip: 0, seconds: null, note: test.skip };
      const result = test.skip === null ? await runTest(test, options, Number(values.limit)) : nothing;
      results[at] = result;
      if (values.logs && result.output !== undefined) {
        writeFileSync(
          join(values.logs, `${result.name.replaceAll('/', '.')}.txt`),
          `${test.options.join(' ')}\n${result.output}\n${result.errors}`,
        );
      }
      // In the suite's order, whoever is done first
      for (; results[shown] !== undefined; shown += 1) console.log(line(cells(results[shown])));
      writeTables(results.filter(Boolean), values);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, Number(values.jobs)) }, worker));
  console.log(totals(results));
  if (results.some(({ verdict }) => verdict !== 'PASS' && verdict !== 'SKIP')) process.exitCode = 1;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await runMain('kvm-unit-tests', main);
