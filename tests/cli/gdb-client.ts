/** A debugger's end of GDB's remote protocol, written for tests: says what it is told to say, and believes nothing. */
import { type ChildProcess, spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { root } from './run.ts';

const checksum = (text: string): string =>
  [...text]
    .reduce((all, character) => (all + character.charCodeAt(0)) & 0xff, 0)
    .toString(16)
    .padStart(2, '0');

export const packetOf = (text: string): string => `$${text}#${checksum(text)}`;

/** 64 bits as registers have them: the low byte first. */
export const littleEndian = (value: bigint, bytes = 8): string =>
  Array.from({ length: bytes }, (_, i) =>
    Number((value >> BigInt(8 * i)) & 0xffn)
      .toString(16)
      .padStart(2, '0'),
  ).join('');

export const numberOf = (hex: string): bigint => BigInt(`0x${(hex.match(/../g) ?? []).reverse().join('')}`);

export class GdbClient {
  readonly #socket: Socket;
  #text = '';
  #wake = () => {};
  closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (bytes: Buffer) => {
      this.#text += bytes.toString('latin1');
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.closed = true;
      this.#wake();
    });
  }

  static async connect(port: number): Promise<GdbClient> {
    const socket = connect(port, '127.0.0.1');
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new GdbClient(socket);
  }

  raw(text: string): void {
    this.#socket.write(Buffer.from(text, 'latin1'));
  }

  /** Until what has come matches; takes it away. */
  async waitFor(pattern: RegExp): Promise<string[]> {
    for (;;) {
      const found = pattern.exec(this.#text);
      if (found) {
        this.#text = this.#text.slice(found.index + found[0].length);
        return [...found];
      }
      if (this.closed) throw new Error(`the connection was closed, and no ${pattern} in ${JSON.stringify(this.#text)}`);
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${pattern} in ${JSON.stringify(this.#text)}`)), 60_000);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Text of the next packet, which must be whole. */
  async receive(): Promise<string> {
    const [, text, sum] = await this.waitFor(/\$([^#]*)#(..)/s);
    if (checksum(text!) !== sum) throw new Error(`the checksum of ${text} is not ${sum}`);
    this.raw('+');
    // Escapes: only the target description has any
    return text!.replace(/\}(.)/gs, (_, character: string) => String.fromCharCode(character.charCodeAt(0) ^ 0x20));
  }

  send(text: string): void {
    this.raw(packetOf(text));
  }

  async ask(text: string): Promise<string> {
    this.send(text);
    return this.receive();
  }

  /** What the monitor answers. */
  async monitor(command: string): Promise<string> {
    this.send(`qRcmd,${Buffer.from(command).toString('hex')}`);
    let text = '';
    for (;;) {
      const answer = await this.receive();
      if (answer === 'OK') return text;
      text += Buffer.from(answer.slice(1), 'hex').toString();
    }
  }

  /** Register by its number in `g`. */
  async register(number: number): Promise<bigint> {
    return numberOf(await this.ask(`p${number.toString(16)}`));
  }

  async closing(): Promise<void> {
    while (!this.closed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Comes back when the other end has heard of it, and closed too. */
  async close(): Promise<void> {
    this.#socket.end();
    await this.closing();
  }
}

/** Numbers of registers. */
export const REG = {
  RAX: 0,
  RBX: 1,
  RCX: 2,
  RSP: 7,
  RIP: 16,
  EFLAGS: 17,
  CS: 18,
  SS: 19,
  ST0: 24,
  XMM0: 40,
  CR3: 78,
} as const;

/** terrarium with `-gdb tcp::0`, and where it listens. */
export class DebuggedMachine {
  readonly #child: ChildProcess;
  readonly #ended: Promise<number | null>;
  stdout = '';
  stderr = '';
  #wake = () => {};

  constructor(...args: string[]) {
    this.#child = spawn(process.execPath, [join(root, 'bin/terrarium.mjs'), 'run', '-gdb', 'tcp::0', ...args]);
    this.#child.stdout!.on('data', (bytes: Buffer) => {
      this.stdout += bytes.toString('latin1');
      this.#wake();
    });
    this.#child.stderr!.on('data', (bytes: Buffer) => {
      this.stderr += bytes.toString();
      this.#wake();
    });
    this.#ended = new Promise((resolve) => this.#child.on('close', resolve));
  }

  async #until(found: () => boolean, what: string): Promise<void> {
    while (!found()) {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${what} in ${this.stdout}${this.stderr}`)), 60_000);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async port(): Promise<number> {
    const where = /gdb can connect to 127\.0\.0\.1:(\d+)\./;
    await this.#until(() => where.test(this.stderr), 'port');
    return Number(where.exec(this.stderr)![1]);
  }

  async client(): Promise<GdbClient> {
    return GdbClient.connect(await this.port());
  }

  prints(text: string): Promise<void> {
    return this.#until(() => this.stdout.includes(text), text);
  }

  type(text: string): void {
    this.#child.stdin!.write(text);
  }

  endInput(): void {
    this.#child.stdin!.end();
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  get status(): Promise<number | null> {
    return this.#ended;
  }
}
