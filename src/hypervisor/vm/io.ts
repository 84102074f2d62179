/** Where ports and pages without RAM lead: the machine's devices. Values are unsigned, at most `bytes` wide. */
export interface DeviceSpace {
  portRead(port: number, bytes: number): number;
  portWrite(port: number, bytes: number, value: number): void;
  mmioRead(physical: number, bytes: number): number;
  mmioWrite(physical: number, bytes: number, value: number): void;
}
