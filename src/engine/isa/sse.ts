export { SSE_ARITHMETIC, SSE3_ARITHMETIC, SSE41_ARITHMETIC } from './sse-float.ts';
export {
  MMX_INTEGER,
  SSE2_INTEGER,
  SSE41_INTEGER,
  SSE42_INTEGER,
  SSSE3_INTEGER,
} from './sse-integer.ts';
