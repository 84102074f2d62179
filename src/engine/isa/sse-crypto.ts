import { call, type Expr, I32, I64, i32, i64, select, V128, v128 } from '../../wasm/expr.ts';
import type { FunctionBuilder, Local, ModuleBuilder } from '../../wasm/module.ts';
import { type Instruction, instruction } from './instruction.ts';
import type { Semantics } from './semantics.ts';
import { bind, imm8, lanes8, lanes32, vector } from './sse-operands.ts';

/**
 * AES-NI, PCLMULQDQ and SHA.
 *
 * Sources  FIPS 197 (AES), FIPS 180-4 (SHA); SDM 1 12.13 "Advanced Encryption Standard Instruction Set",
 *          SDM 2A "PCLMULQDQ", SDM 2B "SHA1RNDS4" …
 */

// ---- AES --------------------------------------------------------------------------------------------------------

/** FIPS 197 5.1.1: the inverse in GF(2^8) modulo x^8+x^4+x^3+x+1, then an affine map. Found by walking a generator. */
function makeSbox(): { forward: Uint8Array; inverse: Uint8Array } {
  const forward = new Uint8Array(256);
  const inverse = new Uint8Array(256);
  const rotl = (x: number, by: number): number => ((x << by) | (x >> (8 - by))) & 0xff;
  // p runs through the powers of 3, q through those of its inverse, 0xf6: always p · q = 1.
  let p = 1;
  let q = 1;
  do {
    p = p ^ ((p << 1) & 0xff) ^ (p & 0x80 ? 0x1b : 0);
    q ^= q << 1;
    q ^= q << 2;
    q = (q ^ (q << 4)) & 0xff;
    if (q & 0x80) q ^= 0x09;
    forward[p] = q ^ rotl(q, 1) ^ rotl(q, 2) ^ rotl(q, 3) ^ rotl(q, 4) ^ 0x63;
  } while (p !== 1);
  forward[0] = 0x63;
  forward.forEach((value, i) => {
    inverse[value] = i;
  });
  return { forward, inverse };
}
const SBOX = makeSbox();

/** Each byte through a table of 256: a swizzle selects from sixteen and gives zero for any other index. */
function defineTable(m: ModuleBuilder, name: string, table: Uint8Array): FunctionBuilder {
  const f = m.func(name, [V128], [V128]);
  const [x] = f.parameters as [Local];
  const rows = Array.from({ length: 16 }, (_, i) =>
    v128.swizzle(vector(table.subarray(16 * i, 16 * i + 16)), v128.i8x16Sub(x.get, vector(lanes8(() => 16 * i)))),
  );
  f.ret(rows.reduce((a, b) => v128.or(a, b)));
  return f;
}

const shuffle = (v: Expr, byte: (i: number) => number): Expr => v128.shuffle(v, v, lanes8(byte));
/** Byte (row r, column c) is at 4c + r; row r moves by r columns. */
const shiftRows = (v: Expr): Expr => shuffle(v, (i) => (i + 4 * (i & 3)) & 15);
const inverseShiftRows = (v: Expr): Expr => shuffle(v, (i) => (i - 4 * (i & 3)) & 15);
const rotateColumn = (v: Expr, by: number): Expr => shuffle(v, (i) => (i & ~3) | ((i + by) & 3));
/** Times x in GF(2^8). */
const double = (v: Expr): Expr =>
  v128.xor(v128.i8x16Shl(v, i32.const(1)), v128.and(v128.i8x16ShrS(v, i32.const(7)), vector(lanes8(() => 0x1b))));

function mixColumns(f: FunctionBuilder, v: Expr): Expr {
  const a = f.let(v);
  const b = f.let(rotateColumn(a.get, 1));
  const sum = v128.xor(double(v128.xor(a.get, b.get)), b.get);
  return v128.xor(sum, v128.xor(rotateColumn(a.get, 2), rotateColumn(a.get, 3)));
}

/** The inverse matrix is the forward one times (1 + 4·(1 + x²)): FIPS 197 5.3.3. */
function inverseMixColumns(f: FunctionBuilder, v: Expr): Expr {
  const a = f.let(v);
  const u = double(double(v128.xor(a.get, rotateColumn(a.get, 2))));
  return mixColumns(f, v128.xor(a.get, u));
}

