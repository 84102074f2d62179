/** What Debian's KVM finds in the processor, what it runs with less of it, and L0 in its other modes. */
import { expect } from 'vitest';
import type { MachineOptions } from '../../../src/machine/machine.ts';
import { L1 } from './l1.ts';
import type { Scenario } from './table.ts';

/**
 * /sys/module/kvm_intel/parameters of Linux 6.1 on a server processor that has all of VMX that KVM uses; not SGX, nor
 * the IPI virtualization of 2023.
 * Source: Linux, arch/x86/kvm/vmx/vmx.c, module_param and hardware_setup().
 */
const PARAMETERS: Readonly<Record<string, string>> = {
  allow_smaller_maxphyaddr: 'N',
  dump_invalid_vmcs: 'N',
  emulate_invalid_guest_state: 'Y',
  enable_apicv: 'Y',
  enable_ipiv: 'N',
  enable_shadow_vmcs: 'Y',
  enlightened_vmcs: 'N', // Hyper-V's
  ept: 'Y',
  eptad: 'Y',
  error_on_inconsistent_vmcs_config: 'Y',
  fasteoi: 'Y',
  flexpriority: 'Y',
  nested: 'Y',
  nested_early_check: 'N',
  ple_gap: '128',
  ple_window: '4096',
  ple_window_grow: '2',
  ple_window_max: '4294967295',
  ple_window_shrink: '0',
  pml: 'Y',
  preemption_timer: 'Y',
  sgx: 'N',
  unrestricted_guest: 'Y',
  vmentry_l1d_flush: 'not required',
  vnmi: 'Y',
  vpid: 'Y',
};

/** The "vmx flags" of /proc/cpuinfo. Source: Linux, arch/x86/include/asm/vmxfeatures.h. */
const VMX_FLAGS =
  'vnmi preemption_timer posted_intr invvpid ept_x_only ept_ad ept_1gb flexpriority apicv tsc_offset vtpr mtf vapic ' +
  'ept vpid unrestricted_guest vapic_reg vid ple shadow_vmcs pml ept_mode_based_exec tsc_scaling';

const MODES = ['real', 'protected', '32-bit', 'PAE', 'long'];
const KINDS = ['cpuid', 'out', 'hlt', 'touch'];

export function expectBench(printed: string): void {
  const lines = printed.split('\n').filter((line) => line.includes(' ticks each'));
  expect(lines.map((line) => line.split(/ +/).slice(0, 2).join(' '))).toEqual(
    MODES.flatMap((mode) => KINDS.map((kind) => `${mode} ${kind}`)),
  );
  expect(printed).not.toMatch(/WRONG|FAILED/);
  expect(printed).toContain('small-vmm: bench all right\n');
}

const parametersOf = (l1: L1): Record<string, string> =>
  Object.fromEntries(
    l1
      .run('cd /sys/module/kvm_intel/parameters; grep . *; cd')
      .split('\n')
      .filter(Boolean)
      .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]),
  );

/** kvm_intel's parameters, and what they must say once it is loaded with them. */
/** What goes with ept=0; shadow paging costs nothing more for a guest with fewer physical-address bits. Source: vmx_init(). */
const NO_EPT = { ept: 'N', eptad: 'N', unrestricted_guest: 'N', pml: 'N', allow_smaller_maxphyaddr: 'Y' };

const OPTIONS: readonly (readonly [text: string, changed: Readonly<Record<string, string>>])[] = [
  ['', {}],
  ['ept=0', NO_EPT],
  ['unrestricted_guest=0', { unrestricted_guest: 'N' }],
  ['vpid=0', { vpid: 'N' }],
  ['enable_apicv=0', { enable_apicv: 'N' }],
  ['enable_shadow_vmcs=0', { enable_shadow_vmcs: 'N' }],
  ['pml=0', { pml: 'N' }],
  ['preemption_timer=0', { preemption_timer: 'N' }],
  ['eptad=0', { eptad: 'N', pml: 'N' }],
  ['flexpriority=0 vnmi=0', { flexpriority: 'N', vnmi: 'N' }],
  ['ept=0 vpid=0 enable_apicv=0', { ...NO_EPT, vpid: 'N', enable_apicv: 'N' }],
];

function micro(l1: L1, option: string): void {
  l1.loadKvm(option);
  expectBench(l1.run('/vmm bench 50'));
  l1.cost(`micro-guests with "${option}"`);
}

export const optionScenarios: readonly Scenario[] = [
  {
    name: 'parameters',
    shows: "Debian's kvm_intel has every parameter on, the kernel every VMX flag, and micro-guests run in every mode",
    ci: true,
    run(say) {
      const l1 = L1.boot(say);
      const parameters = parametersOf(l1);
      say(
        Object.entries(parameters)
          .map(([name, value]) => `${name}=${value}`)
          .join(' '),
      );
      expect(parameters).toEqual(PARAMETERS);
      say(l1.run('cd /sys/module/kvm/parameters; grep . *; cd').replaceAll('\n', ' '));
      const info = l1.run('grep -E "^(model name|flags|vmx flags)" /proc/cpuinfo | head -3');
      say(info);
      expect(info).toMatch(/^flags.*\bvmx\b.*\bept\b/m);
      expect(info.match(/^vmx flags\t: (.*)$/m)?.[1]).toBe(VMX_FLAGS);
      for (const option of ['', 'unrestricted_guest=0', 'ept=0 vpid=0']) micro(l1, option);
      l1.expectQuiet();
      l1.powerOff();
    },
  },
  {
    name: 'options',
    shows: 'the same Debian with two CPUs is an L2 under kvm_intel with each of its parameters switched off',
    run(say) {
      const l1 = L1.boot(say);
      for (const [option, changed] of OPTIONS) {
        l1.loadKvm(option);
        expect(parametersOf(l1), option).toEqual({ ...PARAMETERS, ...changed });
        l1.startL2('--mem 256 --smp 2');
        l1.exerciseL2(2);
        l1.endL2();
        l1.cost(`L2 with "${option}"`);
      }
      l1.powerOff();
    },
  },
];

const MACHINES: readonly (readonly [name: string, shows: string, options: Partial<MachineOptions>, ci?: true])[] = [
  ['smp', 'two vCPUs in L1 and two in L2', { cpus: 2 }, true],
  ['mmu-reinit', '-machine nested-mmu=reinit', { nestedMmu: 'reinit' }],
  ['mmu-shared', '-machine nested-mmu=shared', { nestedMmu: 'shared' }],
  ['tdp-off', '-machine tdp=off: L0 shadows L1, so that L1 has no EPT', { tdp: false }],
];

export const machineScenarios: readonly Scenario[] = MACHINES.map(([name, shows, options, ci]) => ({
  name,
  shows: `Debian is an L2 of Debian with ${shows}; with EPT and without`,
  ...(ci ? { ci } : {}),
  run(say) {
    const l1 = L1.boot(say, {}, options);
    for (const option of options.tdp === false ? [''] : ['', 'ept=0']) {
      l1.loadKvm(option);
      say(`ept=${parametersOf(l1)['ept']}`);
      l1.startL2('--mem 256 --smp 2');
      l1.exerciseL2(2);
      l1.endL2();
      l1.cost(`L2 with "${option}"`);
    }
    l1.powerOff();
  },
}));
