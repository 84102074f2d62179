import { type Expr, I32, I64, i32, i64, select } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local } from '../../wasm/module.ts';
import { S } from '../core/layout.ts';
import {
  clearStatus,
  type Definer,
  EXC,
  EXCEPTIONS,
  EXPONENT,
  exc,
  exponent,
  FCW,
  FSW,
  flag,
  INDEFINITE,
  INTEGER_BIT,
  ONE_VALUE,
  PRE_EXCEPTIONS,
  parameter,
  returnResult,
  value,
  ZERO,
  ZERO64,
} from './f80-format.ts';

/**
 * The register stack and the status word: how results arrive there, and what exceptions keep them from arriving.
 *
 * A `status` here is the set of unmasked exceptions that the instruction raised. With one of PRE_EXCEPTIONS in it the
 * instruction has not happened: neither register nor TOP has changed.
 *
 * Source  SDM 1 8.1.2 "x87 FPU Data Registers", 8.5.1.1 "Stack Overflow or Underflow Exception (#IS)",
 *         8.7 "Handling x87 FPU Exceptions in Software".
 */

/** Number of the physical register that ST(i) is. */
export const physical = (i: Expr): Expr => i32.and(i32.add(i32.load(ZERO, S.FTOP), i), i32.const(7));
export const registerAddress = (number: Expr): Expr => i32.shl(number, i32.const(4));
export const isEmpty = (number: Expr): Expr => i32.load8U(number, S.FEMPTY);

/** Where environment images are put together and taken apart. */
export const IMAGE = S.FLOAT_SCRATCH + 0x40;

