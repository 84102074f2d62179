/**
 * QEMU's options that this machine has no use for: one row each, with what to do instead. They are refused, because a
 * command line that means something must not be taken for one that means less.
 */
const GRAPHICS = 'this machine has no graphics: leave it out, the console is the serial port';
const NETWORK = 'this machine has no network: leave it out';
const DISK = 'write -drive file=FILE: disks are virtio-blk';
const NO_KVM = 'this machine runs in software, on any host: leave it out';
const NO_FIRMWARE = 'this machine has no firmware: -kernel loads the kernel directly';
const SHELL = "leave it to the shell: 'terrarium … &'";

export const FOREIGN_OPTIONS: Readonly<Record<string, string>> = {
  'enable-kvm': NO_KVM,
  hda: DISK,
  hdb: DISK,
  hdc: DISK,
  hdd: DISK,
  cdrom: DISK,
  blockdev: DISK,
  fda: DISK,
  sd: DISK,
  netdev: NETWORK,
  sdl: GRAPHICS,
  curses: GRAPHICS,
  spice: GRAPHICS,
  'full-screen': GRAPHICS,
  bios: NO_FIRMWARE,
  pflash: NO_FIRMWARE,
  boot: NO_FIRMWARE,
  dfilter: 'the log of -d is of the whole machine: leave it out',
  trace: 'write -d vmexit,nested,mmu: those events have the names that KVM gives them',
  daemonize: SHELL,
  pidfile: SHELL,
  'no-shutdown': 'a machine that is switched off ends: leave it out',
  usb: 'there is no USB: leave it out',
  usbdevice: 'there is no USB: leave it out',
  audio: 'there is no sound: leave it out',
  audiodev: 'there is no sound: leave it out',
  soundhw: 'there is no sound: leave it out',
  dtb: 'a PC has no device tree: leave it out',
  qmp: 'there is no QMP: -monitor stdio takes commands on a pipe',
  chardev: 'write -serial, -debugcon or -monitor with stdio, null or file:FILE',
  loadvm: 'there are no snapshots: leave it out',
  incoming: 'there is no migration: leave it out',
  numa: 'all memory is one node: leave it out',
  object: 'there are no such objects: leave it out',
  k: GRAPHICS,
};
