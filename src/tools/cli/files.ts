import { readFileSync } from 'node:fs';
import { UserError } from '../../base/assert.ts';

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EACCES: 'permission is denied',
  EPERM: 'the host does not permit it',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  EROFS: 'its file system is read-only',
  ENOSPC: 'the host has no space left',
  EIO: 'the host reports an input/output error',
  EMFILE: 'too many files are open',
  EADDRINUSE: 'the port is in use',
  EADDRNOTAVAIL: 'this host has no such address',
  ENOTFOUND: 'there is no such host',
};

/** An operating system's error in words. */
export function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return (code !== undefined && REASONS[code]) || message;
}

/** The whole file. @throws UserError naming the option and the reason. */
export function readWhole(option: string, path: string): Uint8Array {
  try {
    const { buffer, byteOffset, length } = readFileSync(path);
    return new Uint8Array(buffer, byteOffset, length); // a view: a large file is in memory once
  } catch (error) {
    throw new UserError(`${option} ${path} cannot be read: ${reasonOf(error)}.`);
  }
}
