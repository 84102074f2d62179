import { FIELD, type VmcsField } from '../../src/arch/vmx/fields.ts';
import { setFields } from '../../src/arch/vmx/valid-vmcs.ts';
import { AT, type L1Machine } from './l1-machine.ts';

/** A 64-bit L2 without EPT on L1's tables, which calls its hypervisor at once; the host area leads to a HLT. */
export const VALID: { readonly [F in VmcsField]?: number | bigint } = {
  PIN_CONTROLS: 0x16,
  PRIMARY_CONTROLS: 0x0400_6172 | (1 << 7),
  EXIT_CONTROLS: 0x0003_6dfb | (1 << 9) | (1 << 2) | (1 << 20) | (1 << 21),
  ENTRY_CONTROLS: 0x11fb | (1 << 9) | (1 << 2) | (1 << 15),
  EXCEPTION_BITMAP: 0xffff_ffff,
  VMCS_LINK_POINTER: 0xffff_ffff_ffff_ffffn,
  HOST_CR0: 0x8001_0031,
  HOST_CR3: AT.PML4,
  HOST_CR4: 0x2020,
  HOST_IA32_EFER: 0xd01,
  HOST_CS_SELECTOR: 8,
  HOST_SS_SELECTOR: 16,
  HOST_DS_SELECTOR: 16,
  HOST_ES_SELECTOR: 16,
  HOST_TR_SELECTOR: 0x18,
  HOST_TR_BASE: AT.TSS,
  HOST_GDTR_BASE: AT.GDT,
  HOST_IDTR_BASE: AT.IDT,
  HOST_RSP: AT.STACK,
  HOST_RIP: AT.HOST,
  GUEST_CR0: 0x8001_0031,
  GUEST_CR3: AT.PML4,
  GUEST_CR4: 0x2020,
  GUEST_IA32_EFER: 0xd01,
  GUEST_DR7: 0x400,
  GUEST_CS_SELECTOR: 8,
  GUEST_SS_SELECTOR: 16,
  GUEST_DS_SELECTOR: 16,
  GUEST_ES_SELECTOR: 16,
  GUEST_FS_SELECTOR: 16,
  GUEST_GS_SELECTOR: 16,
  GUEST_TR_SELECTOR: 0x18,
  GUEST_TR_BASE: AT.TSS,
  GUEST_CS_LIMIT: 0xffff_ffff,
  GUEST_SS_LIMIT: 0xffff_ffff,
  GUEST_DS_LIMIT: 0xffff_ffff,
  GUEST_ES_LIMIT: 0xffff_ffff,
  GUEST_FS_LIMIT: 0xffff_ffff,
  GUEST_GS_LIMIT: 0xffff_ffff,
  GUEST_TR_LIMIT: 0x67,
  GUEST_CS_ACCESS_RIGHTS: 0xa09b,
  GUEST_SS_ACCESS_RIGHTS: 0xc093,
  GUEST_DS_ACCESS_RIGHTS: 0xc093,
  GUEST_ES_ACCESS_RIGHTS: 0xc093,
  GUEST_FS_ACCESS_RIGHTS: 0xc093,
  GUEST_GS_ACCESS_RIGHTS: 0xc093,
  GUEST_TR_ACCESS_RIGHTS: 0x8b,
  GUEST_LDTR_ACCESS_RIGHTS: 0x1_0000,
  GUEST_GDTR_BASE: AT.GDT,
  GUEST_GDTR_LIMIT: 0xffff,
  GUEST_IDTR_BASE: AT.IDT,
  GUEST_IDTR_LIMIT: 0xfff,
  GUEST_RSP: AT.STACK - 0x2000,
  GUEST_RIP: AT.L2,
  GUEST_RFLAGS: 2,
};

/** Fills the current VMCS with it. */
export function fillValid(m: L1Machine): void {
  const { v } = m.nested;
  v.image.words.fill(0);
  setFields(v.image, VALID);
  v.flush();
  v.load(v.address);
}

export const field = (m: L1Machine, name: VmcsField): number => m.nested.v.number(FIELD[name]);
