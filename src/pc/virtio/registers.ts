import { bits } from '../../base/bits.ts';

/** Virtual I/O Device (VIRTIO) 1.2. Device status, 2.1 "Device Status Field". */
export const DEVICE_STATUS = bits({
  ACKNOWLEDGE: 0,
  DRIVER: 1,
  DRIVER_OK: 2,
  FEATURES_OK: 3,
  NEEDS_RESET: 6,
  FAILED: 7,
});

/** Feature bits 0..31 of this machine's devices. */
export const FEATURE_LO = bits({
  BLK_SEG_MAX: 2,
  BLK_RO: 5,
  BLK_BLK_SIZE: 6,
  BLK_FLUSH: 9,
  BLK_DISCARD: 13,
  BLK_WRITE_ZEROES: 14,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
});
/** Feature bits 32..63. */
export const FEATURE_HI = bits({ VERSION_1: 0 });

/** 4.1.4.3 "Common configuration structure layout". */
export const COMMON = {
  DEVICE_FEATURE_SELECT: 0x00,
  DEVICE_FEATURE: 0x04,
  DRIVER_FEATURE_SELECT: 0x08,
  DRIVER_FEATURE: 0x0c,
  CONFIG_MSIX_VECTOR: 0x10,
  NUM_QUEUES: 0x12,
  DEVICE_STATUS: 0x14,
  CONFIG_GENERATION: 0x15,
  QUEUE_SELECT: 0x16,
  QUEUE_SIZE: 0x18,
  QUEUE_MSIX_VECTOR: 0x1a,
  QUEUE_ENABLE: 0x1c,
  QUEUE_NOTIFY_OFF: 0x1e,
  QUEUE_DESC: 0x20,
  QUEUE_DRIVER: 0x28,
  QUEUE_DEVICE: 0x30,
  BYTES: 0x38,
} as const;

/** 4.1.4 "Virtio Structure PCI Capabilities": cfg_type. */
export const STRUCTURE = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5 } as const;

/** 4.1.4.5 "ISR status capability". */
export const ISR = { QUEUE: 1, CONFIGURATION: 2 } as const;

export const NO_VECTOR = 0xffff;

/** 2.7.5 "The Virtqueue Descriptor Table". */
export const DESCRIPTOR = { NEXT: 1, WRITE: 2, INDIRECT: 4, BYTES: 16 } as const;
/** 2.7.6, 2.7.8: flags of the available and the used ring, without EVENT_IDX. */
export const AVAIL_NO_INTERRUPT = 1;
