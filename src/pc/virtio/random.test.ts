import assert from 'node:assert/strict';
import { test } from 'vitest';
import { ByteWriter } from '../bytes.ts';
import { physical } from '../layout.ts';
import { SparseMemory } from '../testing/wires.ts';
import { Virtqueue } from './queue.ts';
import { VirtioRandom } from './random.ts';
import { DESCRIPTOR } from './registers.ts';

test('virtio-rng fills what the driver offers and says how much', () => {
  const memory = new SparseMemory(2 ** 20);
  let next = 0;
  const device = new VirtioRandom({
    memory,
    fill: (into) => {
      for (let i = 0; i < into.length; i += 1) into[i] = next++ & 0xff;
    },
  });
  const queue = new Virtqueue(memory, 8);
  Object.assign(queue, { descriptors: 0x1000, available: 0x2000, used: 0x3000, enabled: true });
  const rows = new ByteWriter()
    .u64(0x5000)
    .u32(5000)
    .u16(DESCRIPTOR.WRITE)
    .u16(0)
    .u64(0xf_fff0) // runs into a hole after 16 bytes
    .u32(100)
    .u16(DESCRIPTOR.WRITE)
    .u16(0);
  memory.copyIn(physical(0x1000), rows.done());
  memory.copyIn(physical(0x2000), new ByteWriter().u16(0).u16(2).u16(0).u16(1).done());
  device.serve(queue);
  assert.equal(memory.read16(physical(0x3002)), 2);
  assert.deepEqual([memory.read32(physical(0x3008)), memory.read32(physical(0x3010))], [5000, 16]);
  const got = new Uint8Array(5001);
  memory.copyOut(physical(0x5000), got);
  assert.deepEqual([got[0], got[4999], got[5000]], [0, 4999 & 0xff, 0]);
});