export function defineStack(d: Definer): void {
  // (status-word bits to clear first) → status: EXC becomes part of the status word.
  d.define('x87.merge', [I32], [I32], (f) => {
    const [clear] = f.parameters as [Local];
    const now = f.let(i32.or(i32.and(i32.load16U(ZERO, S.FSW), i32.xor(clear.get, i32.const(-1))), exc()));
    const status = f.let(unmasked(exc()));
    f.if(status.get, () => f.set(now, i32.or(now.get, i32.const(FSW.ES | FSW.B))));
    f.do(i32.store16(ZERO, now.get, S.FSW));
    f.ret(status.get);
  });

  // (i, value) → status: ST(i) becomes the result of an instruction.
  d.define('x87.result', [I32, I64, I32], [I32], (f) => {
    const [i, sig, se] = f.parameters as [Local, Local, Local];
    const status = f.let(ZERO);
    f.if(
      exc(),
      () => f.set(status, d.call('x87.merge', i32.const(FSW.C1))),
      () => clearStatus(f, FSW.C1),
    );
    f.if(i32.eqz(i32.and(status.get, i32.const(PRE_EXCEPTIONS))), () => {
      const number = f.let(physical(i.get));
      f.do(i64.store(registerAddress(number.get), sig.get, S.FPR));
      f.do(i32.store16(registerAddress(number.get), se.get, S.FPR + 8));
      f.do(i32.store8(number.get, ZERO, S.FEMPTY));
    });
    f.ret(status.get);
  });

  // (i) → status: an operand was empty; ST(i) is the destination.
  d.define('x87.underflow', [I32], [I32], (f) => {
    f.do(i32.store(ZERO, i32.const(FSW.IE | FSW.SF), EXC));
    f.ret(d.call('x87.result', f.parameters[0]!.get, INDEFINITE.sig, INDEFINITE.se));
  });

  // (i) → status: no room for the second result of an instruction whose first is ST(i).
  d.define('x87.overflow', [I32], [I32], (f) => {
    f.do(i32.store(ZERO, i32.const(FSW.IE | FSW.SF | FSW.C1), EXC));
    f.ret(d.call('x87.result', f.parameters[0]!.get, INDEFINITE.sig, INDEFINITE.se));
  });

  // () → empties ST(0) and increments TOP
  d.define('x87.pop', [], [], (f) => {
    f.do(i32.store8(physical(ZERO), i32.const(1), S.FEMPTY));
    f.do(i32.store(ZERO, physical(i32.const(1)), S.FTOP));
  });

  // (value): decrements TOP and writes ST(0); the status word stays
  d.define('x87.pushQuietly', ONE_VALUE, [], (f) => {
    const a = parameter(f, 0);
    f.do(i32.store(ZERO, physical(i32.const(-1)), S.FTOP));
    const number = f.let(physical(ZERO));
    f.do(i64.store(registerAddress(number.get), a.sig.get, S.FPR));
    f.do(i32.store16(registerAddress(number.get), a.se.get, S.FPR + 8));
    f.do(i32.store8(number.get, ZERO, S.FEMPTY));
  });

  // (value) → status: decrements TOP and loads
  d.define('x87.push', ONE_VALUE, [I32], (f) => {
    const a = parameter(f, 0);
    const status = f.local(I32);
    f.if(i32.eqz(isEmpty(physical(i32.const(-1)))), () => {
      // an empty source has been noticed already, and comes first
      f.if(i32.eqz(i32.and(exc(), i32.const(FSW.SF))), () =>
        f.do(i32.store(ZERO, i32.const(FSW.IE | FSW.SF | FSW.C1), EXC)),
      );
      f.set(a.sig, INDEFINITE.sig);
      f.set(a.se, INDEFINITE.se);
    });
    f.set(status, d.call('x87.merge', i32.const(FSW.C1)));
    // A denormal is loaded even if DE is not masked: see f80.load.
    f.if(i32.eqz(i32.and(status.get, i32.const(FSW.IE))), () => f.do(d.call('x87.pushQuietly', a.sig.get, a.se.get)));
    f.ret(status.get);
  });

  // () → the exponent that f80.extract has found
  d.define('f80.extracted', [], ONE_VALUE, (f) => returnResult(f));

  // () → ES and B follow from flags and masks: after the control word, the flags or both were loaded.
  d.define('x87.summarize', [], [], (f) => {
    const now = f.let(i32.and(i32.load16U(ZERO, S.FSW), i32.const(0x477f)));
    f.do(i32.store16(ZERO, i32.or(now.get, select(unmasked(now.get), i32.const(FSW.ES | FSW.B), ZERO)), S.FSW));
  });

  d.define('x87.initialize', [], [], (f) => {
    f.do(i32.store16(ZERO, i32.const(FCW.INIT), S.FCW));
    f.do(i32.store16(ZERO, ZERO, S.FSW));
    f.do(i32.store(ZERO, ZERO, S.FTOP));
    f.do(i64.store(ZERO, i64.halves(0x0101_0101, 0x0101_0101), S.FEMPTY));
    f.do(i32.store16(ZERO, ZERO, S.FOP));
    f.do(i32.store16(ZERO, ZERO, S.FCS));
    f.do(i32.store16(ZERO, ZERO, S.FDS));
    f.do(i64.store(ZERO, ZERO64, S.FIP));
    f.do(i64.store(ZERO, ZERO64, S.FDP));
  });

  d.define('x87.statusWord', [], [I32], (f) =>
    f.ret(i32.or(i32.load16U(ZERO, S.FSW), i32.shl(i32.load(ZERO, S.FTOP), i32.const(11)))),
  );

  // (status word) → FSW and FTOP
  d.define('x87.setStatusWord', [I32], [], (f) => {
    const [word] = f.parameters as [Local];
    f.do(i32.store(ZERO, i32.and(i32.shrU(word.get, i32.const(11)), i32.const(7)), S.FTOP));
    f.do(i32.store16(ZERO, i32.and(word.get, i32.const(0xc7ff)), S.FSW));
  });

  // () → tag word, computed from the contents. SDM 1 8.1.7 "x87 FPU Tag Word"
  d.define('x87.tagWord', [], [I32], (f) => {
    const tags = f.let(ZERO);
    const number = f.let(i32.const(7));
    const tag = f.local(I32);
    f.loop((again) => {
      const v = value(f);
      f.set(v.sig, i64.load(registerAddress(number.get), S.FPR));
      f.set(v.se, i32.load16U(registerAddress(number.get), S.FPR + 8));
      const special = i32.or(
        i32.geU(i32.sub(exponent(v.se.get), i32.const(1)), i32.const(EXPONENT - 1)),
        i64.geS(v.sig.get, ZERO64),
      );
      const zero = i32.and(i32.eqz(exponent(v.se.get)), i64.eqz(v.sig.get));
      f.set(
        tag,
        select(isEmpty(number.get), i32.const(3), select(zero, i32.const(1), select(special, i32.const(2), ZERO))),
      );
      f.set(tags, i32.or(i32.shl(tags.get, i32.const(2)), tag.get));
      f.set(number, i32.sub(number.get, i32.const(1)));
      f.brIf(again, i32.geS(number.get, ZERO));
    });
    f.ret(tags.get);
  });

  // (tag word): only "empty" is kept, the rest is in the contents
  d.define('x87.setTagWord', [I32], [], (f) => {
    const [tags] = f.parameters as [Local];
    const number = f.local(I32);
    f.set(number, ZERO);
    f.loop((again) => {
      const empty = i32.eq(i32.and(tags.get, i32.const(3)), i32.const(3));
      f.do(i32.store8(number.get, empty, S.FEMPTY));
      f.set(tags, i32.shrU(tags.get, i32.const(2)));
      f.set(number, i32.add(number.get, i32.const(1)));
      f.brIf(again, i32.ltU(number.get, i32.const(8)));
    });
  });

  defineEnvironment(d);
}

