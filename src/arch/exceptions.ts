/**
 * Exceptions and interrupts 0 to 31.
 *
 * Source  SDM 3A 6.3.1, Table 6-1 "Protected-Mode Exceptions and Interrupts"; 6.15 "Exception and Interrupt
 *         Reference", Tables 6-4 "Interrupt and Exception Classes" and 6-5 "Conditions for Generating a Double Fault";
 *         APM 2 8.1, Table 8-1, for #HV, #VC and #SX.
 */
import { assert } from '../base/assert.ts';

/** What the saved RIP points to: the instruction (fault), the next one (trap), or nothing reliable (abort). */
export type ExceptionType = 'fault' | 'trap' | 'fault or trap' | 'abort' | 'interrupt';
/** SDM 3A Table 6-4: decides what a second exception during delivery becomes. */
export type DoubleFaultClass = 'benign' | 'contributory' | 'page fault' | 'double fault';

export interface ExceptionRow {
  readonly vector: number;
  readonly title: string;
  readonly type: ExceptionType;
  readonly class: DoubleFaultClass;
  readonly errorCode: 'none' | 'zero' | 'selector' | 'page fault' | 'control protection' | 'exit code';
}

const row = (
  vector: number,
  title: string,
  type: ExceptionType,
  classOf: DoubleFaultClass,
  errorCode: ExceptionRow['errorCode'],
): ExceptionRow => ({ vector, title, type, class: classOf, errorCode });

/** By mnemonic. 9, 15, 22–27 and 31 are reserved and have no row. */
export const EXCEPTIONS = {
  '#DE': row(0, 'Divide Error', 'fault', 'contributory', 'none'),
  '#DB': row(1, 'Debug', 'fault or trap', 'benign', 'none'),
  NMI: row(2, 'Non-maskable Interrupt', 'interrupt', 'benign', 'none'),
  '#BP': row(3, 'Breakpoint', 'trap', 'benign', 'none'),
  '#OF': row(4, 'Overflow', 'trap', 'benign', 'none'),
  '#BR': row(5, 'BOUND Range Exceeded', 'fault', 'benign', 'none'),
  '#UD': row(6, 'Invalid Opcode', 'fault', 'benign', 'none'),
  '#NM': row(7, 'Device Not Available', 'fault', 'benign', 'none'),
  '#DF': row(8, 'Double Fault', 'abort', 'double fault', 'zero'),
  '#TS': row(10, 'Invalid TSS', 'fault', 'contributory', 'selector'),
  '#NP': row(11, 'Segment Not Present', 'fault', 'contributory', 'selector'),
  '#SS': row(12, 'Stack-Segment Fault', 'fault', 'contributory', 'selector'),
  '#GP': row(13, 'General Protection', 'fault', 'contributory', 'selector'),
  '#PF': row(14, 'Page Fault', 'fault', 'page fault', 'page fault'),
  '#MF': row(16, 'x87 FPU Floating-Point Error', 'fault', 'benign', 'none'),
  '#AC': row(17, 'Alignment Check', 'fault', 'benign', 'zero'),
  '#MC': row(18, 'Machine Check', 'abort', 'benign', 'none'),
  '#XM': row(19, 'SIMD Floating-Point Exception', 'fault', 'benign', 'none'),
  '#VE': row(20, 'Virtualization Exception', 'fault', 'page fault', 'none'),
  '#CP': row(21, 'Control Protection Exception', 'fault', 'contributory', 'control protection'),
  '#HV': row(28, 'Hypervisor Injection Exception', 'fault', 'benign', 'none'),
  '#VC': row(29, 'VMM Communication Exception', 'fault', 'benign', 'exit code'),
  '#SX': row(30, 'Security Exception', 'fault', 'benign', 'zero'),
} as const satisfies Record<string, ExceptionRow>;

export type ExceptionName = keyof typeof EXCEPTIONS;

/** Vectors as plain numbers: `VECTOR.PF`. */
export const VECTOR = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  MC: 18,
  XM: 19,
  VE: 20,
  CP: 21,
  HV: 28,
  VC: 29,
  SX: 30,
} as const;

/** Name by vector, `undefined` for a reserved one. */
export const EXCEPTION_NAMES: readonly (ExceptionName | undefined)[] = Array.from({ length: 32 }, (_, vector) =>
  (Object.keys(EXCEPTIONS) as ExceptionName[]).find((name) => EXCEPTIONS[name].vector === vector),
);

/** Bit n set: vector n pushes an error code in protected mode. */
export const PUSHES_ERROR_CODE: number = Object.values(EXCEPTIONS)
  .filter((exception) => exception.errorCode !== 'none')
  .reduce((mask, exception) => mask | (1 << exception.vector), 0);

export const pushesErrorCode = (vector: number): boolean => vector < 32 && ((PUSHES_ERROR_CODE >>> vector) & 1) !== 0;

/** Class as a number, for the hot path: row of `DOUBLE_FAULT`. External interrupts and INT n are benign. */
export const CLASS_NUMBER: Readonly<Record<DoubleFaultClass, number>> = {
  benign: 0,
  contributory: 1,
  'page fault': 2,
  'double fault': 3,
};

const CLASS_OF = new Uint8Array(256);
for (const { vector, class: classOf } of Object.values(EXCEPTIONS)) CLASS_OF[vector] = CLASS_NUMBER[classOf];

export type SecondException = 'serially' | '#DF' | 'shutdown';

/**
 * SDM 3A Table 6-5 "Conditions for Generating a Double Fault": first exception in rows, second in columns.
 * A contributory exception or page fault while #DF is being delivered is a shutdown (triple fault).
 */
export const DOUBLE_FAULT: Readonly<Record<DoubleFaultClass, Readonly<Record<DoubleFaultClass, SecondException>>>> = {
  benign: { benign: 'serially', contributory: 'serially', 'page fault': 'serially', 'double fault': 'serially' },
  contributory: { benign: 'serially', contributory: '#DF', 'page fault': 'serially', 'double fault': 'serially' },
  'page fault': { benign: 'serially', contributory: '#DF', 'page fault': '#DF', 'double fault': 'serially' },
  'double fault': {
    benign: 'serially',
    contributory: 'shutdown',
    'page fault': 'shutdown',
    'double fault': 'shutdown',
  },
};

/** Bits 1:0 of entry `4 * first + second`: 0 serially, 1 #DF, 2 shutdown. The same table for the hot path. */
const SECOND = new Uint8Array(16);
for (const [first, seconds] of Object.entries(DOUBLE_FAULT)) {
  for (const [second, becomes] of Object.entries(seconds)) {
    SECOND[4 * CLASS_NUMBER[first as DoubleFaultClass] + CLASS_NUMBER[second as DoubleFaultClass]] =
      becomes === 'serially' ? 0 : becomes === '#DF' ? 1 : 2;
  }
}

/** What `second`, raised while `first` was being delivered, becomes: 0 itself, 1 a #DF, 2 a shutdown. */
export function secondException(first: number, second: number): number {
  assert(first < 256 && second < 256, 'a vector has 8 bits');
  return SECOND[4 * CLASS_OF[first]! + CLASS_OF[second]!]!;
}
