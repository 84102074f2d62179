/**
 * Valid VMCSs for tests: every entry check holds on each. What tests of the checks, and of the emulation in L0, start
 * from. Written by hand from the manual, not by running the checks.
 */
import { FIELD, type VmcsField, VmcsImage } from './fields.ts';

/** A field's value: a number up to 2^53, or a bigint for what does not fit. */
export type FieldValues = { readonly [F in VmcsField]?: number | bigint };

export function setFields(image: VmcsImage, values: FieldValues): VmcsImage {
  for (const [name, value] of Object.entries(values)) {
    const whole = BigInt(value);
    image.write(FIELD[name as VmcsField], Number(whole & 0xffff_ffffn), Number((whole >> 32n) & 0xffff_ffffn));
  }
  return image;
}

/** Where the virtual-APIC page, the shadow VMCS, and a table of PDPTEs lie in the memory of tests. */
export const VIRTUAL_APIC_PAGE = 0x10_0000;
export const SHADOW_VMCS = 0x20_0000;
export const PLAIN_VMCS = 0x21_0000;
export const PDPTE_TABLE = 0x30_0000;
export const BAD_PDPTE_TABLE = 0x31_0000;
export const CURRENT_VMCS = 0x40_0000;

const CODE_32 = 0xc09b;
const CODE_64 = 0xa09b;
const DATA_32 = 0xc093;
const UNUSABLE = 0x1_0000;
const TSS_64 = 0x8b;
const LDT = 0x82;

/** 64-bit host; nothing loaded that need not be. */
const HOST_64: FieldValues = {
  EXIT_CONTROLS: 0x0003_6dff | (1 << 9) | (1 << 15) | (1 << 19) | (1 << 21),
  HOST_CR0: 0x8000_0033,
  HOST_CR3: 0x1000,
  HOST_CR4: 0x2020,
  HOST_CS_SELECTOR: 0x08,
  HOST_SS_SELECTOR: 0x10,
  HOST_DS_SELECTOR: 0x10,
  HOST_ES_SELECTOR: 0x10,
  HOST_FS_SELECTOR: 0x18,
  HOST_GS_SELECTOR: 0x20,
  HOST_TR_SELECTOR: 0x28,
  HOST_FS_BASE: 0x7fff_ffff_f000n,
  HOST_GS_BASE: 0xffff_8880_0000_0000n,
  HOST_TR_BASE: 0xffff_fe00_0000_3000n,
  HOST_GDTR_BASE: 0xffff_fe00_0000_1000n,
  HOST_IDTR_BASE: 0xffff_fe00_0000_0000n,
  HOST_IA32_SYSENTER_ESP: 0xffff_fe00_0000_2000n,
  HOST_IA32_SYSENTER_EIP: 0xffff_ffff_8160_1000n,
  HOST_IA32_PAT: 0x0007_0406_0007_0406n,
  HOST_IA32_EFER: 0xd01,
  HOST_RSP: 0xffff_c900_0000_0000n,
  HOST_RIP: 0xffff_ffff_8100_0000n,
};

/** A flat ring-0 guest with usable LDTR and TR. */
const GUEST_SEGMENTS: FieldValues = {
  GUEST_CS_SELECTOR: 0x08,
  GUEST_SS_SELECTOR: 0x10,
  GUEST_DS_SELECTOR: 0x10,
  GUEST_ES_SELECTOR: 0x10,
  GUEST_FS_SELECTOR: 0x10,
  GUEST_GS_SELECTOR: 0x10,
  GUEST_TR_SELECTOR: 0x28,
  GUEST_LDTR_SELECTOR: 0x30,
  GUEST_CS_LIMIT: 0xffff_ffff,
  GUEST_SS_LIMIT: 0xffff_ffff,
  GUEST_DS_LIMIT: 0xffff_ffff,
  GUEST_ES_LIMIT: 0xffff_ffff,
  GUEST_FS_LIMIT: 0xffff_ffff,
  GUEST_GS_LIMIT: 0xffff_ffff,
  GUEST_TR_LIMIT: 0x67,
  GUEST_LDTR_LIMIT: 0xfff,
  GUEST_CS_ACCESS_RIGHTS: CODE_32,
  GUEST_SS_ACCESS_RIGHTS: DATA_32,
  GUEST_DS_ACCESS_RIGHTS: DATA_32,
  GUEST_ES_ACCESS_RIGHTS: DATA_32,
  GUEST_FS_ACCESS_RIGHTS: DATA_32,
  GUEST_GS_ACCESS_RIGHTS: DATA_32,
  GUEST_TR_ACCESS_RIGHTS: TSS_64,
  GUEST_LDTR_ACCESS_RIGHTS: LDT,
  GUEST_GDTR_LIMIT: 0xffff,
  GUEST_IDTR_LIMIT: 0xfff,
};

/** Pin and primary controls with only the default1 bits that have no meaning. */
const MINIMAL: FieldValues = {
  ...HOST_64,
  ...GUEST_SEGMENTS,
  PIN_CONTROLS: 0x16,
  PRIMARY_CONTROLS: 0x0400_6172,
  ENTRY_CONTROLS: 0x11fb,
  GUEST_CR0: 0x8000_0031,
  GUEST_CR3: PDPTE_TABLE,
  GUEST_CR4: 0x2020,
  GUEST_DR7: 0x400,
  GUEST_RIP: 0x1000,
  GUEST_RFLAGS: 0x202,
  VMCS_LINK_POINTER: 0xffff_ffff_ffff_ffffn,
};

