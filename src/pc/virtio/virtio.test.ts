import assert from 'node:assert/strict';
import { test } from 'vitest';
import { ascii, ByteWriter } from '../bytes.ts';
import { physical } from '../layout.ts';
import { plugged } from '../testing/platform.ts';
import type { BlockStore } from './block.ts';
import { COMMON, DESCRIPTOR, DEVICE_STATUS } from './registers.ts';

const SECTORS = 64;
const EVENT_IDX = 2 ** 29;
const INDIRECT = 2 ** 28;
/** Guest memory of the test driver. */
const AT = {
  DESCRIPTORS: 0x10_0000,
  AVAILABLE: 0x10_2000,
  USED: 0x10_3000,
  DATA: 0x11_0000,
  TABLE: 0x12_0000,
} as const;

interface Piece {
  readonly at: number;
  readonly bytes: number;
  readonly write?: boolean;
}

/** A disk, and a driver for it that goes through PCI configuration, BARs and rings as Linux's does. */
function disk(options: { readOnly?: boolean; features?: number; failing?: boolean } = {}) {
  const content = Uint8Array.from({ length: SECTORS * 512 }, (_, i) => (i >> 9) + 1);
  let flushes = 0;
  const store: BlockStore = {
    sizeBytes: content.length,
    readOnly: options.readOnly ?? false,
    read: (offset, into) => {
      if (options.failing) throw new Error('the host disk is gone');
      into.set(content.subarray(offset, offset + into.length));
    },
    write: (offset, from) => content.set(from, offset),
    flush: () => {
      flushes += 1;
    },
  };
  const machine = plugged({ drives: [{ store, serial: 'disk-0' }] });
  const { bus, memory, config } = machine;
  const slot = 2;

  // The capabilities say where things are.
  const found: Record<number, number> = {};
  let msix = 0;
  const bar = (config.read(slot, 0, 0x20) & ~0xf) >>> 0;
  for (let at = config.read(slot, 0, 0x34, 1); at !== 0; at = config.read(slot, 0, at + 1, 1)) {
    if (config.read(slot, 0, at, 1) === 0x11) msix = at;
    else found[config.read(slot, 0, at + 3, 1)] = bar + config.read(slot, 0, at + 8);
  }
  const [common, notifyAt, isr, device] = [found[1]!, found[2]!, found[3]!, found[4]!];
  const status = () => bus.read(common + COMMON.DEVICE_STATUS, 1);
  const setStatus = (value: number) => bus.write(common + COMMON.DEVICE_STATUS, value, 1);

  const features = options.features ?? 0;
  setStatus(DEVICE_STATUS.ACKNOWLEDGE | DEVICE_STATUS.DRIVER);
  bus.write(common + COMMON.DRIVER_FEATURE_SELECT, 0);
  bus.write(common + COMMON.DRIVER_FEATURE, features);
  bus.write(common + COMMON.DRIVER_FEATURE_SELECT, 1);
  bus.write(common + COMMON.DRIVER_FEATURE, 1);
  setStatus(0x0b);
  assert.equal(status(), 0x0b, 'FEATURES_OK holds');
  bus.write(common + COMMON.QUEUE_SELECT, 0, 2);
  const queueSize = 16;
  bus.write(common + COMMON.QUEUE_SIZE, queueSize, 2);
  for (const [register, at] of [
    [COMMON.QUEUE_DESC, AT.DESCRIPTORS],
    [COMMON.QUEUE_DRIVER, AT.AVAILABLE],
    [COMMON.QUEUE_DEVICE, AT.USED],
  ] as const) {
    bus.write(common + register, at);
    bus.write(common + register + 4, 0);
  }
  bus.write(common + COMMON.QUEUE_ENABLE, 1, 2);
  setStatus(0x0f);

  const descriptors = (table: number, pieces: readonly Piece[]) =>
    pieces.forEach((piece, i) => {
      const more = i + 1 < pieces.length ? DESCRIPTOR.NEXT : 0;
      const row = new ByteWriter()
        .u64(piece.at)
        .u32(piece.bytes)
        .u16(more | (piece.write ? DESCRIPTOR.WRITE : 0))
        .u16(i + 1);
      memory.copyIn(physical(table + 16 * i), row.done());
    });
  let available = 0;
  const offer = (head = 0) => {
    memory.write16(physical(AT.AVAILABLE + 4 + 2 * (available % queueSize)), head);
    available += 1;
    memory.write16(physical(AT.AVAILABLE + 2), available);
  };
  const notify = () => bus.write(notifyAt, 0, 2);
  const header = (type: number, sector: number) =>
    memory.copyIn(physical(AT.DATA), new ByteWriter().u32(type).u32(0).u64(sector).done());
  const STATUS_AT = AT.DATA + 0x800;
  /** One request with these data pieces; returns the status byte and how many bytes the device says it wrote. */
  const request = (type: number, sector: number, data: readonly Piece[]) => {
    memory.write8(physical(STATUS_AT), 0xee);
    header(type, sector);
    descriptors(AT.DESCRIPTORS, [{ at: AT.DATA, bytes: 16 }, ...data, { at: STATUS_AT, bytes: 1, write: true }]);
    offer();
    notify();
    const used = memory.read16(physical(AT.USED + 2));
    return {
      status: memory.read8(physical(STATUS_AT)),
      written: memory.read32(physical(AT.USED + 8 + 8 * ((used - 1) % queueSize))),
      used,
    };
  };
  const bytesAt = (at: number, count: number) => {
    const into = new Uint8Array(count);
    memory.copyOut(physical(at), into);
    return into;
  };
  return {
    ...machine,
    slot,
    common,
    notifyAt,
    isr,
    device,
    msix,
    status,
    setStatus,
    content,
    request,
    header,
    descriptors,
    offer,
    notify,
    bytesAt,
    queueSize,
    STATUS_AT,
    flushes: () => flushes,
  };
}

