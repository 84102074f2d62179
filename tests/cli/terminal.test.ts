/**
 * The command line on a terminal: a pseudo-terminal of util-linux's script(1), with a shell around terrarium that tells
 * the terminal's mode before and after.
 */
import { spawn, spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { guestFolder, root } from './run.ts';

const { folder, path } = guestFolder();
afterAll(() => rmSync(folder, { recursive: true }));

const version = spawnSync('script', ['--version'], { encoding: 'utf8' });
const hasScript = !version.error && version.stdout.includes('util-linux') && !spawnSync('bash', ['--version']).error;
const MARK = '### ';
const CTRL_A = '\x01';

/** Types into a terminal, and waits for what appears there. */
class Terminal {
  text = '';
  #seen = 0;
  readonly #child;
  readonly #ended: Promise<void>;
  #wake = () => {};

  constructor(...args: string[]) {
    const terrarium = `exec ${process.execPath} ${join(root, 'bin/terrarium.mjs')} run -m 16M ${args.join(' ')}`;
    const shell = `stty -a; echo '${MARK}'begin; (echo "${MARK}pid $BASHPID"; ${terrarium}); echo '${MARK}'status $?; stty -a`;
    this.#child = spawn('script', ['-qec', `bash -c '${shell.replaceAll("'", `'\\''`)}'`, '/dev/null'], {
      stdio: 'pipe',
    });
    this.#child.stdout.on('data', (bytes: Buffer) => {
      this.text += bytes.toString('latin1');
      this.#wake();
    });
    this.#ended = new Promise((resolve) => this.#child.on('close', () => resolve()));
  }

  async waitFor(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.text.slice(this.#seen));
      if (found) {
        this.#seen += found.index + found[0].length;
        return found;
      }
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${pattern} in ${JSON.stringify(this.text)}`)), 60_000);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  type(text: string): void {
    this.#child.stdin.write(text);
  }

  /** Until the shell has ended: terrarium's status, and the terminal's mode before and after as stty tells it. */
  async end() {
    await this.#ended;
    const [before = '', , ...rest] = this.text.split(MARK);
    const last = rest.at(-1)!;
    const modes = (text: string) => text.slice(text.indexOf('speed')).trim();
    return { status: Number(/status (\d+)/.exec(last)?.[1]), before: modes(before), after: modes(last) };
  }
}

describe.skipIf(!hasScript)('on a terminal', () => {
  test('Ctrl-a x quits with status 0 and puts the terminal back; Ctrl-c before it is a key for the guest', async () => {
    const terminal = new Terminal('-kernel', path('haltForEver'));
    await terminal.waitFor(/halted/);
    terminal.type('\x03');
    terminal.type(`${CTRL_A}h`);
    await terminal.waitFor(/Ctrl-a x +quit/);
    terminal.type(`${CTRL_A}x`);
    const { status, before, after } = await terminal.end();
    expect(status).toBe(0);
    expect(before).toMatch(/ icanon .* echo /s);
    expect(after).toBe(before);
  });

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s puts the terminal back', async (signal, expected) => {
    const terminal = new Terminal('-kernel', path('haltForEver'));
    const [, pid] = await terminal.waitFor(/pid (\d+)/);
    await terminal.waitFor(/halted/);
    process.kill(Number(pid), signal);
    const { status, before, after } = await terminal.end();
    expect(status).toBe(expected);
    expect(after).toBe(before);
  });

  test('a triple fault puts the terminal back, and the dump stands in whole lines', async () => {
    const terminal = new Terminal('-kernel', path('tripleFault'), '-no-reboot');
    const { status, before, after } = await terminal.end();
    expect(status).toBe(4);
    expect(terminal.text).toMatch(/hi.*terrarium: vCPU 0 shut down by a triple fault at RIP 0x10002e\.\r\nCPU#0/s);
    expect(after).toBe(before);
  });

  test('Ctrl-a c is the monitor and back, and its commands are edited on a line of their own', async () => {
    const terminal = new Terminal('-kernel', path('haltForEver'));
    await terminal.waitFor(/halted/);
    terminal.type(`${CTRL_A}c`);
    await terminal.waitFor(/Terrarium monitor: "help" lists the commands\r\n\(terrarium\) /);
    terminal.type('info statsu\x7f\x7fus\r');
    await terminal.waitFor(/VM status: running|running/);
    terminal.type('quit 5\r');
    expect((await terminal.end()).status).toBe(5);
  });
});