function defineAes(m: ModuleBuilder): FunctionBuilder[] {
  const sub = defineTable(m, 'aes.sub', SBOX.forward);
  const inverseSub = defineTable(m, 'aes.inverseSub', SBOX.inverse);
  const round = (name: string, build: (f: FunctionBuilder, state: Expr) => Expr): FunctionBuilder => {
    const f = m.func(name, [V128, V128], [V128]);
    const [state, key] = f.parameters as [Local, Local];
    f.ret(v128.xor(build(f, state.get), key.get));
    return f;
  };
  const imc = m.func('aes.imc', [V128], [V128]);
  imc.ret(inverseMixColumns(imc, imc.parameters[0]!.get));
  return [
    sub,
    round('aes.enc', (f, s) => mixColumns(f, call(sub, shiftRows(s)))),
    round('aes.enclast', (_f, s) => call(sub, shiftRows(s))),
    round('aes.dec', (f, s) => inverseMixColumns(f, call(inverseSub, inverseShiftRows(s)))),
    round('aes.declast', (_f, s) => call(inverseSub, inverseShiftRows(s))),
    imc,
  ];
}

// ---- carry-less multiplication ----------------------------------------------------------------------------------

/**
 * Low 64 bits of a carry-less product, by integer multiplication of numbers with three empty bits between the used
 * ones: sums of at most fifteen ones do not reach the next used bit, and the sixteenth falls out at the top.
 */
function defineClmul(m: ModuleBuilder): FunctionBuilder[] {
  const low = m.func('clmul.low', [I64, I64], [I64]);
  {
    const [x, y] = low.parameters as [Local, Local];
    const masks = [0, 1, 2, 3].map((k) => i64.big(BigInt.asUintN(64, 0x1111_1111_1111_1111n << BigInt(k))));
    const xs = masks.map((mask) => low.let(i64.and(x.get, mask)));
    const ys = masks.map((mask) => low.let(i64.and(y.get, mask)));
    const part = (k: number): Expr =>
      i64.and(
        [0, 1, 2, 3].map((i) => i64.mul(xs[i]!.get, ys[(k - i) & 3]!.get)).reduce((a, b) => i64.xor(a, b)),
        masks[k]!,
      );
    low.ret([0, 1, 2, 3].map(part).reduce((a, b) => i64.or(a, b)));
  }
  const reverse = m.func('reverseBits', [I64], [I64]);
  {
    const [x] = reverse.parameters as [Local];
    const steps: readonly [number, bigint][] = [
      [1, 0x5555_5555_5555_5555n],
      [2, 0x3333_3333_3333_3333n],
      [4, 0x0f0f_0f0f_0f0f_0f0fn],
      [8, 0x00ff_00ff_00ff_00ffn],
      [16, 0x0000_ffff_0000_ffffn],
    ];
    for (const [by, mask] of steps) {
      const up = i64.shl(i64.and(x.get, i64.big(mask)), i64.const(by));
      reverse.set(x, i64.or(up, i64.and(i64.shrU(x.get, i64.const(by)), i64.big(mask))));
    }
    reverse.ret(i64.rotl(x.get, i64.const(32)));
  }
  // The high half is the low half of the mirror images' product, mirrored: bit 127 - k of 127 bits.
  const whole = m.func('clmul', [I64, I64], [V128]);
  const [x, y] = whole.parameters as [Local, Local];
  const mirrored = call(low, call(reverse, x.get), call(reverse, y.get));
  const high = i64.shrU(call(reverse, mirrored), i64.const(1));
  whole.ret(v128.i64x2Replace(v128.i64x2Splat(call(low, x.get, y.get)), 1, high));
  return [whole];
}

// ---- SHA --------------------------------------------------------------------------------------------------------

const dword = (v: Expr, i: number): Expr => v128.i32x4Extract(v, i);
/** Dwords 3, 2, 1, 0: in the order in which the manual writes a register. */
const dwords = (v: Local): [Expr, Expr, Expr, Expr] => [
  dword(v.get, 3),
  dword(v.get, 2),
  dword(v.get, 1),
  dword(v.get, 0),
];
const build = (...words: Expr[]): Expr =>
  words.reduce((v, word, i) => v128.i32x4Replace(v, 3 - i, word), vector(new Uint8Array(16)));
const sum = (...terms: Expr[]): Expr => terms.reduce((a, b) => i32.add(a, b));
const xor3 = (a: Expr, b: Expr, c: Expr): Expr => i32.xor(i32.xor(a, b), c);
const rotr = (x: Expr, by: number): Expr => i32.rotr(x, i32.const(by));
const rotl = (x: Expr, by: number): Expr => i32.rotl(x, i32.const(by));
const choose = (a: Expr, b: Expr, c: Expr): Expr => i32.xor(i32.and(i32.xor(b, c), a), c);
const majority = (a: Expr, b: Expr, c: Expr): Expr => i32.or(i32.and(a, b), i32.and(c, i32.or(a, b)));
const smallSigma = (x: Expr, a: number, b: number, shift: number): Expr =>
  xor3(rotr(x, a), rotr(x, b), i32.shrU(x, i32.const(shift)));