/** Those of these exceptions that the control word does not mask. */
export const unmasked = (exceptions: Expr): Expr =>
  i32.and(i32.and(exceptions, i32.const(EXCEPTIONS)), i32.xor(i32.load16U(ZERO, S.FCW), i32.const(-1)));

/** Format of an environment image: bit 0 32-bit, bit 1 real-address or virtual-8086 mode. */
export const IMAGE_32 = 1;
export const IMAGE_REAL = 2;

/** Images of FSTENV, FLDENV, FSAVE and FRSTOR. SDM 1 8.1.10, figures 8-9 to 8-12. */
function defineEnvironment(d: Definer): void {
  const image = (at: number, word: Expr, wide: boolean): Expr =>
    wide ? i32.store(ZERO, word, IMAGE + at) : i32.store16(ZERO, word, IMAGE + at);

  // (format): writes the environment to IMAGE
  d.define('x87.storeEnvironment', [I32], [], (f) => {
    const [format] = f.parameters as [Local];
    const real = i32.and(format.get, i32.const(IMAGE_REAL));
    const reserved = i32.const(-0x10000);
    const fip = i32.load(ZERO, S.FIP);
    const fdp = i32.load(ZERO, S.FDP);
    const fop = i32.and(i32.load16U(ZERO, S.FOP), i32.const(0x7ff));
    const low16 = i32.const(0xffff);
    const high = (pointer: Expr): Expr => i32.shrU(pointer, i32.const(16));
    f.if(
      i32.and(format.get, i32.const(IMAGE_32)),
      () => {
        f.do(image(0, i32.or(i32.load16U(ZERO, S.FCW), reserved), true));
        f.do(image(4, i32.or(d.call('x87.statusWord'), reserved), true));
        f.do(image(8, i32.or(d.call('x87.tagWord'), reserved), true));
        f.if(
          real,
          () => {
            f.do(image(12, i32.or(i32.and(fip, low16), reserved), true));
            f.do(image(16, i32.or(i32.shl(high(fip), i32.const(12)), fop), true));
            f.do(image(20, i32.or(i32.and(fdp, low16), reserved), true));
            f.do(image(24, i32.shl(high(fdp), i32.const(12)), true));
          },
          () => {
            f.do(image(12, fip, true));
            f.do(image(16, i32.or(i32.load16U(ZERO, S.FCS), i32.shl(fop, i32.const(16))), true));
            f.do(image(20, fdp, true));
            f.do(image(24, i32.or(i32.load16U(ZERO, S.FDS), reserved), true));
          },
        );
      },
      () => {
        f.do(image(0, i32.load16U(ZERO, S.FCW), false));
        f.do(image(2, d.call('x87.statusWord'), false));
        f.do(image(4, d.call('x87.tagWord'), false));
        f.do(image(6, fip, false));
        f.do(image(10, fdp, false));
        f.if(
          real,
          () => {
            f.do(image(8, i32.or(i32.shl(high(fip), i32.const(12)), fop), false));
            f.do(image(12, i32.shl(high(fdp), i32.const(12)), false));
          },
          () => {
            f.do(image(8, i32.load16U(ZERO, S.FCS), false));
            f.do(image(12, i32.load16U(ZERO, S.FDS), false));
          },
        );
      },
    );
  });

  // (format): takes the environment from IMAGE
  d.define('x87.loadEnvironment', [I32], [], (f) => {
    const [format] = f.parameters as [Local];
    const real = i32.and(format.get, i32.const(IMAGE_REAL));
    const half = (at: number): Expr => i32.load16U(ZERO, IMAGE + at);
    const word = (at: number): Expr => i32.load(ZERO, IMAGE + at);
    const setPointer = (cell: number, pointer: Expr): void => f.do(i64.store(ZERO, i64.extendI32U(pointer), cell));
    const selector = (at: number): Expr =>
      i32.and(half(at), i32.xor(i32.load(ZERO, S.NO_X87_SELECTORS), i32.const(0xffff)));
    /** Bits 16 and up of a real-mode pointer lie above bit 12. */
    const above = (at: Expr): Expr => i32.shl(i32.shrU(at, i32.const(12)), i32.const(16));
    const controls = (step: number): void => {
      f.do(i32.store16(ZERO, i32.or(i32.and(half(0), i32.const(0x1f3f)), i32.const(0x40)), S.FCW));
      f.do(d.call('x87.setStatusWord', half(step)));
      f.do(d.call('x87.setTagWord', half(2 * step)));
    };
    f.if(
      i32.and(format.get, i32.const(IMAGE_32)),
      () => {
        controls(4);
        f.if(
          real,
          () => {
            setPointer(S.FIP, i32.or(half(12), above(word(16))));
            setPointer(S.FDP, i32.or(half(20), above(word(24))));
            f.do(i32.store16(ZERO, i32.and(half(16), i32.const(0x7ff)), S.FOP));
            f.do(i32.store16(ZERO, ZERO, S.FCS));
            f.do(i32.store16(ZERO, ZERO, S.FDS));
          },
          () => {
            setPointer(S.FIP, word(12));
            setPointer(S.FDP, word(20));
            f.do(i32.store16(ZERO, selector(16), S.FCS));
            f.do(i32.store16(ZERO, i32.and(half(18), i32.const(0x7ff)), S.FOP));
            f.do(i32.store16(ZERO, selector(24), S.FDS));
          },
        );
      },
      () => {
        controls(2);
        f.if(
          real,
          () => {
            setPointer(S.FIP, i32.or(half(6), above(half(8))));
            setPointer(S.FDP, i32.or(half(10), above(half(12))));
            f.do(i32.store16(ZERO, i32.and(half(8), i32.const(0x7ff)), S.FOP));
            f.do(i32.store16(ZERO, ZERO, S.FCS));
            f.do(i32.store16(ZERO, ZERO, S.FDS));
          },
          () => {
            setPointer(S.FIP, half(6));
            setPointer(S.FDP, half(10));
            f.do(i32.store16(ZERO, selector(8), S.FCS));
            f.do(i32.store16(ZERO, selector(12), S.FDS));
          },
        );
      },
    );
    f.do(d.call('x87.summarize'));
  });

  // (bytes of the environment): ST(0)–ST(7) to IMAGE behind it
  const each = (f: FunctionBuilder, body: (register: Local, at: Local) => void): void => {
    const at = f.let(f.parameters[0]!.get);
    const i = f.let(ZERO);
    const register = f.local(I32);
    f.loop((again) => {
      f.set(register, registerAddress(physical(i.get)));
      body(register, at);
      f.set(at, i32.add(at.get, i32.const(10)));
      f.set(i, i32.add(i.get, i32.const(1)));
      f.brIf(again, i32.ltU(i.get, i32.const(8)));
    });
  };
  d.define('x87.storeRegisters', [I32], [], (f) =>
    each(f, (register, at) => {
      f.do(i64.store(at.get, i64.load(register.get, S.FPR), IMAGE));
      f.do(i32.store16(at.get, i32.load16U(register.get, S.FPR + 8), IMAGE + 8));
    }),
  );
  d.define('x87.loadRegisters', [I32], [], (f) =>
    each(f, (register, at) => {
      f.do(i64.store(register.get, i64.load(at.get, IMAGE), S.FPR));
      f.do(i32.store16(register.get, i32.load16U(at.get, IMAGE + 8), S.FPR + 8));
    }),
  );

  // (0 π, 1 log2 10, 2 log2 e, 3 log10 2, 4 ln 2, 5 one, 6 zero) → value by the rounding control.
  // SDM 2A "FLD1/FLDL2T/FLDL2E/FLDPI/FLDLG2/FLDLN2/FLDZ—Load Constant"
  d.define('x87.constant', [I32], [I64, I32], (f) => {
    const [which] = f.parameters as [Local];
    const rc = f.let(i32.and(i32.shrU(i32.load16U(ZERO, S.FCW), i32.const(10)), i32.const(3)));
    // truncated significand (high, low), exponent, whether nearest is above
    const rows: readonly [number, number, number, boolean][] = [
      [0xc90fdaa2, 0x2168c234, 0x4000, true],
      [0xd49a784b, 0xcd1b8afe, 0x4000, false],
      [0xb8aa3b29, 0x5c17f0bb, 0x3fff, true],
      [0x9a209a84, 0xfbcff798, 0x3ffd, true],
      [0xb17217f7, 0xd1cf79ab, 0x3ffe, true],
    ];
    f.if(i32.eq(which.get, i32.const(6)), () => f.ret(ZERO64, ZERO));
    rows.forEach(([high, low, exp, above], index) => {
      f.if(i32.eq(which.get, i32.const(index)), () => {
        const up = i32.eq(rc.get, i32.const(2));
        const increment = above ? i32.or(up, i32.eqz(rc.get)) : up;
        f.ret(i64.add(i64.halves(low, high), flag(increment)), i32.const(exp));
      });
    });
    f.ret(INTEGER_BIT, i32.const(0x3fff));
  });
}