test('the device is a modern virtio-blk with its capacity and segment limit', () => {
  const d = disk();
  assert.equal(d.config.read(d.slot, 0, 0), 0x1042_1af4);
  assert.deepEqual([d.bus.read(d.device), d.bus.read(d.device + 4), d.bus.read(d.device + 12)], [SECTORS, 0, 254]);
  d.bus.write(d.common + COMMON.DEVICE_FEATURE_SELECT, 1);
  assert.equal(d.bus.read(d.common + COMMON.DEVICE_FEATURE), 1, 'VERSION_1');
  d.bus.write(d.common + COMMON.DEVICE_FEATURE_SELECT, 2);
  assert.equal(d.bus.read(d.common + COMMON.DEVICE_FEATURE), 0);
});

test('a read fills its segments, tells how much it wrote, and interrupts by the pin', () => {
  const d = disk();
  const data = [
    { at: AT.DATA + 0x1000, bytes: 100, write: true },
    { at: AT.DATA + 0x3000, bytes: 924, write: true },
  ];
  const { status, written, used } = d.request(0, 5, data);
  assert.deepEqual([status, written, used], [0, 1025, 1]);
  const got = [...d.bytesAt(AT.DATA + 0x1000, 100), ...d.bytesAt(AT.DATA + 0x3000, 924)];
  assert.deepEqual(got, [...d.content.subarray(5 * 512, 7 * 512)]);
  assert.equal(d.irq(10).level, true, 'slot 2, INTA#: link C');
  assert.equal(d.bus.read(d.isr, 1), 1);
  assert.equal(d.irq(10).level, false, 'reading ISR takes the interrupt away');
});

test('a write changes the disk, a flush reaches the host, GET_ID names the disk', () => {
  const d = disk();
  d.memory.copyIn(physical(AT.DATA + 0x1000), new Uint8Array(512).fill(0xa5));
  assert.equal(d.request(1, 9, [{ at: AT.DATA + 0x1000, bytes: 512 }]).status, 0);
  assert.deepEqual([...d.content.subarray(9 * 512 - 1, 9 * 512 + 1)], [9, 0xa5]);
  assert.equal(d.content[10 * 512], 11);
  assert.equal(d.request(4, 0, []).status, 0);
  assert.equal(d.flushes(), 1);
  assert.equal(d.request(8, 0, [{ at: AT.DATA + 0x2000, bytes: 20, write: true }]).status, 0);
  assert.deepEqual([...d.bytesAt(AT.DATA + 0x2000, 8)], [...ascii('disk-0'), 0, 0]);
});

