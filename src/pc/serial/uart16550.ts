import { has } from '../../base/bits.ts';
import type { IrqLine } from '../../contracts/device.ts';
import { BytePorts } from '../byte-ports.ts';
import { FCR, FCR_TRIGGER_BYTES, IER, IIR, IIR_FIFOS_ENABLED, LCR, LSR, MCR, MSR, MSR_CHANGES } from './registers.ts';

const FIFO_BYTES = 16;

/**
 * 16550A UART. Source: National Semiconductor PC16550D data sheet, June 1995, section 8 "Registers".
 *
 *   offset   read    write          with LCR.DLAB = 1
 *     0      RBR     THR            DLL
 *     1      IER     IER            DLM
 *     2      IIR     FCR
 *     3      LCR     LCR
 *     4      MCR     MCR
 *     5      LSR     (ignored)
 *     6      MSR     (ignored)
 *     7      SCR     SCR
 *
 * DEVIATION: a byte leaves the moment it is written, so LSR.THRE and LSR.TEMT are always 1, at any baud rate.
 * DEVIATION: a character timeout needs no waiting: a FIFO below its trigger level says so at once.
 * DEVIATION: the PC's gate of the interrupt by MCR.OUT2 is left out, as in QEMU: small guests never set it.
 * DEVIATION: what the host sends waits in a queue behind the FIFO, and a reset of the FIFO puts it back there.
 *            A terminal's typing ahead is not lost to a driver that clears its FIFOs when it starts.
 */
export class Uart16550 extends BytePorts {
  protected readonly registers = 8;
  #ier = 0; // names as in the data sheet
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #scr = 0;
  #dll = 0;
  #dlm = 0;
  #overrun = false;
  #modemChanges = 0;
  #transmitterEmptied = false; // the one cause that is an event: reading IIR takes it back
  readonly #fifo: number[] = [];
  #hostQueue: Uint8Array[] = [];
  #hostTaken = 0; // bytes already taken out of hostQueue[0]
  readonly #irq: IrqLine;
  readonly #transmit: (byte: number) => void;

  constructor(wires: { irq: IrqLine; transmit: (byte: number) => void }) {
    super();
    this.#irq = wires.irq;
    this.#transmit = wires.transmit;
  }

  /** Bytes arrive from outside. Any number: they wait until the guest has read what came before. */
  receive(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#hostQueue.push(bytes.slice());
    this.#fillFromHost();
    this.#driveIrq();
  }

  /** Bytes from the host that the guest has not read yet. */
  get unreadBytes(): number {
    const queued = this.#hostQueue.reduce((sum, bytes) => sum + bytes.length, 0);
    return queued - this.#hostTaken + this.#fifo.length;
  }

  /** Master reset: registers as the data sheet's table II has them. What the host sent still waits. */
  reset(): void {
    this.#returnToHost();
    this.#ier = 0;
    this.#fcr = 0;
    this.#lcr = 0;
    this.#mcr = 0;
    this.#overrun = false;
    this.#modemChanges = 0;
    this.#transmitterEmptied = false;
    this.#fillFromHost();
    this.#driveIrq();
  }

