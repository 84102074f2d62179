import assert from 'node:assert/strict';
import { test } from 'vitest';
import type { L1Physical } from '../../base/address.ts';
import { UserError } from '../../base/assert.ts';
import { ascii, ByteWriter, cString, writeLittleEndian } from '../bytes.ts';
import { BOOT, e820Map, highRamBytes, lowRamBytes, physical } from '../layout.ts';
import { SparseMemory } from '../testing/wires.ts';
import type { BootRequest } from './boot-state.ts';
import type { Halves } from './elf-file.ts';
import { ZERO_PAGE } from './linux-header.ts';
import { detectKernel, loadKernel } from './load-kernel.ts';

const MIB = 2 ** 20;

function request(overrides: Partial<BootRequest> = {}) {
  const ramBytes = overrides.ramBytes ?? 64 * MIB;
  const memory = new SparseMemory(lowRamBytes(ramBytes), highRamBytes(ramBytes));
  const full: BootRequest = {
    memory,
    ramBytes,
    e820: e820Map(ramBytes),
    commandLine: 'console=ttyS0',
    kernelName: 'vmlinuz',
    modules: [],
    rsdp: 0xe0000,
    ...overrides,
  };
  const bytesAt = (at: number, count: number) => {
    const into = new Uint8Array(count);
    assert.equal(memory.copyOut(at as L1Physical, into), count);
    return into;
  };
  const stringAt = (at: number) => {
    let text = '';
    for (let i = at; memory.read8(physical(i)) !== 0; i += 1) text += String.fromCharCode(memory.read8(physical(i)));
    return text;
  };
  const u32 = (at: number) => memory.read32(physical(at));
  const u64 = (at: number) => u32(at + 4) * 2 ** 32 + u32(at);
  return { ...full, memory, request: full, bytesAt, stringAt, u32, u64 };
}

/** A bzImage of nothing but headers: 1 setup sector, then a payload of 0x90. */
function bzImage(fields: Partial<Record<keyof typeof ZERO_PAGE, number>> = {}, payloadBytes = 8192): Uint8Array {
  const image = new Uint8Array(1024 + payloadBytes).fill(0x90, 1024);
  const put = (offset: number, size: number, value: number) => writeLittleEndian(image, offset, size, value);
  put(ZERO_PAGE.SETUP_SECTS, 1, 1);
  put(0x1f4, 4, payloadBytes / 16);
  put(ZERO_PAGE.BOOT_FLAG, 2, 0xaa55);
  put(ZERO_PAGE.JUMP, 2, 0x66eb);
  put(ZERO_PAGE.HEADER_MAGIC, 4, 0x5372_6448);
  put(ZERO_PAGE.VERSION, 2, 0x020f);
  put(ZERO_PAGE.LOADFLAGS, 1, 1);
  put(ZERO_PAGE.INITRD_ADDR_MAX, 4, 0x7fff_ffff);
  put(ZERO_PAGE.KERNEL_ALIGNMENT, 4, 0x20_0000);
  put(ZERO_PAGE.RELOCATABLE_KERNEL, 1, 1);
  put(ZERO_PAGE.XLOADFLAGS, 2, 0x7f);
  put(ZERO_PAGE.CMDLINE_SIZE, 4, 2047);
  put(ZERO_PAGE.PREF_ADDRESS, 4, 0x100_0000);
  put(ZERO_PAGE.INIT_SIZE, 4, 16 * MIB);
  const sizes: Partial<Record<string, number>> = {
    SETUP_SECTS: 1,
    VERSION: 2,
    LOADFLAGS: 1,
    XLOADFLAGS: 2,
    RELOCATABLE_KERNEL: 1,
  };
  for (const [name, value] of Object.entries(fields)) {
    put(ZERO_PAGE[name as keyof typeof ZERO_PAGE], sizes[name] ?? 4, value);
  }
  return image;
}