/** FIPS 180-4 4.2.1 "SHA-1 Constants". */
const SHA1_K = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

function defineSha(m: ModuleBuilder): FunctionBuilder[] {
  const rnds4 = m.func('sha1.rnds4', [V128, V128, I32], [V128]);
  {
    const f = rnds4;
    const [state, words, which] = f.parameters as [Local, Local, Local];
    let [a, b, c, d] = dwords(state).map((word) => f.let(word)) as [Local, Local, Local, Local];
    let e: Local | undefined;
    const is = (k: number): Expr => i32.eq(which.get, i32.const(k));
    const k = f.let(
      select(
        is(0),
        i32.const(SHA1_K[0]!),
        select(is(1), i32.const(SHA1_K[1]!), select(is(2), i32.const(SHA1_K[2]!), i32.const(SHA1_K[3]!))),
      ),
    );
    for (const word of dwords(words)) {
      const mixed = select(
        is(0),
        choose(b.get, c.get, d.get),
        select(is(2), majority(b.get, c.get, d.get), xor3(b.get, c.get, d.get)),
      );
      const next = f.let(sum(mixed, rotl(a.get, 5), word, k.get, ...(e ? [e.get] : [])));
      const turned = f.let(rotl(b.get, 30));
      [a, b, c, d, e] = [next, a, turned, c, d];
    }
    f.ret(build(a.get, b.get, c.get, d.get));
  }
  const rnds2 = m.func('sha256.rnds2', [V128, V128, V128], [V128]);
  {
    const f = rnds2;
    const [cdgh, abef, keys] = f.parameters as [Local, Local, Local];
    let [a, b, e, ff] = dwords(abef).map((word) => f.let(word)) as [Local, Local, Local, Local];
    let [c, d, g, h] = dwords(cdgh).map((word) => f.let(word)) as [Local, Local, Local, Local];
    for (let i = 0; i < 2; i++) {
      const bigSigma1 = xor3(rotr(e.get, 6), rotr(e.get, 11), rotr(e.get, 25));
      const bigSigma0 = xor3(rotr(a.get, 2), rotr(a.get, 13), rotr(a.get, 22));
      const first = f.let(sum(choose(e.get, ff.get, g.get), bigSigma1, dword(keys.get, i), h.get));
      const nextA = f.let(sum(first.get, majority(a.get, b.get, c.get), bigSigma0));
      const nextE = f.let(i32.add(first.get, d.get));
      [a, b, c, d, e, ff, g, h] = [nextA, a, b, c, nextE, e, ff, g];
    }
    f.ret(build(a.get, b.get, e.get, ff.get));
  }
  return [rnds4, rnds2];
}

export const defineCrypto = (m: ModuleBuilder): FunctionBuilder[] => [
  ...defineAes(m),
  ...defineClmul(m),
  ...defineSha(m),
];

// ---- rows -------------------------------------------------------------------------------------------------------

const row = (
  name: string,
  title: string,
  opcode: string,
  operands: string,
  feature: string,
  execute: (m: Semantics) => void,
): Instruction =>
  instruction({
    name,
    source: `SDM 2 "${name}—${title}"`,
    forms: { [opcode]: `${name} ${operands}` },
    needs: 'sse',
    feature,
    execute,
  });

const aes = (name: string, opcode: string, title: string): Instruction =>
  row(name, title, `66 0F 38 ${opcode} /r`, 'xmm, xmm/m128', 'aes', (m) => {
    const key = m.loadV(1);
    m.storeV(0, call(m.lib.byName(`aes.${name.slice(3).toLowerCase()}`), m.loadV(0), key));
  });

const AES: readonly Instruction[] = [
  aes('AESENC', 'DC', 'Perform One Round of an AES Encryption Flow'),
  aes('AESENCLAST', 'DD', 'Perform Last Round of an AES Encryption Flow'),
  aes('AESDEC', 'DE', 'Perform One Round of an AES Decryption Flow'),
  aes('AESDECLAST', 'DF', 'Perform Last Round of an AES Decryption Flow'),
  row('AESIMC', 'Perform the AES InvMixColumn Transformation', '66 0F 38 DB /r', 'xmm, xmm/m128', 'aes', (m) =>
    m.storeV(0, call(m.lib.byName('aes.imc'), m.loadV(1))),
  ),
  row('AESKEYGENASSIST', 'AES Round Key Generation Assist', '66 0F 3A DF /r ib', 'xmm, xmm/m128, imm8', 'aes', (m) => {
    const words = bind(m, call(m.lib.byName('aes.sub'), m.loadV(1)));
    // Dwords 1, 1 rotated, 3, 3 rotated; the round constant into the rotated ones.
    const placed = shuffle(words, (i) => {
      const from = i < 8 ? 4 : 12;
      return from + ((i & 4 ? i + 1 : i) & 3);
    });
    const constant = v128.and(v128.i32x4Splat(imm8(m, 2)), vector(lanes32((i) => (i & 1 ? -1 : 0))));
    m.storeV(0, v128.xor(placed, constant));
  }),
];

