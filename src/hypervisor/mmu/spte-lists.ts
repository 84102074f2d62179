/**
 * Linked lists of SPTE numbers (`page * 512 + index`) in two typed arrays: parent lists and reverse maps.
 * Node 0 is the end of every list, so that a zeroed array of heads is an array of empty lists.
 */
import { assert } from '../../base/assert.ts';

export class SpteLists {
  spte: Uint32Array;
  next: Uint32Array;
  #free = 0;

  constructor(nodes = 4096) {
    this.spte = new Uint32Array(nodes);
    this.next = new Uint32Array(nodes);
    this.#chain(1, nodes);
  }

  push(heads: Uint32Array, at: number, spte: number): void {
    if (this.#free === 0) this.#grow();
    const node = this.#free;
    this.#free = this.next[node]!;
    this.spte[node] = spte;
    this.next[node] = heads[at]!;
    heads[at] = node;
  }

  remove(heads: Uint32Array, at: number, spte: number): void {
    let before = 0;
    let node = heads[at]!;
    while (node !== 0 && this.spte[node] !== spte) {
      before = node;
      node = this.next[node]!;
    }
    assert(node !== 0, 'an SPTE that is removed from a list is in it');
    if (before === 0) heads[at] = this.next[node]!;
    else this.next[before] = this.next[node]!;
    this.next[node] = this.#free;
    this.#free = node;
  }

  includes(heads: Uint32Array, at: number, spte: number): boolean {
    for (let node = heads[at]!; node !== 0; node = this.next[node]!) {
      if (this.spte[node] === spte) return true;
    }
    return false;
  }

  #chain(from: number, to: number): void {
    for (let node = to - 1; node >= from; node -= 1) {
      this.next[node] = this.#free;
      this.#free = node;
    }
  }

  #grow(): void {
    const old = this.spte.length;
    const spte = new Uint32Array(old * 2);
    const next = new Uint32Array(old * 2);
    spte.set(this.spte);
    next.set(this.next);
    this.spte = spte;
    this.next = next;
    this.#chain(old, old * 2);
  }
}
