/**
 * Lines from a raw terminal for the monitor: echo, Backspace, Ctrl-u, Ctrl-c, and a history on the arrow keys. From a
 * pipe nothing is echoed.
 */
export class LineEditor {
  readonly #echo: (text: string) => void;
  readonly #prompt: string;
  readonly #history: string[] = [];
  #at = 0;
  #line = '';
  #escape = '';

  constructor(prompt: string, echo: (text: string) => void) {
    this.#prompt = prompt;
    this.#echo = echo;
  }

  /** Shows the prompt and what has been typed so far. */
  show(): void {
    this.#echo(`${this.#prompt}${this.#line}`);
  }

  /** Hands on each line as it is completed: its answer comes before what was typed behind it. */
  feed(chunk: Uint8Array, line: (text: string) => void): void {
    for (const character of new TextDecoder('latin1').decode(chunk)) {
      if (this.#escape !== '' || character === '\x1b') {
        this.#sequence(character);
        continue;
      }
      if (character === '\r' || character === '\n') {
        this.#echo('\n');
        if (this.#line.trim() !== '') this.#history.push(this.#line);
        this.#at = this.#history.length;
        const text = this.#line;
        this.#line = '';
        line(text);
      } else if (character === '\x7f' || character === '\b') {
        if (this.#line !== '') this.#echo('\b \b');
        this.#line = this.#line.slice(0, -1);
      } else if (character === '\x15') this.#replace('');
      else if (character === '\x03') {
        this.#echo('^C\n');
        this.#line = '';
        this.show();
      } else if (character >= ' ') {
        this.#line += character;
        this.#echo(character);
      }
    }
  }

  /** ESC [ A and B; everything else that begins with ESC is swallowed. */
  #sequence(character: string): void {
    this.#escape += character;
    if (this.#escape.length < 2 || (this.#escape.length === 2 && character === '[')) return;
    if (this.#escape.length > 2 && !/[@-~]/.test(character)) return;
    if (this.#escape === '\x1b[A') this.#recall(-1);
    if (this.#escape === '\x1b[B') this.#recall(1);
    this.#escape = '';
  }

  #recall(direction: -1 | 1): void {
    this.#at = Math.min(Math.max(this.#at + direction, 0), this.#history.length);
    this.#replace(this.#history[this.#at] ?? '');
  }

  #replace(line: string): void {
    this.#line = line;
    this.#echo('\r\x1b[K');
    this.show();
  }
}
