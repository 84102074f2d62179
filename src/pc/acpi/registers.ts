import { bits } from '../../base/bits.ts';

/** Offsets in the PIIX4's power-management block. PIIX4 data sheet (290562-001), 7.2 "Power Management I/O". */
export const PM = { PM1_STS: 0x0, PM1_EN: 0x2, PM1_CNT: 0x4, PM_TMR: 0x8, GPE_STS: 0xc, GPE_EN: 0xe } as const;

/** ACPI 6.4, 4.8.3.1.1 "PM1 Status Registers". Written with 1 to clear. */
export const PM1_STS = bits({ TMR: 0, BM: 4, GBL: 5, PWRBTN: 8, SLPBTN: 9, RTC: 10, WAK: 15 });
/** ACPI 6.4, 4.8.3.1.2 "PM1 Enable Registers". */
export const PM1_EN = bits({ TMR: 0, GBL: 5, PWRBTN: 8, SLPBTN: 9, RTC: 10 });
/** ACPI 6.4, 4.8.3.2.1 "PM1 Control Registers". SLP_TYP is bits 12:10. */
export const PM1_CNT = bits({ SCI_EN: 0, BM_RLD: 1, GBL_RLS: 2, SLP_EN: 13 });
export const PM1_CNT_SLP_TYP_SHIFT = 10;
