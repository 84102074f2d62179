import { msrIndex } from '../../arch/msrs.ts';
import { assert } from '../../base/assert.ts';
import type { GuestMemory } from '../../contracts/memory.ts';
import { ByteWriter } from '../bytes.ts';
import { PHYSICAL, PORTS, physical } from '../layout.ts';

/**
 * What is left behind by the firmware that this machine does not have: interrupt vectors, the BIOS data area, and a
 * few instructions for them. A guest that enters real mode and enables interrupts finds a PC as after its self-test.
 *
 *   0x00000  interrupt vectors, all to the routines at F000:F000
 *   0x00400  BIOS data area: serial ports, base memory, where the EBDA is
 *   0x9fc00  EBDA: its size
 *   0xff000  the routines
 *   0xffff0  the reset vector's place: resets the machine, for guests that reboot by jumping there
 *
 * Source: IBM PS/2 and PC BIOS Interface Technical Reference, "Interrupt Vectors", "Data Areas".
 */
const ROUTINES = 0xf_f000;
const SEGMENT = 0xf000;
const RESET_VECTOR = 0xf_fff0;
const BIOS_DATA = 0x400;

/** First vectors of the two 8259s in real mode. */
const MASTER_VECTOR = 0x08;
const SLAVE_VECTOR = 0x70;

/** 16-bit code. */
const CODE = {
  /** iret */
  ignore: [0xcf],
  /** push ax; push ds; mov ax,40h; mov ds,ax; inc word [6ch]; jnz +4; inc word [6eh]; EOI; pop ds; pop ax; iret */
  tick: [
    0x50, 0x1e, 0xb8, 0x40, 0x00, 0x8e, 0xd8, 0xff, 0x06, 0x6c, 0x00, 0x75, 0x04, 0xff, 0x06, 0x6e, 0x00, 0xb0, 0x20,
    0xe6, 0x20, 0x1f, 0x58, 0xcf,
  ],
  /** push ax; mov al,20h; out 20h,al; pop ax; iret */
  endMaster: [0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf],
  /** push ax; mov al,20h; out a0h,al; out 20h,al; pop ax; iret */
  endSlave: [0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf],
} as const;

/** mov dx,0cf9h; mov al,6; out dx,al; hlt; jmp $-1 */
const RESET_CODE = [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd] as const;

/**
 * Port writes of the self-test to devices that are not the platform's own: machine plays them after power-on and after
 * each reset, once the 8259s are initialized at vectors 0x08 and 0x70. The timer is unmasked and ticks 18.2 times a
 * second; the SCI and the PCI interrupts are level-triggered.
 */
export const SELF_TEST_PORT_WRITES: readonly (readonly [port: number, value: number])[] = [
  [0x4d0, 0x00], // ELCR
  [0x4d1, 0x0e], // IRQ 9, 10 and 11
  [0x43, 0x34], // channel 0, both bytes, rate generator
  [0x40, 0x00],
  [0x40, 0x00],
  [0x21, 0xfa], // all masked but IRQ 0 and the cascade
];

/** Memory types of MTRRs: SDM 3A 11.11, Table 11-8. */
const MEMORY_TYPE = { UNCACHED: 0, WRITE_PROTECTED: 5, WRITE_BACK: 6 } as const;
const MTRR_VALID = 0x800;
/** Both kinds of MTRRs are on, and what none of them covers is write-back. */
const MTRR_DEF_TYPE = 0xc00 | MEMORY_TYPE.WRITE_BACK;

/**
 * MSR writes of the self-test, the same on every processor: RAM is write-back, the VGA window and everything between
 * the low RAM and 4 GiB uncached, the ROM area write-protected. Without them Linux takes the machine for one whose MTRRs
 * nobody set, and leaves the PAT as it was after RESET.
 *
 * @param physicalAddressBits  MAXPHYADDR, 33 to 52.
 */
export function selfTestMsrWrites(
  physicalAddressBits: number,
): readonly (readonly [index: number, hi: number, lo: number])[] {
  const fixed = (type: number) => Math.imul(type, 0x0101_0101);
  const every = (name: string, type: number) => [msrIndex(name), fixed(type), fixed(type)] as const;
  return [
    every('IA32_MTRR_FIX64K_00000', MEMORY_TYPE.WRITE_BACK),
    every('IA32_MTRR_FIX16K_80000', MEMORY_TYPE.WRITE_BACK),
    every('IA32_MTRR_FIX16K_A0000', MEMORY_TYPE.UNCACHED),
    ...Array.from({ length: 8 }, (_, n) =>
      every(
        `IA32_MTRR_FIX4K_${(PHYSICAL.ROM_AREA + n * 0x8000).toString(16).toUpperCase()}`,
        MEMORY_TYPE.WRITE_PROTECTED,
      ),
    ),
    [msrIndex('IA32_MTRR_PHYSBASE0'), 0, (PHYSICAL.PCI_WINDOW | MEMORY_TYPE.UNCACHED) >>> 0],
    // From the window up to 4 GiB: a power of two, and aligned to it
    [msrIndex('IA32_MTRR_PHYSMASK0'), 2 ** (physicalAddressBits - 32) - 1, (PHYSICAL.PCI_WINDOW | MTRR_VALID) >>> 0],
    [msrIndex('IA32_MTRR_DEF_TYPE'), 0, MTRR_DEF_TYPE],
  ];
}

/** Writes vectors, data areas and routines. The areas must be RAM. */
export function writeFirmwareRemains(memory: GuestMemory, serialPorts: number): void {
  const code = new ByteWriter();
  const at = {} as Record<keyof typeof CODE, number>;
  for (const name of Object.keys(CODE) as (keyof typeof CODE)[]) {
    at[name] = (ROUTINES & 0xffff) + code.length;
    code.bytes(CODE[name]);
  }
  const vectors = new ByteWriter();
  for (let vector = 0; vector < 256; vector += 1) vectors.u16(at[routineOf(vector)]).u16(SEGMENT);

  const com = [PORTS.COM1, PORTS.COM2, PORTS.COM3, PORTS.COM4];
  const data = new ByteWriter();
  com.forEach((ports, index) => {
    data.u16(index < serialPorts ? ports.first : 0);
  });
  data.zeros(6); // no parallel ports
  data.u16(PHYSICAL.EBDA >> 4); // 0x40e
  data.u16(serialPorts << 9); // 0x410, equipment: bits 11:9 count the serial ports
  data.u8(0).u16(PHYSICAL.EBDA / 1024); // 0x413, base memory in KiB
  data.zeros(0x100 - data.length);

  const put = (address: number, bytes: Uint8Array) => {
    const copied = memory.copyIn(physical(address), bytes);
    assert(copied === bytes.length, 'there is RAM where the firmware leaves its data');
  };
  put(0, vectors.done());
  put(BIOS_DATA, data.done());
  put(PHYSICAL.EBDA, Uint8Array.of(1)); // KiB
  put(ROUTINES, code.done());
  put(RESET_VECTOR, Uint8Array.from(RESET_CODE));
}

function routineOf(vector: number): keyof typeof CODE {
  if (vector === MASTER_VECTOR) return 'tick';
  if (vector > MASTER_VECTOR && vector < MASTER_VECTOR + 8) return 'endMaster';
  if (vector >= SLAVE_VECTOR && vector < SLAVE_VECTOR + 8) return 'endSlave';
  return 'ignore';
}