/** An ELF executable with one segment, and if wanted a PVH note. */
function elf(
  options: {
    bits?: 32 | 64;
    machine?: number;
    entry?: number | Halves;
    at?: number;
    virtual?: number | Halves;
    pvh?: number;
    content?: Uint8Array;
    bss?: number;
  } = {},
) {
  const { bits = 64, at = 2 * MIB, content = ascii('kernel code'), bss = 100 } = options;
  const wide = bits === 64;
  const word = (out: ByteWriter, value: number | Halves) => {
    if (typeof value !== 'number') return out.u32(value[0]).u32(value[1]);
    return wide ? out.u64(value) : out.u32(value);
  };
  const headerBytes = wide ? 64 : 52;
  const programBytes = wide ? 56 : 32;
  const programs = options.pvh === undefined ? 1 : 2;
  const contentAt = headerBytes + programs * programBytes;
  const noteAt = contentAt + content.length;
  const note = new ByteWriter()
    .u32(4)
    .u32(4)
    .u32(18)
    .text('Xen', 4)
    .u32(options.pvh ?? 0)
    .done();
  const out = new ByteWriter()
    .u8(0x7f)
    .text('ELF', 3)
    .u8(wide ? 2 : 1, 1, 1)
    .zeros(9);
  out
    .u16(2)
    .u16(options.machine ?? (wide ? 62 : 3))
    .u32(1);
  word(out, options.entry ?? at);
  word(out, headerBytes);
  word(out, 0);
  out.u32(0).u16(headerBytes).u16(programBytes).u16(programs).u16(0).u16(0).u16(0);
  const program = (
    type: number,
    fileAt: number,
    fileBytes: number,
    memoryBytes: number,
    virtual: number | Halves,
    where: number,
  ) => {
    out.u32(type);
    if (wide) out.u32(7);
    for (const value of [fileAt, virtual, where, fileBytes, memoryBytes]) word(out, value);
    if (!wide) out.u32(7);
    word(out, 4096);
  };
  program(1, contentAt, content.length, content.length + bss, options.virtual ?? at, at);
  if (options.pvh !== undefined) program(4, noteAt, note.length, note.length, 0, 0);
  assert.equal(out.length, contentAt);
  return out
    .bytes(content)
    .bytes(options.pvh === undefined ? [] : note)
    .done();
}

const multibootHeader = (flags: number, ...more: number[]) => {
  const out = new ByteWriter()
    .u32(0x1bad_b002)
    .u32(flags)
    .u32(-(0x1bad_b002 + flags) >>> 0);
  for (const value of more) out.u32(value);
  return out.done();
};

test('each kind of kernel is told by its bytes', () => {
  assert.equal(detectKernel(bzImage()), 'bzimage');
  assert.equal(detectKernel(elf({ pvh: 0x1234 })), 'pvh');
  assert.equal(detectKernel(elf()), 'elf');
  assert.equal(detectKernel(elf({ bits: 32, content: multibootHeader(3) })), 'multiboot');
  assert.equal(detectKernel(elf({ pvh: 0x1234, content: multibootHeader(3) })), 'pvh');
  assert.equal(detectKernel(elf({ content: multibootHeader(3) })), 'multiboot');
});

test('a bzImage starts at its preferred address plus 0x200, in long mode with RSI at the zero page', () => {
  const r = request();
  const { state, start, end } = loadKernel(bzImage(), r.request);
  assert.deepEqual([start, end], [0x100_0000, 0x200_0000]);
  assert.deepEqual([state.mode, state.rip, state.rsi, state.rflags], ['long', 0x100_0200, BOOT.INFO, 2]);
  assert.deepEqual([state.cr0, state.cr4, state.efer], [0x8000_0011, 0x20, 0x500]);
  assert.deepEqual([state.cs.selector, state.cs.accessRights, state.ds.selector], [0x10, 0xa09b, 0x18]);
  assert.equal(r.memory.read8(physical(start)), 0x90);
});

