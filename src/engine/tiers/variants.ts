import { S } from '../core/layout.ts';
import type { Variant } from '../decode/decoder.ts';
import type { FormContext } from '../isa/form-context.ts';
import type { Operand } from '../isa/instruction.ts';

/** Static operands of a variant, as semantics see them. */
function operandsOf({ form, size, memory, mode, generalAddress }: Variant): Operand[] {
  let slot = 0;
  return form.operands.map((operand): Operand => {
    const isMemory = memory && (operand.encoding === 'moffs' || operand.encoding === 'modrm.rm');
    const rule = isMemory ? operand.memorySize : operand.size;
    let bytes: number;
    if (typeof rule === 'number') bytes = rule;
    else if (rule === 'z') bytes = Math.min(size, 4);
    else bytes = size;
    // Immediates are extended to the operand size: what an instruction sees of them is its own width
    if (operand.kind === 'imm' && form.sized) bytes = Math.max(bytes, size);
    if (isMemory) {
      const whole = operand.encoding === 'moffs' && mode === 'long' && !generalAddress;
      return { kind: 'mem', size: bytes, slot: -1, fixed: 0, whole };
    }
    if (operand.encoding === 'fixed') {
      const fixed =
        operand.kind === 'gpr'
          ? operand.register === -2
            ? S.ZERO - 0x80 + 1
            : S.ZERO - 0x80 + 8 * operand.register
          : operand.kind === 'xmm'
            ? S.XMM
            : 0;
      return { kind: operand.kind, size: bytes, slot: -1, fixed };
    }
    if (operand.kind === 'imm') {
      return { kind: 'imm', size: bytes, slot: -1, fixed: 0, whole: rule === 'v' && bytes === 8 };
    }
    if (operand.kind === 'rel' || operand.kind === 'far') {
      return { kind: operand.kind, size: bytes, slot: -1, fixed: 0 };
    }
    const result: Operand = { kind: operand.kind, size: bytes, slot, fixed: 0 };
    slot += 1;
    return result;
  });
}

export const contextOf = (variant: Variant): FormContext => ({
  operands: operandsOf(variant),
  size: variant.size,
  mode: variant.mode,
  generalAddress: variant.generalAddress,
  form: `${variant.form.opcodeText}: ${variant.form.text}`,
  opcode: variant.form.opcode,
});

/** Name of a variant, as in the HOT table. */
export const variantName = ({ form, size, memory, mode }: Variant): string =>
  `${mode === 'long' ? '' : `${mode} `}${form.opcodeText}|${size}${memory ? 'm' : 'r'}`;