/** 64-bit guest with every control on that can be on together. */
const LONG: FieldValues = {
  ...MINIMAL,
  PIN_CONTROLS: 0x16 | 0xe9,
  PRIMARY_CONTROLS: 0x0400_6172 | (1 << 21) | (1 << 22) | (1 << 25) | (1 << 28) | 0x8000_0000,
  // EPT, VPID, unrestricted guest off, APIC-register virtualization, VID, APIC accesses, VMFUNC, shadowing, PML, #VE,
  // mode-based execute control.
  SECONDARY_CONTROLS: (1 << 0) | (1 << 1) | (1 << 5) | (1 << 8) | (1 << 9) | (0b11 << 13) | (0b11 << 17) | (1 << 22),
  ENTRY_CONTROLS: 0x11ff | (1 << 9) | (1 << 14) | (1 << 15),
  IO_BITMAP_A: 0x5000,
  IO_BITMAP_B: 0x6000,
  MSR_BITMAP: 0x7000,
  EXIT_MSR_STORE_COUNT: 1,
  EXIT_MSR_STORE_ADDRESS: 0x8010,
  EXIT_MSR_LOAD_COUNT: 1,
  EXIT_MSR_LOAD_ADDRESS: 0x8020,
  ENTRY_MSR_LOAD_COUNT: 1,
  ENTRY_MSR_LOAD_ADDRESS: 0x8030,
  VIRTUAL_APIC_ADDRESS: VIRTUAL_APIC_PAGE,
  APIC_ACCESS_ADDRESS: 0x9000,
  POSTED_INTERRUPT_NOTIFICATION_VECTOR: 0xf2,
  POSTED_INTERRUPT_DESCRIPTOR: 0xa040,
  VPID: 1,
  EPT_POINTER: 0xb000 | 0x5e,
  PML_ADDRESS: 0xc000,
  VM_FUNCTION_CONTROLS: 1,
  EPTP_LIST_ADDRESS: 0xd000,
  VMREAD_BITMAP: 0xe000,
  VMWRITE_BITMAP: 0xf000,
  VE_INFORMATION_ADDRESS: 0x1_1000,
  CR3_TARGET_COUNT: 4,
  GUEST_CR0: 0x8001_0033,
  GUEST_CS_ACCESS_RIGHTS: CODE_64,
  GUEST_RIP: 0xffff_ffff_8100_0000n,
  GUEST_IA32_PAT: 0x0007_0406_0007_0406n,
  GUEST_IA32_EFER: 0xd01,
  GUEST_GS_BASE: 0xffff_8880_0000_0000n,
  GUEST_TR_BASE: 0xffff_fe00_0000_3000n,
  GUEST_LDTR_BASE: 0xffff_fe00_0000_4000n,
  VMCS_LINK_POINTER: SHADOW_VMCS,
};

const REAL_MODE_SEGMENT = 0x93;
const V8086_SEGMENTS: FieldValues = Object.fromEntries(
  ['CS', 'SS', 'DS', 'ES', 'FS', 'GS'].flatMap((register) => [
    [`GUEST_${register}_SELECTOR`, 0x1000],
    [`GUEST_${register}_BASE`, 0x1_0000],
    [`GUEST_${register}_LIMIT`, 0xffff],
    [`GUEST_${register}_ACCESS_RIGHTS`, 0xf3],
  ]),
);

export const VALID_VMCS = {
  long: LONG,
  /** 32-bit protected-mode guest with PAE paging and no EPT: PDPTEs come from memory. */
  pae: MINIMAL,
  /** The same with EPT: PDPTEs come from their fields. */
  paeEpt: {
    ...MINIMAL,
    PRIMARY_CONTROLS: 0x8400_6172,
    SECONDARY_CONTROLS: 1 << 1,
    EPT_POINTER: 0xb000 | 0x1e,
    GUEST_PDPTE0: 0x1001,
  },
  /** TPR shadow alone: the threshold is checked against the page. */
  tprShadow: {
    ...MINIMAL,
    PRIMARY_CONTROLS: 0x0420_6172,
    VIRTUAL_APIC_ADDRESS: VIRTUAL_APIC_PAGE,
    TPR_THRESHOLD: 5,
  },
  v8086: { ...MINIMAL, ...V8086_SEGMENTS, GUEST_RFLAGS: 0x2_0202 },
  /** Unrestricted guest in real-address mode. */
  real: {
    ...MINIMAL,
    PRIMARY_CONTROLS: 0x8400_6172,
    SECONDARY_CONTROLS: (1 << 1) | (1 << 7),
    EPT_POINTER: 0xb000 | 0x1e,
    GUEST_CR0: 0x30,
    GUEST_CR4: 0x2000,
    GUEST_CS_SELECTOR: 0xf000,
    GUEST_CS_BASE: 0xf_0000,
    GUEST_CS_LIMIT: 0xffff,
    GUEST_CS_ACCESS_RIGHTS: REAL_MODE_SEGMENT,
    GUEST_SS_SELECTOR: 0,
    GUEST_SS_ACCESS_RIGHTS: REAL_MODE_SEGMENT,
    GUEST_SS_LIMIT: 0xffff,
    GUEST_DS_ACCESS_RIGHTS: UNUSABLE,
    GUEST_LDTR_ACCESS_RIGHTS: UNUSABLE,
    GUEST_RIP: 0xfff0,
  },
  /** 32-bit host and guest: the processor is not in IA-32e mode. */
  host32: {
    ...MINIMAL,
    EXIT_CONTROLS: 0x0003_6dff,
    HOST_RIP: 0x10_0000,
    HOST_FS_BASE: 0,
    HOST_GS_BASE: 0,
    HOST_CR4: 0x2000,
    HOST_IA32_SYSENTER_EIP: 0,
  },
} as const satisfies Record<string, FieldValues>;

export type ValidVmcs = keyof typeof VALID_VMCS;
export const validVmcs = (which: ValidVmcs): VmcsImage => setFields(new VmcsImage(), VALID_VMCS[which]);
