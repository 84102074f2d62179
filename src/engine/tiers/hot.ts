/**
 * Variants with a place in the interpreter's main switch, most frequent first: `opcode|size` and r or m for the ModRM
 * operand. MEASURED by bench/hot-forms on a Debian boot; the list is cut where the switch would grow past 35 kB of
 * WebAssembly (spec/wasm-engine.md A).
 */
export const HOT: readonly string[] = [
  '8B /r|8m', '8B /r|4m', '89 /r|8r', '89 /r|4r', '89 /r|8m', '89 /r|4m', '8B /r|8r',
  '83 /0 ib|8r', '83 /7 ib|8r', '83 /7 ib|4r', '83 /5 ib|8r', '83 /4 ib|4r', '01 /r|8r', '01 /r|4r', '29 /r|8r',
  '39 /r|8r', '39 /r|4r', '39 /r|8m', '3B /r|8m', '31 /r|4r', '31 /r|8r', '21 /r|8r', '09 /r|8r',
  '85 /r|8r', '85 /r|4r', '84 /r|1r', '8D /r:m|8m', '8D /r:m|4m',
  '0F B6 /r|4m', '0F B6 /r|4r', '0F B7 /r|4m', '63 /r o64|8r', 'B8+r iv|4r', 'C7 /0 iz|8m', 'C7 /0 iz|4m',
  '50+r d64|8r', '58+r d64|8r', 'E8 cz f64|8r', 'C3 f64|8r', 'EB cb|4r', 'E9 cz f64|8r',
  '70 cb|4r', '72 cb|4r', '73 cb|4r', '74 cb|4r', '75 cb|4r', '76 cb|4r', '77 cb|4r', '78 cb|4r', '79 cb|4r',
  '7C cb|4r', '7D cb|4r', '7E cb|4r', '7F cb|4r',
  '0F 82 cz f64|8r', '0F 83 cz f64|8r', '0F 84 cz f64|8r', '0F 85 cz f64|8r', '0F 86 cz f64|8r', '0F 87 cz f64|8r',
  '0F 88 cz f64|8r', '0F 8E cz f64|8r', '0F 8F cz f64|8r',
  '03 /r|8r', '03 /r|8m', '2B /r|8r', '33 /r|4r', '3B /r|4m', '80 /7 ib|1m', '83 /7 ib|4m', '83 /7 ib|8m', '81 /7 iz|4r',
  'C1 /4 ib|8r', 'C1 /5 ib|8r', 'C1 /4 ib|4r', 'C1 /5 ib|4r', '88 /r|1m', 'A8 ib|1r', 'F6 /0 ib|1r', 'F6 /0 ib|1m',
  '0F 1F /r|4m', '0F 1F /r|2m', 'FF /4 f64|8r', 'FF /2 f64|8r', '0F AF /r|8r', '81 /0 iz|8r',
];