test('the page tables map the first 4 GiB one to one', () => {
  const r = request();
  const { state } = loadKernel(bzImage(), r.request);
  for (const address of [0, 0x100_0200, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff]) {
    const pdpt = r.u64(state.cr3) & ~0xfff;
    const directory = r.u64(pdpt + 8 * Math.floor(address / 2 ** 30)) & ~0xfff;
    const entry = r.u64(directory + 8 * (Math.floor(address / 2 ** 21) % 512));
    assert.equal(entry % 256, 0x83);
    assert.equal(entry - (entry % 2 ** 21), address - (address % 2 ** 21));
  }
});

test('the GDT in memory says the same as the segments', () => {
  const r = request();
  for (const image of [bzImage(), bzImage({ XLOADFLAGS: 0 })]) {
    const { state } = loadKernel(image, r.request);
    for (const segment of [state.cs, state.ds]) {
      const low = r.u32(state.gdt.base + segment.selector);
      const high = r.u32(state.gdt.base + segment.selector + 4);
      assert.equal(((high >> 8) & 0xf0ff) >>> 0, segment.accessRights);
      assert.deepEqual([low & 0xffff, (high >> 16) & 0xf], [0xffff, 0xf]);
    }
    assert.ok(state.gdt.limit >= state.tr.selector + 7);
  }
});

test("the zero page has the image's header, the command line, the memory map and the RSDP", () => {
  const r = request({ modules: [{ bytes: ascii('initrd!'), commandLine: '' }] });
  loadKernel(bzImage(), r.request);
  const zero = BOOT.INFO;
  assert.equal(r.u32(zero + ZERO_PAGE.HEADER_MAGIC), 0x5372_6448);
  assert.equal(r.u32(zero + ZERO_PAGE.INIT_SIZE), 16 * MIB, 'copied from the image');
  assert.equal(r.memory.read8(physical(zero + ZERO_PAGE.TYPE_OF_LOADER)), 0xff);
  assert.equal(r.stringAt(r.u32(zero + ZERO_PAGE.CMD_LINE_PTR)), 'console=ttyS0');
  const initrd = r.u32(zero + ZERO_PAGE.RAMDISK_IMAGE);
  assert.equal(initrd, 64 * MIB - 4096, 'as high as it goes');
  assert.deepEqual([...r.bytesAt(initrd, r.u32(zero + ZERO_PAGE.RAMDISK_SIZE))], [...ascii('initrd!')]);
  assert.equal(r.u64(zero + ZERO_PAGE.ACPI_RSDP_ADDR), 0xe0000);
  const entries = r.memory.read8(physical(zero + ZERO_PAGE.E820_ENTRIES));
  const map = Array.from({ length: entries }, (_, i) => {
    const at = zero + ZERO_PAGE.E820_TABLE + 20 * i;
    return { base: r.u64(at), bytes: r.u64(at + 8), type: r.u32(at + 16) };
  });
  assert.deepEqual(map, r.e820);
});

test('the memory map reserves the ACPI area and puts RAM beyond 3 GiB above 4 GiB', () => {
  const map = e820Map(4 * 2 ** 30);
  const typeAt = (at: number) => map.find((entry) => at >= entry.base && at < entry.base + entry.bytes)?.type;
  assert.deepEqual([typeAt(0), typeAt(0xe0000), typeAt(MIB), typeAt(0xbfff_ffff)], [1, 2, 1, 1]);
  assert.deepEqual(
    [typeAt(0xc000_0000), typeAt(0xfee0_0000), typeAt(2 ** 32), typeAt(2 ** 32 + 2 ** 30)],
    [undefined, 2, 1, undefined],
  );
});

test('setup_data entries are linked in order', () => {
  const r = request({
    setupData: [
      { type: 9, bytes: ascii('seed') },
      { type: 1, bytes: ascii('more') },
    ],
  });
  loadKernel(bzImage(), r.request);
  const first = r.u64(BOOT.INFO + ZERO_PAGE.SETUP_DATA);
  assert.deepEqual(
    [r.u32(first + 8), r.u32(first + 12), String.fromCharCode(...r.bytesAt(first + 16, 4))],
    [9, 4, 'seed'],
  );
  const second = r.u64(first);
  assert.deepEqual([r.u32(second + 8), r.u64(second)], [1, 0]);
});

