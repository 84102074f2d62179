/** Multiboot kernels of a few bytes, for what no compiled guest does: end badly. */

const MAGIC = 0x1badb002;
/** The header itself says where to load: no ELF needed. */
const HAS_ADDRESSES = 1 << 16;
const LOAD_AT = 0x10_0000;
const HEADER_BYTES = 32;
/** Where a guest's code is, in guest-physical memory. */
export const CODE_AT = LOAD_AT + HEADER_BYTES;

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
    CODE_AT, // entry
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

const u32 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
/** mov dword [at], value */
const poke = (at: number, value: number): number[] => [0xc7, 0x05, ...u32(at), ...u32(value)];
/** mov al, value; out port, al */
const outByte = (port: number, value: number): number[] => [0xb0, value, 0xe6, port];

/** Prints on COM1. */
export const print = (text: string): number[] => [...text].flatMap((c) => out(0x3f8, c.charCodeAt(0)));

/** mov dx, 604h; mov ax, 2000h; out dx, ax; hlt. */
export const softOff = [0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, 0xf4];

/** CR0.NE is clear, as a Multiboot loader leaves it: 1/0 in the x87 comes as IRQ 13, vector 75H, whose handler prints F. */
function coprocessorError(): number[] {
  const [idt, idtr, control] = [0x20_0000, 0x20_1000, 0x20_1010];
  const handler = [
    ...[...print('F'), ...outByte(0xf0, 0), 0xdb, 0xe2], //                   out f0h; fnclex
    ...[...outByte(0xa0, 0x20), ...outByte(0x20, 0x20), 0xcf], //             EOI to both 8259s; iretd
  ];
  const entry = CODE_AT + 5;
  return [
    ...[0xe9, ...u32(handler.length), ...handler], //                         jmp over it
    ...poke(idt + 0x75 * 8, ((0x10 << 16) | (entry & 0xffff)) >>> 0), //      interrupt gate, CS 10H
    ...poke(idt + 0x75 * 8 + 4, ((entry & 0xffff_0000) | 0x8e00) >>> 0),
    ...[...poke(idtr, 0x7ff), ...poke(idtr + 2, idt), 0x0f, 0x01, 0x1d, ...u32(idtr)], // lidt
    ...[0xbc, ...u32(0x9_0000), ...outByte(0x21, 0xfb), ...outByte(0xa1, 0xdf)], // only IRQ 13 is let through
    ...[...poke(control, 0x037b), 0xdb, 0xe3, 0xd9, 0x2d, ...u32(control)], // fninit; fldcw: division by zero unmasked
    ...[0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xfb, 0x9b], //                   fld1; fldz; fdivp; sti; fwait
    ...[...print('done\n'), ...softOff],
  ];
}

/** `body`, with interrupts by the PIT each `count` of its ticks, for which nothing is done. */
function withTicks(count: number, body: readonly number[]): number[] {
  const [idt, idtr] = [0x20_0000, 0x20_1000];
  const handler = [0x50, ...outByte(0x20, 0x20), 0x58, 0xcf]; //              push eax; EOI; pop eax; iretd
  const entry = CODE_AT + 5;
  return [
    ...[0xe9, ...u32(handler.length), ...handler],
    ...poke(idt + 8 * 8, ((0x10 << 16) | (entry & 0xffff)) >>> 0), //         IRQ 0 is vector 8
    ...poke(idt + 8 * 8 + 4, ((entry & 0xffff_0000) | 0x8e00) >>> 0),
    ...[...poke(idtr, 0x7ff), ...poke(idtr + 2, idt), 0x0f, 0x01, 0x1d, ...u32(idtr)],
    ...[0xbc, ...u32(0x9_0000), ...outByte(0x21, 0xfe), ...outByte(0xa1, 0xff)],
    ...[...outByte(0x43, 0x34), ...outByte(0x40, count & 255), ...outByte(0x40, count >>> 8)],
    ...body,
  ];
}

/** The PIT interrupts every 17 µs a loop that lets interrupts in for two instructions and then holds them off for eight. */
function timerInterrupts(): number[] {
  const again = [0xfb, 0x90, 0xfa, ...new Array(8).fill(0x40), 0x49]; //       sti; nop; cli; 8 × inc eax; dec ecx
  return withTicks(20, [0xb9, ...u32(3000), ...again, 0x75, 0x100 - again.length - 2, ...softOff]);
}

/** Waits in HLT for the PIT's ticks, a hundred a second, for ever. */
function waitsForTicks(): number[] {
  return withTicks(0x2e9c, [...print('waiting\n'), 0xfb, 0xf4, 0xeb, 0xfc]); // sti; hlt; jmp -4
}

/**
 * Two tasks, each with tables of its own, jump to each other; a third, which is called and reached through a task gate,
 * returns. COUNT rounds of six switches. Linear page OWN is another one in the second task: it counts there.
 */
