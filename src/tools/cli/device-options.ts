/** `-device NAME` and `-drive`: what can be plugged in, one row a device. */

import { nearIfAny } from '../../arch/cpu-models.ts';
import { UserError } from '../../base/assert.ts';
import type { RunOptions } from './run-options.ts';
import { oneOf, parseInteger, parseProperties, parseSwitch, requireKnown } from './sizes.ts';

export interface DriveOption {
  readonly path: string;
  readonly readOnly: boolean;
  readonly snapshot: boolean;
  readonly id: string;
  serial: string;
  /** A device has it: `if=virtio` is one, with `if=none` one must name it. */
  plugged: boolean;
}

interface Device {
  readonly help: string;
  readonly properties: readonly string[];
  take(into: RunOptions, properties: ReadonlyMap<string, string>): void;
}

export const DEVICES: Readonly<Record<string, Device>> = {
  'isa-debug-exit': {
    help: 'iobase= (0x501), iosize= (2): a write of N to the port ends the machine with exit status (N << 1) | 1',
    properties: ['iobase', 'iosize'],
    take: (into, properties) => {
      into.debugExit = {
        iobase: parseInteger('-device isa-debug-exit,iobase', properties.get('iobase') ?? '0x501', 0, 0xffff),
        iosize: parseInteger('-device isa-debug-exit,iosize', properties.get('iosize') ?? '2', 1, 4),
      };
    },
  },
  'pc-testdev': {
    help: 'the ports and the memory of kvm-unit-tests',
    properties: [],
    take: (into) => {
      into.testDevice = true;
    },
  },
  'virtio-rng-pci': {
    help: 'random numbers, the same in every run',
    properties: [],
    take: (into) => {
      into.random = true;
    },
  },
  'virtio-blk-pci': {
    help: 'drive=ID, serial=: a disk over the -drive of that id, which stands before it and says if=none',
    properties: ['drive', 'serial'],
    take: (into, properties) => {
      const id = properties.get('drive') ?? '';
      const drive = into.drives.find((each) => each.id === id && !each.plugged);
      if (drive === undefined) {
        throw new UserError(
          `-device virtio-blk-pci,drive=${id}: expected a -drive file=FILE,if=none,id=${id || 'NAME'} before it, found none.`,
        );
      }
      drive.plugged = true;
      drive.serial = properties.get('serial') ?? drive.serial;
    },
  },
};

/** QEMU's short names. */
const ALIASES: Readonly<Record<string, string>> = { 'virtio-blk': 'virtio-blk-pci', 'virtio-rng': 'virtio-rng-pci' };

const deviceList = (): string =>
  Object.entries(DEVICES)
    .map(([name, { help }]) => `${name}: ${help}\n`)
    .join('');

export function takeDevice(into: RunOptions, text: string): void {
  const properties = parseProperties(text, 'driver');
  const asked = properties.get('driver') ?? '';
  if (asked === 'help' || asked === '?') {
    into.show = deviceList();
    return;
  }
  const name = ALIASES[asked] ?? asked;
  const device = Object.hasOwn(DEVICES, name) ? DEVICES[name] : undefined;
  if (device === undefined) {
    const names = Object.keys(DEVICES);
    const close = nearIfAny(name, names);
    throw new UserError(
      `-device ${name || '(nothing)'}: there is no such device.${close ? ` Did you mean ${close}?` : ''} ` +
        `Devices are ${names.join(', ')}; disks are given with -drive.`,
    );
  }
  properties.delete('driver');
  requireKnown(`-device ${name}`, properties, [...device.properties, 'id']);
  device.take(into, properties);
}

/** Of QEMU's block layer: said for speed or for formats that are not ours, and nothing changes for the guest. */
const WITHOUT_EFFECT = ['cache', 'aio', 'discard', 'detect-zeroes', 'index', 'media'];

export function parseDrive(text: string): DriveOption {
  const properties = parseProperties(text, 'file');
  requireKnown('-drive', properties, [
    ...['file', 'if', 'format', 'readonly', 'read-only', 'serial', 'id', 'snapshot'],
    ...WITHOUT_EFFECT,
  ]);
  const path = properties.get('file') ?? '';
  if (path === '') throw new UserError('-drive lacks its file: write -drive file=disk.img.');
  const plugged = oneOf(`-drive ${path}: if`, properties.get('if') ?? 'virtio', ['virtio', 'none']) === 'virtio';
  oneOf(`-drive ${path}: format`, properties.get('format') ?? 'raw', ['raw']);
  oneOf(`-drive ${path}: media`, properties.get('media') ?? 'disk', ['disk']);
  return {
    path,
    readOnly: parseSwitch('-drive readonly', properties.get('readonly') ?? properties.get('read-only') ?? 'off'),
    snapshot: parseSwitch('-drive snapshot', properties.get('snapshot') ?? 'off'),
    serial: properties.get('serial') ?? '',
    id: properties.get('id') ?? '',
    plugged,
  };
}