test('a relocatable kernel that does not fit its preferred address goes to the lowest aligned one', () => {
  const r = request({ ramBytes: 20 * MIB });
  const { start, state } = loadKernel(bzImage(), r.request);
  assert.deepEqual([start, state.rip], [2 * MIB, 2 * MIB + 0x200]);
  assert.throws(
    () => loadKernel(bzImage({ RELOCATABLE_KERNEL: 0 }), r.request),
    /needs RAM up to 0x2000000 \(32 MiB\)/,
  );
});

test('without a 64-bit entry the 32-bit protocol is used', () => {
  for (const image of [bzImage({ XLOADFLAGS: 0 }), bzImage({ VERSION: 0x020a })]) {
    const r = request();
    const { state } = loadKernel(image, r.request);
    assert.deepEqual([state.mode, state.rip, state.rsi], ['protected32', MIB, BOOT.INFO]);
    assert.deepEqual([state.cr0, state.efer, state.cs.accessRights], [0x11, 0, 0xc09b]);
    assert.equal(r.u32(BOOT.INFO + ZERO_PAGE.CODE32_START), MIB);
  }
});

test('the initrd stays below initrd_addr_max', () => {
  const r = request({ modules: [{ bytes: new Uint8Array(5000), commandLine: '' }] });
  loadKernel(bzImage({ INITRD_ADDR_MAX: 0x2ff_ffff }), r.request);
  assert.equal(r.u32(BOOT.INFO + ZERO_PAGE.RAMDISK_IMAGE), 0x300_0000 - 8192);
});

test("PVH enters 32-bit code at the note's address with EBX at the start info", () => {
  const r = request({ modules: [{ bytes: ascii('ramdisk'), commandLine: '' }] });
  const { state, format } = loadKernel(elf({ pvh: 2 * MIB + 4 }), r.request);
  assert.deepEqual([format, state.mode, state.rip, state.rbx], ['pvh', 'protected32', 2 * MIB + 4, BOOT.PVH]);
  const info = state.rbx;
  assert.deepEqual([r.u32(info), r.u32(info + 4), r.u32(info + 12)], [0x336e_c578, 1, 1]);
  assert.equal(r.stringAt(r.u64(info + 24)), 'console=ttyS0');
  assert.equal(r.u64(info + 32), 0xe0000);
  const module = r.u64(info + 16);
  assert.deepEqual([...r.bytesAt(r.u64(module), r.u64(module + 8))], [...ascii('ramdisk')]);
  const map = r.u64(info + 40);
  assert.equal(r.u32(info + 48), r.e820.length);
  r.e820.forEach((entry, i) => {
    assert.deepEqual(
      [r.u64(map + 24 * i), r.u64(map + 24 * i + 8), r.u32(map + 24 * i + 16)],
      [entry.base, entry.bytes, entry.type],
    );
  });
});

test('ELF segments go to their physical addresses and the rest of them is zeroed', () => {
  const r = request();
  r.memory.copyIn(physical(2 * MIB), new Uint8Array(4096).fill(0xff));
  loadKernel(elf({ bss: 50 }), r.request);
  assert.deepEqual([...r.bytesAt(2 * MIB, 11)], [...ascii('kernel code')]);
  assert.deepEqual([...r.bytesAt(2 * MIB + 11, 51)], [...new Uint8Array(50), 0xff]);
});

test('a plain 64-bit ELF starts in long mode, a 32-bit one in protected mode, both with a zero page', () => {
  const wide = request();
  const state = loadKernel(
    elf({ virtual: [0x20_0000, 0xffff_8000], entry: [0x20_0008, 0xffff_8000] }),
    wide.request,
  ).state;
  assert.deepEqual([state.mode, state.rip, state.rsi, state.rbx], ['long', 2 * MIB + 8, BOOT.INFO, BOOT.PVH]);
  const narrow = loadKernel(elf({ bits: 32 }), request().request).state;
  assert.deepEqual([narrow.mode, narrow.rip], ['protected32', 2 * MIB]);
});