const TASKS = { OWN: 0x40_0000, SECOND: 0x80_0000, COUNT: 4000 } as const;
function taskSwitches(): number[] {
  const [gdt, idt, gdtr, idtr] = [0x20_0000, 0x20_0800, 0x20_1000, 0x20_1008];
  const [first, second, third] = [0x20_2000, 0x20_2100, 0x20_2200];
  const [firstTables, secondTables, stacks] = [0x21_0000, 0x21_1000, 0x9_0000];
  const [CODE, DATA, FIRST, SECOND, THIRD] = [0x10, 0x18, 0x20, 0x28, 0x30];
  const descriptor = (selector: number, base: number, low: number, rights: number): number[] => [
    ...poke(gdt + selector, ((base << 16) | low) >>> 0),
    ...poke(gdt + selector + 4, (rights | ((base >>> 16) & 0xff)) >>> 0),
  ];
  const start = CODE_AT + 5;
  const jumpTo = (selector: number): number[] => [0xea, ...u32(0), selector, 0];
  // inc dword [OWN]; jmp FIRST; and once more
  const secondTask = [0xff, 0x05, ...u32(TASKS.OWN), ...jumpTo(FIRST), 0xeb, 0x100 - 15];
  const thirdTask = [0xcf, 0xeb, 0xfd]; // iretd, and once more
  const task = (at: number, tables: number, eip: number, stack: number): number[] => [
    ...[...poke(at + 28, tables), ...poke(at + 32, eip), ...poke(at + 36, 2), ...poke(at + 56, stack)],
    ...[...poke(at + 64, at + 40), ...poke(at + 68, TASKS.OWN)],
    ...[DATA, CODE, DATA, DATA, DATA, DATA].flatMap((selector, i) => poke(at + 72 + 4 * i, selector)),
  ];
  const round = [
    ...[...jumpTo(SECOND), 0x9a, ...u32(0), THIRD, 0], //                     jmp SECOND; call THIRD
    ...[0xcd, 0x30, 0x49], //                                                 int 30h; dec ecx
  ];
  return [
    ...[0xe9, ...u32(secondTask.length + thirdTask.length), ...secondTask, ...thirdTask],
    ...[...descriptor(CODE, 0, 0xffff, 0xcf_9b00), ...descriptor(DATA, 0, 0xffff, 0xcf_9300)],
    ...[...descriptor(FIRST, first, 0x67, 0x8900), ...descriptor(SECOND, second, 0x67, 0x8900)],
    ...[...descriptor(THIRD, third, 0x67, 0x8900), ...poke(idt + 8 * 0x30, THIRD << 16)],
    ...[...poke(idt + 8 * 0x30 + 4, 0x8500), ...poke(first + 28, firstTables)],
    ...task(second, secondTables, start, stacks),
    ...task(third, firstTables, start + secondTask.length, stacks + 0x1000),
    ...[firstTables, secondTables].flatMap((tables) => poke(tables, 0x83)), // 4 MiB pages, writable
    ...[...poke(firstTables + 4, 0x40_0083), ...poke(secondTables + 4, TASKS.SECOND | 0x83)],
    ...[...poke(gdtr, 0x37), ...poke(gdtr + 2, gdt), 0x0f, 0x01, 0x15, ...u32(gdtr)], // lgdt
    ...[...poke(idtr, 0x7ff), ...poke(idtr + 2, idt), 0x0f, 0x01, 0x1d, ...u32(idtr)], // lidt
    ...[0xb8, ...u32(0x10), 0x0f, 0x22, 0xe0, 0xb8, ...u32(firstTables), 0x0f, 0x22, 0xd8], // CR4.PSE, CR3
    ...[0xb8, ...u32(0x8000_0011), 0x0f, 0x22, 0xc0, 0x66, 0xb8, FIRST, 0, 0x0f, 0x00, 0xd8], // CR0; ltr
    ...[0xbe, ...u32(first + 40), 0xbf, ...u32(TASKS.OWN)], //                ESI: the task's TSS; EDI: where it counts
    ...[0xbc, ...u32(stacks + 0x2000), 0xb9, ...u32(TASKS.COUNT), ...round, 0x75, 0x100 - round.length - 2],
    ...[0xa1, ...u32(TASKS.OWN), 0x66, 0xba, 0xf4, 0, 0xee, ...softOff], //   code of isa-debug-exit: 0 if OWN is
  ];
}

/** CMOS byte 0x40 outlives a reset: soft off if it is set, else set it and reset. */
function reboots(reset: readonly number[]): number[] {
  const again = [0xb0, 0x01, 0xe6, 0x71, ...reset, 0xf4];
  return [...print('up\n'), ...out(0x70, 0x40), 0xe4, 0x71, 0x84, 0xc0, 0x75, again.length, ...again, ...softOff];
}

export const GUESTS = {
  coprocessorError: coprocessorError(),
  timerInterrupts: timerInterrupts(),
  taskSwitches: taskSwitches(),
  waitsForTicks: waitsForTicks(),
  /** There is no IDT: #BP becomes #GP, #DF, shutdown. */
  tripleFault: [...print('hi'), 0xcc],
  rebootByTripleFault: reboots([0xcc]),
  rebootByKeyboardController: reboots(out(0x64, 0xfe)),
  rebootBySystemControlPort: reboots(out(0x92, 0x01)),
  rebootByResetRegister: reboots(out(0xcf9, 0x06)),
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
