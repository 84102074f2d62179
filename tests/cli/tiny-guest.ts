/** Multiboot kernels of a few bytes, for what no compiled guest does: end badly. */

const MAGIC = 0x1badb002;
/** The header itself says where to load: no ELF needed. */
const HAS_ADDRESSES = 1 << 16;
const LOAD_AT = 0x10_0000;
const HEADER_BYTES = 32;

/** A kernel in 32-bit protected mode without paging that starts with these machine-code bytes. */
export function tinyGuest(code: readonly number[]): Uint8Array {
  const words = [
    MAGIC,
    HAS_ADDRESSES,
    -(MAGIC + HAS_ADDRESSES) >>> 0,
    LOAD_AT, // header
    LOAD_AT, // load
    0, // to the end of the file
    0, // no bss
    LOAD_AT + HEADER_BYTES, // entry
  ];
  const image = new Uint8Array(HEADER_BYTES + code.length);
  const view = new DataView(image.buffer);
  words.forEach((word, index) => {
    view.setUint32(4 * index, word, true);
  });
  image.set(code, HEADER_BYTES);
  return image;
}

/** out dx, al with AL = `byte` and DX = `port`. */
const out = (port: number, byte: number): number[] => [0x66, 0xba, port & 0xff, port >> 8, 0xb0, byte, 0xee];

/** Prints on COM1. */
export const print = (text: string): number[] => [...text].flatMap((c) => out(0x3f8, c.charCodeAt(0)));

/** mov dx, 604h; mov ax, 2000h; out dx, ax; hlt. */
export const softOff = [0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, 0xf4];

export const GUESTS = {
  /** There is no IDT: #BP becomes #GP, #DF, shutdown. */
  tripleFault: [...print('hi'), 0xcc],
  /** CMOS byte 0x40 outlives the reset: `in al, 71h; test al, al; jnz` to PM1a's soft off, else set it and fault. */
  rebootByTripleFault: [
    ...print('up\n'),
    ...[...out(0x70, 0x40), 0xe4, 0x71, 0x84, 0xc0, 0x75, 0x05],
    ...[0xb0, 0x01, 0xe6, 0x71, 0xcc],
    ...softOff,
  ],
  /** mov eax, 0xd0000000; jmp eax: the PCI window, where nothing answers. */
  jumpToNowhere: [0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0],
  /** The same behind the end of RAM above 1 MiB. */
  jumpBehindRam: [0xb8, 0, 0, 0, 0x80, 0xff, 0xe0],
  /** cli; hlt: nothing can ever wake it. */
  haltForEver: [...print('halted\n'), 0xfa, 0xf4, 0xeb, 0xfd],
  /** The reset control register: out 0xcf9, 6. */
  reset: [...print('reset\n'), ...out(0xcf9, 6), 0xf4],
  /** PM1a control: SLP_TYP 0 and SLP_EN, soft off. */
  powerOff: softOff,
  /** isa-debug-exit with 0x15. */
  debugExit: [...out(0xf4, 0x15), 0xf4],
  /** in al, dx from COM1 until something is there (LSR.DR), echo it, and leave with it as the code. */
  echo: [
    0x66,
    0xba,
    0xfd,
    0x03, // mov dx, 3fdh
    0xec,
    0xa8,
    0x01,
    0x74,
    0xfb, // in al, dx; test al, 1; jz -5
    0x66,
    0xba,
    0xf8,
    0x03,
    0xec,
    0xee, // mov dx, 3f8h; in al, dx; out dx, al
    0x66,
    0xba,
    0xf4,
    0x00,
    0xee,
    0xf4, // mov dx, f4h; out dx, al; hlt
  ],
} as const;
