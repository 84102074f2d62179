import assert from 'node:assert/strict';
import { test } from 'vitest';
import { ascii } from '../bytes.ts';
import { physical } from '../layout.ts';
import { SparseMemory } from '../testing/wires.ts';
import { FW_CFG, FwCfg } from './fw-cfg.ts';

function fwCfg() {
  const memory = new SparseMemory(2 ** 20);
  const device = new FwCfg(memory);
  const select = (key: number) => device.writePort(0, 2, key);
  const read = (count: number) => Uint8Array.from({ length: count }, () => device.readPort(1, 1));
  const bigEndian = (value: number) => [24, 16, 8, 0].map((shift) => (value >>> shift) & 0xff);
  /** Runs a DMA request at 0x1000 and returns the control word it leaves. */
  const dma = (control: number, length: number, address: number) => {
    memory.copyIn(
      physical(0x1000),
      Uint8Array.from([...bigEndian(control), ...bigEndian(length), ...bigEndian(0), ...bigEndian(address)]),
    );
    device.writePort(8, 4, 0x0010_0000); // 0x1000, big-endian
    return memory.read32(physical(0x1000));
  };
  return { memory, device, select, read, dma };
}

const text = (bytes: Uint8Array) => String.fromCharCode(...bytes);

test('the signature and the id say QEMU with DMA', () => {
  const f = fwCfg();
  f.select(FW_CFG.SIGNATURE);
  assert.equal(text(f.read(4)), 'QEMU');
  f.select(FW_CFG.ID);
  assert.deepEqual([...f.read(4)], [3, 0, 0, 0]);
  assert.equal(f.device.readPort(4, 4), 0x554d_4551);
  assert.equal(f.device.readPort(8, 4), 0x4746_4320);
});

test('reading goes on behind an item with zeros, and selecting starts over', () => {
  const f = fwCfg();
  f.device.set(FW_CFG.NB_CPUS, Uint8Array.of(4, 0));
  f.select(FW_CFG.NB_CPUS);
  assert.deepEqual([...f.read(4)], [4, 0, 0, 0]);
  f.select(FW_CFG.NB_CPUS);
  assert.deepEqual([...f.read(1)], [4]);
  f.select(0x7777);
  assert.deepEqual([...f.read(2)], [0, 0]);
});

test('the directory lists files by name, big-endian, with keys that read their bytes', () => {
  const f = fwCfg();
  f.device.addFile('opt/b', ascii('second'));
  f.device.addFile('opt/a', ascii('one'));
  f.select(FW_CFG.FILE_DIR);
  assert.deepEqual([...f.read(4)], [0, 0, 0, 2]);
  for (const [name, content, key] of [
    ['opt/a', 'one', 0x20],
    ['opt/b', 'second', 0x21],
  ] as const) {
    const entry = f.read(64);
    assert.deepEqual([...entry.subarray(0, 8)], [0, 0, 0, content.length, 0, key, 0, 0]);
    assert.equal(text(entry.subarray(8, 8 + name.length + 1)), `${name}\0`);
  }
  f.select(0x21);
  assert.equal(text(f.read(6)), 'second');
});

test('DMA selects and copies an item, zeros behind its end', () => {
  const f = fwCfg();
  f.device.set(FW_CFG.CMDLINE_DATA, ascii('quiet'));
  f.memory.write32(physical(0x2004), 0xffff_ffff);
  assert.equal(f.dma((FW_CFG.CMDLINE_DATA << 16) | 0x0a, 8, 0x2000), 0);
  const got = new Uint8Array(8);
  f.memory.copyOut(physical(0x2000), got);
  assert.deepEqual([...got], [...ascii('quiet'), 0, 0, 0]);
});

test('DMA skips, and goes on where the last request stopped', () => {
  const f = fwCfg();
  f.device.set(0x40, ascii('abcdef'));
  f.dma((0x40 << 16) | 0x08, 0, 0);
  f.dma(0x04, 2, 0);
  f.dma(0x02, 2, 0x2000);
  assert.equal(f.memory.read16(physical(0x2000)), 0x6463);
});

test('DMA into a hole or a write request ends with the error bit', () => {
  const f = fwCfg();
  assert.equal(f.dma((FW_CFG.SIGNATURE << 16) | 0x0a, 0xffff_ffff, 0xf_fff0), 0x0100_0000);
  assert.equal(f.dma((FW_CFG.SIGNATURE << 16) | 0x18, 4, 0x2000), 0x0100_0000);
});