test('WRITE_ZEROES zeroes its ranges, DISCARD leaves what it likes, and both check every range before they begin', () => {
  const d = disk();
  const ranges = (type: number, rows: readonly (readonly [sector: number, sectors: number, flags: number])[]) => {
    const data = new ByteWriter();
    for (const [sector, sectors, flags] of rows) data.u64(sector).u32(sectors).u32(flags);
    d.memory.copyIn(physical(AT.DATA + 0x1000), data.done());
    return d.request(type, 0, [{ at: AT.DATA + 0x1000, bytes: data.length }]).status;
  };
  d.bus.write(d.common + COMMON.DEVICE_FEATURE_SELECT, 0);
  assert.equal((d.bus.read(d.common + COMMON.DEVICE_FEATURE) >>> 13) & 3, 3);
  const limits = [0x24, 0x28, 0x2c, 0x30, 0x34].map((at) => d.bus.read(d.device + at));
  assert.deepEqual(limits, [1 << 22, 64, 1, 1 << 15, 64]);
  assert.equal(
    ranges(13, [
      [3, 2, 0],
      [10, 1, 1],
    ]),
    0,
  );
  const firsts = Array.from({ length: 12 }, (_, sector) => d.content[sector * 512]);
  assert.deepEqual(firsts, [1, 2, 3, 0, 0, 6, 7, 8, 9, 10, 0, 12]);
  assert.equal(ranges(11, [[20, 4, 0]]), 0);
  assert.equal(ranges(11, [[20, 4, 1]]), 2, 'DISCARD has no flags');
  assert.equal(ranges(13, [[20, 4, 2]]), 2, 'nor has WRITE_ZEROES any but unmap');
  assert.equal(
    ranges(13, [
      [5, 1, 0],
      [SECTORS - 1, 2, 0],
    ]),
    1,
    'across the end',
  );
  assert.equal(d.content[5 * 512], 6, 'the range before it was not touched');
  assert.equal(ranges(13, []), 1, 'no range');
  assert.equal(ranges(13, new Array(65).fill([0, 1, 0])), 1, 'more than there may be');
  const readOnly = disk({ readOnly: true });
  readOnly.bus.write(readOnly.common + COMMON.DEVICE_FEATURE_SELECT, 0);
  assert.equal((readOnly.bus.read(readOnly.common + COMMON.DEVICE_FEATURE) >>> 13) & 3, 0);
});

test('what the disk cannot do ends in a status, not in an exception', () => {
  const d = disk();
  const into = (bytes: number, at = AT.DATA + 0x1000) => [{ at, bytes, write: true }];
  assert.equal(d.request(0, SECTORS - 1, into(512)).status, 0);
  assert.equal(d.request(0, SECTORS, into(512)).status, 1, 'behind the end');
  assert.equal(d.request(0, SECTORS - 1, into(1024)).status, 1, 'across the end');
  assert.equal(d.request(0, 2 ** 40, into(512)).status, 1);
  assert.equal(d.request(0, 0, into(511)).status, 1, 'not whole sectors');
  assert.equal(d.request(0, 0, into(512, 0xb000_0000)).status, 1, 'a hole in guest memory');
  assert.equal(d.request(77, 0, []).status, 2, 'unsupported');
  const broken = disk({ failing: true });
  assert.equal(broken.request(0, 0, into(512)).status, 1, 'the host fails');
  const readOnly = disk({ readOnly: true });
  assert.equal(readOnly.request(1, 0, [{ at: AT.DATA + 0x1000, bytes: 512 }]).status, 1);
  assert.equal(readOnly.content[0], 1);
});

test('an indirect table is one descriptor in the ring', () => {
  const d = disk({ features: INDIRECT });
  d.header(0, 2);
  d.descriptors(AT.TABLE, [
    { at: AT.DATA, bytes: 16 },
    { at: AT.DATA + 0x1000, bytes: 512, write: true },
    { at: d.STATUS_AT, bytes: 1, write: true },
  ]);
  const row = new ByteWriter().u64(AT.TABLE).u32(48).u16(DESCRIPTOR.INDIRECT).u16(0);
  d.memory.copyIn(physical(AT.DESCRIPTORS + 16 * 3), row.done());
  d.offer(3);
  d.notify();
  assert.equal(d.memory.read32(physical(AT.USED + 4)), 3);
  assert.equal(d.memory.read8(physical(d.STATUS_AT)), 0);
  assert.equal(d.bytesAt(AT.DATA + 0x1000, 1)[0], 3);
});

test('with EVENT_IDX the device interrupts only past used_event and says when to notify', () => {
  const d = disk({ features: EVENT_IDX });
  const usedEvent = AT.AVAILABLE + 4 + 2 * d.queueSize;
  const availEvent = AT.USED + 4 + 8 * d.queueSize;
  d.memory.write16(physical(usedEvent), 1); // tell me when the second is done
  d.request(4, 0, []);
  assert.equal(d.irq(10).level, false);
  assert.equal(d.memory.read16(physical(availEvent)), 1);
  d.request(4, 0, []);
  assert.equal(d.irq(10).level, true);
});

test('NO_INTERRUPT is respected without EVENT_IDX', () => {
  const d = disk();
  d.memory.write16(physical(AT.AVAILABLE), 1);
  d.request(4, 0, []);
  assert.equal(d.irq(10).level, false);
});

