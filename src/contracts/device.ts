/** Width of a port or MMIO access in bytes. Wider and unaligned accesses are split by the bus. */
export type AccessSize = 1 | 2 | 4;

/** A level-sensitive interrupt wire. Setting the level it already has is allowed and does nothing. */
export interface IrqLine {
  set(level: boolean): void;
}

/** A device behind I/O ports. Values are unsigned and at most `size` bytes wide. */
export interface PortDevice {
  /** @param offset  Port minus the first port of the range the device was put at. */
  readPort(offset: number, size: AccessSize): number;
  writePort(offset: number, size: AccessSize, value: number): void;
}

/** A device behind a physical address range. */
export interface MmioDevice {
  /** @param offset  Bytes from the start of the device's range; the access does not cross its end. */
  readMmio(offset: number, size: AccessSize): number;
  writeMmio(offset: number, size: AccessSize, value: number): void;
}

/** Where a device can be put: the machine's routing of ports and pages without RAM. */
export interface Bus {
  /** @throws InvariantError if the range overlaps another device's: machines are put together by us. */
  addPorts(first: number, count: number, device: PortDevice, name: string): void;
  addMmio(first: number, bytes: number, device: MmioDevice, name: string): void;
  /** Takes a range away again: a PCI BAR that was moved or disabled. Unknown ranges are ignored. */
  removePorts(first: number, count: number): void;
  removeMmio(first: number, bytes: number): void;
}

/** What a guest can ask of the machine as a whole. The run loop acts on it after the current instruction. */
export interface PowerControl {
  /** `status` is the process's exit status. */
  powerOff(status: number): void;
  reset(reason: string): void;
}