const CLMUL = row(
  'PCLMULQDQ',
  'Carry-Less Multiplication Quadword',
  '66 0F 3A 44 /r ib',
  'xmm, xmm/m128, imm8',
  'pclmulqdq',
  (m) => {
    const b = m.loadV(1);
    const a = m.loadV(0);
    const imm = imm8(m, 2);
    const half = (v: Expr, bit: number): Expr =>
      select(i32.and(imm, i32.const(bit)), v128.i64x2Extract(v, 1), v128.i64x2Extract(v, 0));
    m.storeV(0, call(m.lib.byName('clmul'), half(a, 1), half(b, 16)));
  },
);

/** Binds both operands as locals and stores what comes of them. */
const sha = (
  name: string,
  opcode: string,
  title: string,
  compute: (a: Local, b: Local, m: Semantics) => Expr,
  operands = 'xmm, xmm/m128',
): Instruction =>
  row(name, title, opcode, operands, 'sha_ni', (m) => {
    const b = m.let(m.loadV(1));
    m.storeV(0, compute(m.let(m.loadV(0)), b, m));
  });

const SHA: readonly Instruction[] = [
  sha(
    'SHA1RNDS4',
    'NP 0F 3A CC /r ib',
    'Perform Four Rounds of SHA1 Operation',
    (a, b, m) => call(m.lib.byName('sha1.rnds4'), a.get, b.get, i32.and(imm8(m, 2), i32.const(3))),
    'xmm, xmm/m128, imm8',
  ),
  sha('SHA1NEXTE', 'NP 0F 38 C8 /r', 'Calculate SHA1 State Variable E After Four Rounds', (a, b) =>
    v128.i32x4Replace(b.get, 3, i32.add(dword(b.get, 3), rotl(dword(a.get, 3), 30))),
  ),
  sha(
    'SHA1MSG1',
    'NP 0F 38 C9 /r',
    'Perform an Intermediate Calculation for the Next Four SHA1 Message Dwords',
    (a, b) =>
      v128.xor(
        a.get,
        v128.shuffle(
          a.get,
          b.get,
          lanes8((i) => (i < 8 ? i + 24 : i - 8)),
        ),
      ),
  ),
  sha('SHA1MSG2', 'NP 0F 38 CA /r', 'Perform a Final Calculation for the Next Four SHA1 Message Dwords', (a, b, m) => {
    const [a3, a2, a1, a0] = dwords(a);
    const w16 = bind(m, rotl(i32.xor(a3, dword(b.get, 2)), 1));
    return build(
      w16,
      rotl(i32.xor(a2, dword(b.get, 1)), 1),
      rotl(i32.xor(a1, dword(b.get, 0)), 1),
      rotl(i32.xor(a0, w16), 1),
    );
  }),
  sha(
    'SHA256RNDS2',
    'NP 0F 38 CB /r',
    'Perform Two Rounds of SHA256 Operation',
    (a, b, m) => call(m.lib.byName('sha256.rnds2'), a.get, b.get, m.loadV(2)),
    'xmm, xmm/m128, <XMM0>',
  ),
  sha(
    'SHA256MSG1',
    'NP 0F 38 CC /r',
    'Perform an Intermediate Calculation for the Next Four SHA256 Message Dwords',
    (a, b) => {
      const [w3, w2, w1, w0] = dwords(a);
      const s = (x: Expr): Expr => smallSigma(x, 7, 18, 3);
      return build(i32.add(w3, s(dword(b.get, 0))), i32.add(w2, s(w3)), i32.add(w1, s(w2)), i32.add(w0, s(w1)));
    },
  ),
  sha(
    'SHA256MSG2',
    'NP 0F 38 CD /r',
    'Perform a Final Calculation for the Next Four SHA256 Message Dwords',
    (a, b, m) => {
      const [a3, a2, a1, a0] = dwords(a);
      const s = (x: Expr): Expr => smallSigma(x, 17, 19, 10);
      const w16 = bind(m, i32.add(a0, s(dword(b.get, 2))));
      const w17 = bind(m, i32.add(a1, s(dword(b.get, 3))));
      return build(i32.add(a3, s(w17)), i32.add(a2, s(w16)), w17, w16);
    },
  ),
];

export const CRYPTO: readonly Instruction[] = [...AES, CLMUL, ...SHA];