  protected read(offset: number): number {
    const dlab = has(this.#lcr, LCR.DLAB);
    switch (offset) {
      case 0:
        return dlab ? this.#dll : this.#takeReceived();
      case 1:
        return dlab ? this.#dlm : this.#ier;
      case 2:
        return this.#identifyInterrupt();
      case 3:
        return this.#lcr;
      case 4:
        return this.#mcr;
      case 5:
        return this.#takeLineStatus();
      case 6:
        return this.#takeModemStatus();
      default:
        return this.#scr;
    }
  }

  protected write(offset: number, value: number): void {
    const dlab = has(this.#lcr, LCR.DLAB);
    switch (offset) {
      case 0:
        if (dlab) this.#dll = value;
        else this.#send(value);
        break;
      case 1:
        if (dlab) this.#dlm = value;
        else this.#enableInterrupts(value);
        break;
      case 2:
        this.#controlFifo(value);
        break;
      case 3:
        this.#lcr = value;
        break;
      case 4:
        this.#controlModem(value & 0x1f);
        break;
      case 5: // LSR and MSR: "intended for factory testing only"
      case 6:
        break;
      default:
        this.#scr = value;
    }
    this.#driveIrq();
  }

  get #capacity(): number {
    return has(this.#fcr, FCR.ENABLE) ? FIFO_BYTES : 1;
  }

  get #looped(): boolean {
    return has(this.#mcr, MCR.LOOP);
  }

  #takeReceived(): number {
    const byte = this.#fifo.shift() ?? 0;
    this.#fillFromHost();
    // An edge-triggered controller must see the line fall between two bytes that each ask for service.
    if (has(this.#ier, IER.ERBFI)) this.#irq.set(false);
    this.#driveIrq();
    return byte;
  }

  /** In loopback "the receiver Serial Input is disconnected": the host's bytes wait. */
  #fillFromHost(): void {
    while (!this.#looped && this.#fifo.length < this.#capacity && this.#hostQueue.length > 0) {
      const first = this.#hostQueue[0]!;
      this.#fifo.push(first[this.#hostTaken]!);
      this.#hostTaken += 1;
      if (this.#hostTaken === first.length) {
        this.#hostQueue.shift();
        this.#hostTaken = 0;
      }
    }
  }

  #returnToHost(): void {
    if (this.#fifo.length === 0) return;
    const rest = this.#hostQueue.shift()?.subarray(this.#hostTaken);
    if (rest) this.#hostQueue.unshift(rest);
    this.#hostQueue.unshift(Uint8Array.from(this.#fifo));
    this.#hostTaken = 0;
    this.#fifo.length = 0;
  }

  #send(byte: number): void {
    if (!this.#looped) this.#transmit(byte);
    else if (this.#fifo.length < this.#capacity) this.#fifo.push(byte);
    else this.#overrun = true;
    this.#transmitterEmptied = false; // full for no time at all, but the line falls and rises
    this.#driveIrq();
    this.#transmitterEmptied = true;
  }

  #enableInterrupts(value: number): void {
    if (!has(this.#ier, IER.ETBEI) && has(value, IER.ETBEI)) this.#transmitterEmptied = true;
    this.#ier = value & 0x0f;
  }

  /** Section 8.3 "FIFO Control Register": bit 0 must be 1 for the others to take effect; changing it clears both. */
  #controlFifo(value: number): void {
    const toggled = has(this.#fcr ^ value, FCR.ENABLE);
    const enabled = has(value, FCR.ENABLE);
    if (toggled || (enabled && has(value, FCR.RESET_RECEIVER))) {
      if (this.#looped) this.#fifo.length = 0;
      else this.#returnToHost();
    }
    if (toggled || (enabled && has(value, FCR.RESET_TRANSMITTER))) this.#transmitterEmptied = true;
    this.#fcr = enabled ? value & 0xc9 : 0;
    this.#fillFromHost();
  }

  #controlModem(value: number): void {
    const before = this.#modemLines();
    const left = has(this.#mcr, MCR.LOOP) && !has(value, MCR.LOOP);
    this.#mcr = value;
    const changed = before ^ this.#modemLines();
    this.#modemChanges |= (changed & (MSR.CTS | MSR.DSR | MSR.DCD)) >> 4;
    if (has(changed, MSR.RI) && has(before, MSR.RI)) this.#modemChanges |= MSR.TERI; // the trailing edge only
    if (left) this.#fillFromHost();
  }

  /** Section 8.6 "Modem Control Register", bit 4: in loopback the four outputs feed the four inputs. */
  #modemLines(): number {
    if (!this.#looped) return MSR.CTS | MSR.DSR | MSR.DCD;
    return (
      (has(this.#mcr, MCR.RTS) ? MSR.CTS : 0) |
      (has(this.#mcr, MCR.DTR) ? MSR.DSR : 0) |
      (has(this.#mcr, MCR.OUT1) ? MSR.RI : 0) |
      (has(this.#mcr, MCR.OUT2) ? MSR.DCD : 0)
    );
  }

  #takeLineStatus(): number {
    const status = LSR.THRE | LSR.TEMT | (this.#fifo.length > 0 ? LSR.DR : 0) | (this.#overrun ? LSR.OE : 0);
    this.#overrun = false;
    this.#driveIrq();
    return status;
  }

  #takeModemStatus(): number {
    const status = this.#modemLines() | (this.#modemChanges & MSR_CHANGES);
    this.#modemChanges = 0;
    this.#driveIrq();
    return status;
  }

  /** The cause of highest priority (table IV). IIR and the interrupt line both come from here. */
  #cause(): keyof typeof IIR {
    if (has(this.#ier, IER.ELSI) && this.#overrun) return 'LINE_STATUS';
    if (has(this.#ier, IER.ERBFI) && this.#fifo.length > 0) {
      const trigger = has(this.#fcr, FCR.ENABLE) ? FCR_TRIGGER_BYTES[(this.#fcr >> 6) & 3]! : 1;
      return this.#fifo.length >= trigger ? 'RECEIVED_DATA' : 'CHARACTER_TIMEOUT';
    }
    if (has(this.#ier, IER.ETBEI) && this.#transmitterEmptied) return 'TRANSMITTER_EMPTY';
    if (has(this.#ier, IER.EDSSI) && this.#modemChanges !== 0) return 'MODEM_STATUS';
    return 'NONE';
  }

  #identifyInterrupt(): number {
    const cause = this.#cause();
    if (cause === 'TRANSMITTER_EMPTY') this.#transmitterEmptied = false;
    this.#driveIrq();
    return IIR[cause] | (has(this.#fcr, FCR.ENABLE) ? IIR_FIFOS_ENABLED : 0);
  }

  #driveIrq(): void {
    this.#irq.set(this.#cause() !== 'NONE');
  }
}
