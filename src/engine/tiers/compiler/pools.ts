import { assert } from '../../../base/assert.ts';
import { type EngineMemory, REGION_POOL_BYTES, REGIONS_MAX } from '../../core/memory.ts';

/** Smallest piece: 2^6 bytes. */
const SMALLEST = 6;

/** The memory of regions' POOLs, in pieces of 2^n bytes. */
export class Pools {
  readonly #first: number;
  readonly #end: number;
  #next: number;
  /** By n. */
  readonly #free: number[][] = [];
  /** n of each piece in use. */
  readonly #sizes = new Map<number, number>();

  constructor(memory: EngineMemory) {
    this.#first = (memory.regionPools + 4 * REGIONS_MAX + 63) & ~63;
    this.#end = memory.regionPools + 4 * REGIONS_MAX + REGION_POOL_BYTES;
    this.#next = this.#first;
  }

  hasRoom(bytes: number): boolean {
    const size = sizeOf(bytes);
    return (this.#free[size]?.length ?? 0) > 0 || this.#next + 2 ** size <= this.#end;
  }

  /** @returns  Address of a piece of at least `bytes`, which there is: `hasRoom`. */
  take(bytes: number): number {
    const size = sizeOf(bytes);
    let pool = this.#free[size]?.pop();
    if (pool === undefined) {
      pool = this.#next;
      this.#next += 2 ** size;
      assert(this.#next <= this.#end, 'whoever takes a pool has asked whether there is room');
    }
    this.#sizes.set(pool, size);
    return pool;
  }

  give(pool: number): void {
    const size = this.#sizes.get(pool);
    assert(size !== undefined, 'a pool that is given back was taken');
    this.#sizes.delete(pool);
    // Nothing is in use: pieces of other sizes can be made of all of it
    if (this.#sizes.size === 0) {
      this.#free.length = 0;
      this.#next = this.#first;
      return;
    }
    const free = this.#free[size];
    if (free) free.push(pool);
    else this.#free[size] = [pool];
  }
}

const sizeOf = (bytes: number): number => Math.max(SMALLEST, 32 - Math.clz32(bytes - 1));