test('Multiboot hands over the magic number and an information structure', () => {
  const r = request({
    kernelName: 'test.flat',
    commandLine: 'a b=c',
    modules: [
      { bytes: ascii('first'), commandLine: 'one args' },
      { bytes: ascii('second'), commandLine: 'two' },
    ],
  });
  const { state, end } = loadKernel(elf({ bits: 32, content: multibootHeader(0) }), r.request);
  assert.deepEqual([state.mode, state.rax, state.rip], ['protected32', 0x2bad_b002, 2 * MIB]);
  const info = state.rbx;
  assert.equal(r.u32(info) & 0x4d, 0x4d, 'memory, command line, modules, memory map');
  assert.deepEqual([r.u32(info + 4), r.u32(info + 8)], [640, 63 * 1024]);
  assert.equal(r.stringAt(r.u32(info + 16)), 'test.flat a b=c');
  assert.equal(r.u32(info + 20), 2);
  const modules = [0, 1].map((i) => {
    const at = r.u32(info + 24) + 16 * i;
    return { start: r.u32(at), end: r.u32(at + 4), text: r.stringAt(r.u32(at + 8)) };
  });
  assert.deepEqual(
    modules.map(({ start, end: to, text }) => [
      start % 4096,
      String.fromCharCode(...r.bytesAt(start, to - start)),
      text,
    ]),
    [
      [0, 'first', 'one args'],
      [0, 'second', 'two'],
    ],
  );
  assert.ok(modules[0]!.start >= end);
  const [length, map] = [r.u32(info + 44), r.u32(info + 48)];
  assert.equal(length, 24 * r.e820.length);
  assert.deepEqual([r.u32(map), r.u64(map + 4), r.u64(map + 12), r.u32(map + 20)], [20, 0, 0x9fc00, 1]);
});

test('a Multiboot kernel in low memory has its information above it', () => {
  const r = request();
  const image = elf({ bits: 32, at: 0x8000, content: multibootHeader(0), bss: 0x1_0000 });
  const { state, start, end } = loadKernel(image, r.request);
  assert.deepEqual([start, state.rip], [0x8000, 0x8000]);
  assert.ok(state.rbx >= end && state.gdt.base >= end);
  assert.equal(r.stringAt(r.u32(state.rbx + 16)), 'vmlinuz console=ttyS0');
  for (const [at, bss] of [
    [0x800, 0],
    [0x8000, 0x9_0000],
    [0xa_0000, 0],
  ] as const) {
    assert.throws(
      () => loadKernel(elf({ bits: 32, at, content: multibootHeader(0), bss }), r.request),
      /wants to be loaded at/,
    );
  }
});

test('a Multiboot header with addresses loads a flat file', () => {
  const code = multibootHeader(0x1_0003, MIB + 16, MIB + 16, MIB + 16 + 40, MIB + 200, MIB + 0x20);
  const file = new ByteWriter().zeros(16).bytes(code).text('12345678', 8).done();
  const r = request();
  const { state, start, end, format } = loadKernel(file, r.request);
  assert.deepEqual([format, start, end, state.rip], ['multiboot', MIB + 16, MIB + 200, MIB + 0x20]);
  assert.equal(r.u32(MIB + 16), 0x1bad_b002);
  assert.throws(() => loadKernel(file.subarray(0, 50), r.request), UserError);
});

