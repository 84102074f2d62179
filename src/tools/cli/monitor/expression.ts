import { UserError } from '../../../base/assert.ts';
import type { RegisterSnapshot } from '../../../inspect/registers.ts';

const GPR_NAMES = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'];

/** Value of `$rip`, `$rax`, `$r8`, `$cr3`, `$eip` …; `undefined` if there is no such register. */
function registerValue(name: string, r: RegisterSnapshot): bigint | undefined {
  const lower = name.toLowerCase();
  if (lower === 'rip' || lower === 'pc') return r.rip;
  if (lower === 'eip') return BigInt.asUintN(32, r.rip);
  if (lower === 'eflags' || lower === 'rflags') return BigInt(r.rflags);
  const high = /^r(\d+)$/.exec(lower);
  if (high) return r.gpr[Number(high[1])];
  const low = GPR_NAMES.indexOf(lower);
  if (low >= 0) return r.gpr[low];
  const half = GPR_NAMES.indexOf(lower.replace(/^e/, 'r'));
  if (half >= 0) return BigInt.asUintN(32, r.gpr[half]!);
  const control = /^(cr|dr)(\d)$/.exec(lower);
  if (control?.[1] === 'dr') return r.dr[Number(control[2])];
  if (control) return { 0: BigInt(r.cr0), 2: r.cr2, 3: r.cr3, 4: BigInt(r.cr4) }[control[2]!];
  return r.segments.find((segment) => `${segment.name.toLowerCase()}_base` === lower)?.base;
}

/**
 * An address as the monitor takes it: numbers and registers, added, subtracted and multiplied, left to right:
 * `$rsp+0x10`, `0xb8000`, `$gs_base+8*2`.
 *
 * @throws UserError with what could not be read.
 */
export function evaluate(text: string, registers: RegisterSnapshot): bigint {
  const tokens = text.match(/0x[\da-f]+|\d+|\$\w+|[-+*]|\S/gi) ?? [];
  let at = 0;
  const factor = (): bigint => {
    const token = tokens[at++];
    if (token === '-') return -factor();
    if (token !== undefined && /^(0x[\da-f]+|\d+)$/i.test(token)) return BigInt(token);
    if (token?.startsWith('$')) {
      const value = registerValue(token.slice(1), registers);
      if (value === undefined)
        throw new UserError(`there is no register ${token}: try $rip, $rsp, $r8, $cr3, $gs_base.`);
      return value;
    }
    throw new UserError(`"${text}" is no address: expected a number or $REGISTER, found ${token ?? 'the end'}.`);
  };
  const product = (): bigint => {
    let value = factor();
    while (tokens[at] === '*') {
      at += 1;
      value *= factor();
    }
    return value;
  };
  let value = product();
  while (at < tokens.length) {
    const sign = tokens[at++];
    if (sign !== '+' && sign !== '-') throw new UserError(`"${text}" is no address: expected + or -, found ${sign}.`);
    value = sign === '+' ? value + product() : value - product();
  }
  return BigInt.asUintN(64, value);
}
