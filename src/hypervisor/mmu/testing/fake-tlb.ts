/** A TLB model for tests: keeps translations as long as it may, so that a forgotten flush shows. */
import type { SecondStageRoot } from '../../../contracts/second-stage.ts';
import type { TlbPort } from '../ports.ts';

export interface TlbEntry {
  readonly tag: number;
  readonly root: number;
  readonly pcid: number;
  readonly global: boolean;
  readonly page: number;
  /** Host page of the 4 KiB piece. */
  readonly hostPage: number;
  /** Rights of the guest's tables: R=1 W=2 U=4 X=8, W only with D set. */
  readonly guest: number;
  readonly pkey: number;
  /** Low half of the SPTE. */
  readonly spte: number;
}

export class FakeTlb implements TlbPort {
  /** Linear and combined mappings. */
  readonly entries = new Map<string, TlbEntry>();
  /** Guest-physical mappings: `root:page` → [SPTE low half, host page]. */
  readonly physical = new Map<string, readonly [number, number]>();
  readonly log: string[] = [];
  readonly root: SecondStageRoot = { table: 0, id: 0, levels: 4, accessedDirty: false, mbec: false, linear: false };
  tag = 0;
  /** `false`: every access walks. */
  enabled = true;

  flushAll(): void {
    this.log.push('all');
    this.entries.clear();
    this.physical.clear();
  }

  flushRoot(root: number): void {
    this.log.push(`root ${root}`);
    this.#drop((e) => e.root === root);
    for (const key of this.physical.keys()) if (key.startsWith(`${root}:`)) this.physical.delete(key);
  }

  flushVpid(tag: number, keepGlobals: boolean): void {
    this.log.push(`vpid ${tag}`);
    this.#drop((e) => e.tag === tag && !(keepGlobals && e.global));
  }

  flushVpidAddress(tag: number, lo: number, hi: number): void {
    this.log.push(`address ${tag}`);
    const page = hi * 2 ** 20 + (lo >>> 12);
    this.#drop((e) => e.tag === tag && e.page === page);
  }

  flushVpidPcid(tag: number, pcid: number): void {
    this.log.push(`pcid ${tag} ${pcid}`);
    this.#drop((e) => e.tag === tag && e.pcid === pcid && !e.global);
  }

  flushVmWide(): void {
    this.entries.clear();
    this.physical.clear();
  }

  loadRoot(root: SecondStageRoot): void {
    this.log.push(`load ${root.id}`);
    Object.assign(this.root, root);
  }

  setVpid(tag: number): void {
    this.tag = tag;
  }

  #drop(dies: (e: TlbEntry) => boolean): void {
    for (const [key, entry] of this.entries) if (dies(entry)) this.entries.delete(key);
  }
}
