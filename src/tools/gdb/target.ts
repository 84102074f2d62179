/** What `-gdb` says. */
import { UserError } from '../../base/assert.ts';

export type GdbTarget =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'stdio' };

/** QEMU's `-s`. */
export const DEFAULT_PORT = 1234;
/** Where a port without a host is: a debugger may do anything to the machine, so nobody else's network is asked in. */
const THIS_HOST = '127.0.0.1';

/** `tcp::1234`, `tcp:HOST:PORT`, `stdio`, `none`. @throws UserError */
export function parseGdbTarget(option: string, text: string): GdbTarget | null {
  const [device = '', ...more] = text.split(',');
  // How QEMU says that it listens and does not wait, which is how things are
  const other = more.find((word) => !/^(server(=on)?|nowait|wait=off|nodelay(=on)?|)$/.test(word));
  if (device === 'none' && more.length === 0) return null;
  if (device === 'stdio' && more.length === 0) return { kind: 'stdio' };
  const [, host = '', digits = ''] = /^tcp:(\[[^\]]*\]|[^:]*):(\d+)$/.exec(device) ?? [];
  const port = digits === '' ? Number.NaN : Number(digits);
  if (other !== undefined || !(port <= 0xffff)) {
    throw new UserError(
      `${option} ${text}: expected tcp::PORT, tcp:HOST:PORT, stdio or none, as in ${option} tcp::1234.`,
    );
  }
  return { kind: 'tcp', host: host.replace(/^\[|\]$/g, '') || THIS_HOST, port };
}
