import { BORN_DOUBLE, TWO_32 } from '../../base/bits.ts';
import type { SecondStageTables } from '../../contracts/second-stage.ts';
import { SPTE, SPTE_PRESENT } from '../../contracts/second-stage.ts';
import type { EngineVcpu } from '../core/cpu.ts';
import { FRAMES, PIECES } from '../core/layout.ts';
import type { EngineMemory } from '../core/memory.ts';

/** A large page is cached in pieces of 2 MiB. */
const PIECE_BYTES = 0x20_0000;

/**
 * From a guest-physical address to a host address, through the tables that L0 has loaded.
 *
 * Owns    the caches of what was found, FRAMES and PIECES, which quick-walk.ts reads.
 * Never   judges rights: it tells them.
 */
export class SecondStage {
  readonly #memory: EngineMemory;
  tables: SecondStageTables = { lo: new Uint32Array(512), hi: new Uint32Array(512) };
  /** Of the last look-up: the lower half of the entry, with the rights; 0 if there is none. */
  entry = BORN_DOUBLE;

  constructor(memory: EngineMemory) {
    this.#memory = memory;
  }

  /** Forgets everything. */
  flush(): void {
    const { u8 } = this.#memory;
    u8.fill(0, FRAMES.AT, FRAMES.AT + FRAMES.ENTRIES * FRAMES.ENTRY_BYTES);
    u8.fill(0, PIECES.AT, PIECES.AT + PIECES.ENTRIES * PIECES.ENTRY_BYTES);
  }

  /** Forgets what is cached of the page of an address. */
  forget(physical: number): void {
    const { u32 } = this.#memory;
    u32[frameAt(Math.floor(physical / 4096)) + (FRAMES.SPTE >>> 2)] = 0;
    u32[pieceAt(Math.floor(physical / PIECE_BYTES)) + (PIECES.SPTE >>> 2)] = 0;
  }

  /**
   * Host address, or -1 where an entry is not present; `entry` has the rights. Where an entry says MMIO the answer is 0.
   */
  host(vcpu: EngineVcpu, physical: number): number {
    const { u32 } = this.#memory;
    const { id } = vcpu.root;
    const frame = Math.floor(physical / 4096);
    const known = frameAt(frame);
    if (u32[known] === frame && u32[known + 1] === id && u32[known + 2] !== 0) {
      this.entry = u32[known + 2]!;
      return u32[known + 3]! * 4096 + (physical % 4096);
    }
    const piece = Math.floor(physical / PIECE_BYTES);
    const large = pieceAt(piece);
    if (u32[large] === piece && u32[large + 1] === id && u32[large + 2] !== 0) {
      this.entry = u32[large + 2]!;
      return u32[large + 3]! * 4096 + (physical % PIECE_BYTES);
    }
    return this.#walk(vcpu, physical, frame, piece);
  }

  #walk(vcpu: EngineVcpu, physical: number, frame: number, piece: number): number {
    const { lo, hi } = this.tables;
    let { table, levels: level } = vcpu.root;
    let size = 2 ** (12 + 9 * (level - 1));
    if (physical >= size * 512) {
      this.entry = 0;
      return -1;
    }
    for (;;) {
      const at = table * 512 + (Math.floor(physical / size) & 511);
      const low = lo[at]!;
      this.entry = low;
      if (!(low & SPTE_PRESENT)) return -1;
      if (low & SPTE.MMIO) return 0;
      if (low & SPTE.LEAF || level === 1) {
        const page = hi[at]! + (frame & (size / 4096 - 1));
        if (level === 1) this.#keep(frameAt(frame), frame, vcpu.root.id, low, page);
        else this.#keep(pieceAt(piece), piece, vcpu.root.id, low, page - (frame & 511));
        return page * 4096 + (physical % 4096);
      }
      table = hi[at]!;
      level -= 1;
      size /= 512;
    }
  }

  #keep(at: number, number: number, root: number, entry: number, page: number): void {
    if (number >= TWO_32) return;
    const { u32 } = this.#memory;
    u32[at] = number;
    u32[at + 1] = root;
    u32[at + 2] = entry;
    u32[at + 3] = page;
  }

  /** L1-physical frame of a device page: what L0 wrote into the marker. */
  mmioFrame(vcpu: EngineVcpu, physical: number): number {
    const { lo, hi } = this.tables;
    let { table, levels: level } = vcpu.root;
    let size = 2 ** (12 + 9 * (level - 1));
    for (;;) {
      const at = table * 512 + (Math.floor(physical / size) & 511);
      if (lo[at]! & SPTE.MMIO) return hi[at]!;
      table = hi[at]!;
      level -= 1;
      size /= 512;
    }
  }
}

/** u32 indices of what may be cached of a frame, of a piece. */
const frameAt = (frame: number): number => (FRAMES.AT + (frame & (FRAMES.ENTRIES - 1)) * FRAMES.ENTRY_BYTES) >>> 2;
const pieceAt = (piece: number): number => (PIECES.AT + (piece & (PIECES.ENTRIES - 1)) * PIECES.ENTRY_BYTES) >>> 2;
