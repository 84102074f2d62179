/** The value that makes the bytes add up to 0 modulo 256, as firmware tables want it. */
export const checksum = (bytes: Uint8Array): number =>
  (256 - (bytes.reduce((sum, byte) => sum + byte, 0) & 0xff)) & 0xff;
