/**
 * Where gdb connects: a TCP port, or stdin and stdout.
 *
 * Owns    the sockets. One gdb at a time: another is turned away.
 * Never   outlives `close`.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { UserError } from '../../base/assert.ts';
import type { Machine } from '../../machine/machine.ts';
import { reasonOf } from '../cli/files.ts';
import type { SessionControl } from '../cli/monitor/monitor.ts';
import type { DebugPort } from '../cli/session.ts';
import { GdbStub } from './stub.ts';
import type { GdbTarget } from './target.ts';

/** Something that bytes come from and go to. */
interface Line {
  write(bytes: Uint8Array): void;
  /** What was written still goes out. */
  end(): void;
}

export class GdbServer implements DebugPort {
  readonly #machine: Machine;
  readonly #session: SessionControl;
  readonly #server: Server | null = null;
  #line: Line | null = null;
  #stub: GdbStub | null = null;

  private constructor(machine: Machine, session: SessionControl, server: Server | null) {
    this.#machine = machine;
    this.#session = session;
    this.#server = server;
  }

  /**
   * Listens.
   *
   * @param tell  Takes a sentence that says where.
   * @throws      UserError if the port cannot be had.
   */
  static async open(
    option: string,
    target: GdbTarget,
    machine: Machine,
    session: SessionControl,
    tell: (sentence: string) => void,
  ): Promise<GdbServer> {
    if (target.kind === 'stdio') {
      const made = new GdbServer(machine, session, null);
      made.#serveStdio();
      return made;
    }
    const { host, port } = target;
    const server = createServer({ noDelay: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) =>
        reject(new UserError(`${option} cannot listen at ${host}:${port}: ${reasonOf(error)}.`)),
      );
      server.listen(port, host, resolve);
    });
    const made = new GdbServer(machine, session, server);
    server.on('connection', (socket) => made.#connected(socket));
    const address = server.address();
    tell(`gdb can connect to ${host}:${typeof address === 'object' ? address!.port : port}`);
    return made;
  }

  /** Someone has the machine in hand, or may come and take it. */
  get isOpen(): boolean {
    return this.#server !== null || this.holds;
  }

  get holds(): boolean {
    return this.#stub?.isOpen ?? false;
  }

  stopped(): void {
    this.#stub?.stopped();
  }

  ended(status: number): void {
    this.#stub?.ended(status);
  }

  close(): void {
    this.#server?.close();
    this.#stub?.close();
    this.#line?.end();
    this.#line = null;
  }

  #serve(line: Line): GdbStub {
    this.#line = line;
    const stub = new GdbStub({
      machine: this.#machine,
      session: this.#session,
      send: (bytes) => line.write(bytes),
    });
    this.#stub = stub;
    return stub;
  }

  #connected(socket: Socket): void {
    if (this.#line) {
      socket.destroy();
      return;
    }
    const stub = this.#serve({
      write: (bytes) => void socket.write(bytes),
      end: () => socket.destroySoon(),
    });
    socket.on('data', (bytes) => stub.received(bytes));
    // A connection that breaks is closed, too
    socket.on('error', () => {});
    socket.on('close', () => {
      stub.close();
      if (this.#stub === stub) this.#line = null;
    });
  }

  #serveStdio(): void {
    const { stdin, stdout } = process;
    const stub = this.#serve({
      write: (bytes) => void stdout.write(bytes),
      end: () => {
        stdin.pause();
        stdin.unref?.();
      },
    });
    stdout.on('error', () => {});
    stdin.on('data', (bytes: Buffer) => stub.received(bytes));
    // gdb has gone without a word: nobody can come in its place
    stdin.on('end', () => {
      if (stub.isOpen) this.#session.quit(0);
      stub.close();
    });
  }
}
