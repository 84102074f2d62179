/**
 * Debian boots as L2, under the KVM of the same Debian as L1 and guests/small-vmm, to its init: VMX on Terrarium and
 * Bochs, SVM on QEMU TCG. L1's own boot is not counted.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkout } from './lib/machines.mjs';
import { begins, debianWith, measurePhases, QUIET } from './lib/phases.mjs';

/** Said by L2's own script. */
const L2_IS_UP = 'BENCH-PHASE L2 is up';
/** Bochs takes minutes. */
const SECONDS = 3_600;

export async function l2Boot({ rounds, machines }) {
  const folder = mkdtempSync(join(tmpdir(), 'terrarium-l2-'));
  try {
    const inner = debianWith(folder, 'bench-l2', `#!/bin/sh\necho ${L2_IS_UP}\n`);
    const vmm = join(checkout, 'guests/small-vmm/small-vmm.bin');
    const script = `#!/bin/sh
${begins('L2 boots')}
exec /vmm run --kernel /l2/vmlinuz --initrd /l2/initramfs.cpio --mem 256 --append "${QUIET} TERRARIUM_RUN=/bench"
`;
    const { kernel, initramfs } = debianWith(folder, 'bench-l1', script, {
      load: ['kvm-intel', 'kvm-amd'],
      adds: [
        { host: vmm, guest: '/vmm' },
        { host: inner.kernel, guest: '/l2/vmlinuz' },
        { host: inner.initramfs, guest: '/l2/initramfs.cpio' },
      ],
    });
    const guest = {
      kernel,
      initrd: initramfs,
      append: `${QUIET} TERRARIUM_RUN=/bench`,
      ramMiB: 1024,
      mark: 'BENCH-PHASE',
    };
    const phases = [{ name: 'L2 boots', to: L2_IS_UP }];
    return await measurePhases({ rounds, machines, guest, phases, seconds: SECONDS });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
