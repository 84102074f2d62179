/** What a byte is before the opcode. SDM 2A 2.1.1 "Instruction Prefixes", 2.2.1 "REX Prefixes". */
export const PREFIX = { NONE: 0, REX: 1, OPERAND: 2, ADDRESS: 3, REP: 4, LOCK: 5, SEGMENT: 6, FS_GS: 7 } as const;

/** PREFIX by byte; REX is one in 64-bit mode only. */
export const PREFIXES = new Uint8Array(256);
PREFIXES.fill(PREFIX.REX, 0x40, 0x50);
PREFIXES[0x66] = PREFIX.OPERAND;
PREFIXES[0x67] = PREFIX.ADDRESS;
PREFIXES[0xf0] = PREFIX.LOCK;
for (const byte of [0xf2, 0xf3]) PREFIXES[byte] = PREFIX.REP;
for (const byte of [0x26, 0x2e, 0x36, 0x3e]) PREFIXES[byte] = PREFIX.SEGMENT;
for (const byte of [0x64, 0x65]) PREFIXES[byte] = PREFIX.FS_GS;