test("with MSI-X the queue's vector is sent and the pin stays low", () => {
  const d = disk();
  const table = (d.config.read(d.slot, 0, 0x14) & ~0xf) >>> 0;
  d.bus.write(table + 16, 0xfee0_0000);
  d.bus.write(table + 16 + 8, 0x51);
  d.bus.write(table + 16 + 12, 0);
  d.config.write(d.slot, 0, d.msix + 2, 0x8000, 2);
  d.bus.write(d.common + COMMON.QUEUE_MSIX_VECTOR, 1, 2);
  assert.equal(d.bus.read(d.common + COMMON.QUEUE_MSIX_VECTOR, 2), 1);
  d.request(4, 0, []);
  assert.deepEqual(d.said.messages, [[0xfee0_0000, 0, 0x51]]);
  assert.equal(d.irq(10).level, false);
  d.bus.write(d.common + COMMON.QUEUE_MSIX_VECTOR, 9, 2);
  assert.equal(d.bus.read(d.common + COMMON.QUEUE_MSIX_VECTOR, 2), 0xffff, 'a vector that is not there');
});

test.each([
  [
    'loops',
    (d: ReturnType<typeof disk>) =>
      d.memory.copyIn(
        physical(AT.DESCRIPTORS),
        new ByteWriter().u64(AT.DATA).u32(16).u16(DESCRIPTOR.NEXT).u16(0).done(),
      ),
  ],
  [
    'points outside the table',
    (d: ReturnType<typeof disk>) =>
      d.memory.copyIn(
        physical(AT.DESCRIPTORS),
        new ByteWriter().u64(AT.DATA).u32(16).u16(DESCRIPTOR.NEXT).u16(999).done(),
      ),
  ],
  [
    'has no byte for a status',
    (d: ReturnType<typeof disk>) => d.descriptors(AT.DESCRIPTORS, [{ at: AT.DATA, bytes: 16 }]),
  ],
  [
    'reads behind a write',
    (d: ReturnType<typeof disk>) =>
      d.descriptors(AT.DESCRIPTORS, [
        { at: AT.DATA, bytes: 16, write: true },
        { at: AT.DATA, bytes: 16 },
      ]),
  ],
  [
    'nests indirect tables',
    (d: ReturnType<typeof disk>) => {
      const row = new ByteWriter().u64(AT.TABLE).u32(16).u16(DESCRIPTOR.INDIRECT).u16(0).done();
      d.memory.copyIn(physical(AT.DESCRIPTORS), row);
      d.memory.copyIn(physical(AT.TABLE), row);
    },
  ],
])('a chain that %s makes the device ask for a reset, which cures it', (_what, corrupt) => {
  const d = disk();
  corrupt(d);
  d.offer();
  d.notify();
  assert.equal(d.status() & DEVICE_STATUS.NEEDS_RESET, DEVICE_STATUS.NEEDS_RESET);
  assert.equal(d.bus.read(d.isr, 1) & 2, 2, 'a configuration change interrupt');
  d.setStatus(0);
  assert.equal(d.status(), 0);
});

test('features that were not offered, or no VERSION_1, take FEATURES_OK back', () => {
  const d = disk();
  for (const [lo, hi] of [
    [0x8000_0000, 1],
    [0, 0],
    [0, 3],
  ] as const) {
    d.setStatus(0);
    d.setStatus(3);
    d.bus.write(d.common + COMMON.DRIVER_FEATURE_SELECT, 0);
    d.bus.write(d.common + COMMON.DRIVER_FEATURE, lo);
    d.bus.write(d.common + COMMON.DRIVER_FEATURE_SELECT, 1);
    d.bus.write(d.common + COMMON.DRIVER_FEATURE, hi);
    d.setStatus(0x0b);
    assert.equal(d.status(), 0x03);
  }
});

test('the configuration access capability reaches the BAR without memory decoding', () => {
  const d = disk();
  let window = 0;
  for (let at = d.config.read(d.slot, 0, 0x34, 1); at !== 0; at = d.config.read(d.slot, 0, at + 1, 1)) {
    if (d.config.read(d.slot, 0, at, 1) === 9 && d.config.read(d.slot, 0, at + 3, 1) === 5) window = at;
  }
  d.config.write(d.slot, 0, window + 4, 4, 1);
  d.config.write(d.slot, 0, window + 8, 0x2000);
  d.config.write(d.slot, 0, window + 12, 4);
  assert.equal(d.config.read(d.slot, 0, window + 16), SECTORS);
  d.config.write(d.slot, 0, window + 8, COMMON.QUEUE_SELECT);
  d.config.write(d.slot, 0, window + 12, 2);
  d.config.write(d.slot, 0, window + 16, 1, 2);
  assert.equal(d.bus.read(d.common + COMMON.QUEUE_SELECT, 2), 1);
});

test('virtio-rng fills what the driver offers', () => {
  const { config } = plugged({ random: (into) => into.fill(0x77) });
  assert.equal(config.read(2, 0, 0), 0x1044_1af4);
});
