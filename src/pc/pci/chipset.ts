import { IRQ, PORTS } from '../layout.ts';
import { PciFunction } from './function.ts';

const INTEL = 0x8086;

/**
 * The Intel 440FX's host bridge (82441FX PMC), slot 0.
 * DEVIATION: PAM and SMRAM registers keep what is written and shadow nothing; there is no ROM to shadow.
 */
export function hostBridge(): PciFunction {
  const bridge = new PciFunction({
    name: '82441FX host bridge',
    vendor: INTEL,
    device: 0x1237,
    classCode: 0x06_0000,
    revision: 2,
  });
  for (let pam = 0x59; pam <= 0x5f; pam += 1) bridge.addRegister(pam, 1, 0, 0x33);
  bridge.addRegister(0x72, 1, 0x02, 0x7f); // SMRAM
  return bridge;
}

/** The PIIX3's ISA bridge (82371SB), slot 1 function 0. PIRQ routes say what the wires do; writing changes no wire. */
export function isaBridge(): PciFunction {
  const bridge = new PciFunction({
    name: '82371SB ISA bridge',
    vendor: INTEL,
    device: 0x7000,
    classCode: 0x06_0100,
    multifunction: true,
  });
  bridge.addRegister(0x4c, 1, 0x4d, 0xff); // I/O recovery timer
  bridge.addRegister(0x4e, 2, 0x0003, 0xffff); // X-bus chip select
  IRQ.PCI_LINKS.forEach((irq, link) => {
    bridge.addRegister(0x60 + link, 1, irq, 0);
  });
  bridge.addRegister(0x69, 1, 0x02, 0xfe); // top of memory
  bridge.addRegister(0x82, 1, 0, 0x0f); // passive release, delayed transactions
  return bridge;
}

/**
 * The PIIX4's power management function (82371AB), slot 1 function 3.
 * DEVIATION: its port block stays at `PORTS.ACPI`; PMBASE is read-only. There is no SMBus.
 */
export function powerManagementFunction(): PciFunction {
  const pm = new PciFunction({
    name: '82371AB power management',
    vendor: INTEL,
    device: 0x7113,
    classCode: 0x06_8000,
    revision: 3,
  });
  pm.addRegister(0x40, 4, PORTS.ACPI.first | 1, 0); // PMBASE
  pm.addRegister(0x80, 1, 0x01, 0x01); // PMREGMISC: the block is decoded
  return pm;
}