const rejected: readonly (readonly [
  what: string,
  image: Uint8Array,
  says: RegExp,
  overrides?: Partial<BootRequest>,
])[] = [
  ['an empty file', new Uint8Array(), /vmlinuz is empty, expected .*check the path/],
  ['garbage', ascii('hello world, this is text'), /is not a kernel: .*found 25 B starting with 68 65 6c 6c/],
  ['a gzip archive', Uint8Array.of(0x1f, 0x8b, 8, 0), /a gzip archive: unpack it first/],
  ['a bzImage that ends in its header', bzImage().subarray(0, 0x230), /not a whole bzImage.*cut off\?/],
  ['a bzImage that ends in its setup code', bzImage().subarray(0, 1000), /not a whole bzImage.*cut off\?/],
  ['a bzImage with half a kernel', bzImage().subarray(0, 4000), /not a whole bzImage.*cut off\?/],
  ['a zImage', bzImage({ LOADFLAGS: 0 }), /is a zImage/],
  ['an ELF file for ARM', elf({ machine: 183 }), /built for AArch64, expected i386 or x86-64/],
  ['an ELF file cut off in a segment', elf().subarray(0, 125), /not a whole ELF file.*cut off\?/],
  ['an ELF file cut off in its headers', elf().subarray(0, 70), /not a whole ELF file.*cut off\?/],
  ['four bytes of ELF', elf().subarray(0, 4), /not a whole ELF file/],
  ['an ELF kernel below 1 MiB', elf({ at: 0x8000 }), /wants to be loaded at 0x8000/],
  ['an ELF kernel beyond the RAM', elf({ at: 63 * MIB, bss: 2 * MIB }), /needs RAM up to .*more memory with -m/],
  ['an ELF kernel beyond 4 GiB', elf({ at: 2 ** 33 }), /needs RAM up to .*link it lower/],
  [
    'an ELF kernel that starts outside itself',
    elf({ entry: 0x5000 }),
    /starts at 0x0000000000005000, which is in none of its segments/,
  ],
  ['a Multiboot kernel with unknown demands', elf({ bits: 32, content: multibootHeader(0x10) }), /asks .* for 0x10/],
  ['a bzImage larger than the RAM', bzImage(), /needs RAM up to .*4 MiB/, { ramBytes: 4 * MIB }],
  [
    'an initrd larger than the RAM',
    bzImage(),
    /the initrd is 40 MiB.*room for 32 MiB/,
    {
      modules: [{ bytes: new Uint8Array(40 * MIB), commandLine: '' }],
    },
  ],
  [
    'two initrds for Linux',
    bzImage(),
    /takes one -initrd file, but 2 were given/,
    {
      modules: [
        { bytes: ascii('1'), commandLine: '' },
        { bytes: ascii('2'), commandLine: '' },
      ],
    },
  ],
  [
    'a command line that is too long',
    bzImage(),
    /is 2048 bytes long, but vmlinuz takes at most 2047/,
    { commandLine: 'x'.repeat(2048) },
  ],
  ['a machine with 1 MiB', bzImage(), /at least 2 MiB/, { ramBytes: MIB }],
];

for (const [what, image, says, overrides] of rejected) {
  test(`${what} is refused in one sentence`, () => {
    assert.throws(
      () => loadKernel(image, request(overrides).request),
      (error) => {
        assert.ok(error instanceof UserError, String(error));
        assert.match(error.message, says);
        return true;
      },
    );
  });
}

test('no prefix of a kernel, and no flipped byte in its headers, is anything but loaded or refused', () => {
  const images = [bzImage({}, 512), elf({ pvh: 2 * MIB }), elf({ bits: 32, content: multibootHeader(3) })];
  const attempt = (image: Uint8Array) => {
    try {
      loadKernel(image, request({ ramBytes: 40 * MIB }).request);
    } catch (error) {
      assert.ok(error instanceof UserError, String(error));
    }
  };
  for (const image of images) {
    for (let length = 0; length < image.length; length += 37) attempt(image.subarray(0, length));
    const interesting = image.length < 1024 ? [0, image.length] : [0x1f0, 0x270];
    for (let at = interesting[0]!; at < interesting[1]!; at += 1) {
      const flipped = image.slice();
      flipped[at]! ^= 0xff;
      attempt(flipped);
    }
  }
});

test('the command line is passed as UTF-8', () => {
  assert.deepEqual([...cString('ä€😀')], [0xc3, 0xa4, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0]);
});
