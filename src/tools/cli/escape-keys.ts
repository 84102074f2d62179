/** QEMU's keys on a shared terminal: Ctrl-a, then one more. */
export const ESCAPE_HELP = `
Ctrl-a h    this help
Ctrl-a x    quit
Ctrl-a c    to the monitor and back
Ctrl-a Ctrl-a   sends Ctrl-a
`;

const CTRL_A = 0x01;

export type EscapeAction = 'quit' | 'monitor' | 'help';

/** Finds the escape sequences in what is typed. Remembers a Ctrl-a at the end of one chunk for the next. */
export class EscapeKeys {
  #pending = false;

  /**
   * Cuts a chunk into bytes for whoever has the terminal and actions, in order.
   *
   * A key that means nothing behind Ctrl-a is dropped with it.
   */
  feed(chunk: Uint8Array): (Uint8Array | EscapeAction)[] {
    const found: (Uint8Array | EscapeAction)[] = [];
    let start = 0;
    const passUpTo = (end: number) => {
      if (end > start) found.push(chunk.subarray(start, end));
    };
    chunk.forEach((byte, at) => {
      if (!this.#pending) {
        if (byte !== CTRL_A) return;
        passUpTo(at);
        this.#pending = true;
        start = at + 1;
        return;
      }
      this.#pending = false;
      start = at + 1;
      const key = String.fromCharCode(byte).toLowerCase();
      if (byte === CTRL_A) found.push(chunk.subarray(at, at + 1));
      else if (key === 'x') found.push('quit');
      else if (key === 'c') found.push('monitor');
      else if (key === 'h' || key === '?') found.push('help');
    });
    if (!this.#pending) passUpTo(chunk.length);
    return found;
  }
}
