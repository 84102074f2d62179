import type { AccessSize, IrqLine, PortDevice } from '../../contracts/device.ts';

/**
 * The PC's way of an x87 exception without CR0.NE: FERR# raises IRQ 13, and a write to port F0H takes it away.
 * Source: Intel 82371AB (PIIX4) data sheet, 4.3.6 "Coprocessor Error Register"; SDM 1 Appendix D "Guidelines for Writing
 * SIMD Floating-Point Exception Handlers", D.1 "MS-DOS Compatibility Sub-mode for Handling x87 FPU Exceptions".
 *
 * DEVIATION  IGNNE# is not kept: a handler that writes F0H and then, before it has cleared the exception, executes an x87
 *            instruction that waits, gets FERR# again, and stands until another interrupt comes.
 */
export class CoprocessorError implements PortDevice {
  readonly #line: IrqLine;

  constructor(line: IrqLine) {
    this.#line = line;
  }

  /** FERR# goes low. */
  error(): void {
    this.#line.set(true);
  }

  reset(): void {
    this.#line.set(false);
  }

  readPort(_offset: number, _size: AccessSize): number {
    return 0xff;
  }

  writePort(_offset: number, _size: AccessSize, _value: number): void {
    this.#line.set(false);
  }
}
