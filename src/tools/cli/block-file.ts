import { closeSync, constants, fstatSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { UserError } from '../../base/assert.ts';
import type { BlockStore } from '../../pc/virtio/block.ts';
import { reasonOf } from './files.ts';

const SECTOR_BYTES = 512;

/**
 * A raw disk image of the host as a disk. A failure while the guest runs becomes an I/O error of the guest's (that is
 * virtio-blk's doing) and is told the user once, through `complain`.
 */
export class BlockFile implements BlockStore {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #path: string;
  readonly #file: number;
  readonly #complain: (sentence: string) => void;
  #complained = false;

  /** @throws UserError if there is no such file, it may not be opened, or it is no disk. */
  constructor(path: string, readOnly: boolean, complain: (sentence: string) => void) {
    this.#path = path;
    this.#complain = complain;
    this.readOnly = readOnly;
    try {
      this.#file = openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      const hint =
        !readOnly && (code === 'EACCES' || code === 'EROFS' || code === 'EPERM')
          ? ': add readonly=on, or make it writable'
          : '';
      throw new UserError(
        `-drive ${path} cannot be opened${readOnly ? '' : ' for writing'}: ${reasonOf(error)}${hint}.`,
      );
    }
    const about = fstatSync(this.#file);
    this.sizeBytes = about.size;
    if (!about.isFile() || about.size === 0 || about.size % SECTOR_BYTES !== 0) {
      closeSync(this.#file);
      throw new UserError(
        `-drive ${path} is no disk image: expected a file of whole sectors of ${SECTOR_BYTES} bytes, ` +
          `found ${about.isFile() ? `${about.size} bytes` : 'something that is not a file'}.`,
      );
    }
  }

  read(offset: number, into: Uint8Array): void {
    this.#guarded('read', () => {
      for (let done = 0; done < into.length; ) {
        const bytes = readSync(this.#file, into, done, into.length - done, offset + done);
        if (bytes === 0)
          throw new Error(`it ends at byte ${offset + done}, and had ${this.sizeBytes} bytes at the start`);
        done += bytes;
      }
    });
  }

  write(offset: number, from: Uint8Array): void {
    this.#guarded('written', () => {
      for (let done = 0; done < from.length; ) {
        done += writeSync(this.#file, from, done, from.length - done, offset + done);
      }
    });
  }

  flush(): void {
    this.#guarded('flushed', () => fsyncSync(this.#file));
  }

  close(): void {
    closeSync(this.#file);
  }

  #guarded(what: string, action: () => void): void {
    try {
      action();
    } catch (error) {
      if (!this.#complained) {
        this.#complained = true;
        this.#complain(`-drive ${this.#path} could not be ${what}: ${reasonOf(error)}; the guest sees an I/O error.`);
      }
      throw error;
    }
  }
}
