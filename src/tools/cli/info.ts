/** `terrarium info`: what the machine offers, from the tables it is made of. */
import { ALL_MODELS, type CpuModel, nearest, parseCpu, shownFeatures } from '../../arch/cpu-models.ts';
import { CpuidPolicy } from '../../arch/cpuid.ts';
import { FEATURE_NAMES, featureRow } from '../../arch/cpuid-features.ts';
import { MSRS, type MsrRow, msrExists } from '../../arch/msrs.ts';
import { FULL_OFFER } from '../../arch/vmx/capabilities.ts';
import { offers, VMX_PART_NAMES } from '../../arch/vmx/offer-names.ts';
import { UserError } from '../../base/assert.ts';
import { byteSize, hex } from '../../base/format.ts';
import { CAPABILITIES } from '../../hypervisor/vm/vm.ts';
import { Machine } from '../../machine/machine.ts';
import { IRQ, LOW_RAM_MAX, PHYSICAL } from '../../pc/layout.ts';
import { HELP, json } from './common-options.ts';
import { DEVICES } from './device-options.ts';
import { describeOptions, type OptionRow, parseOptions, wrap } from './option-table.ts';
import { CPUS_MAX, RAM_MIN_BYTES } from './run-options.ts';
import { STATUS } from './status.ts';
import { table, toJson } from './tables.ts';

interface Topic {
  readonly name: string;
  readonly argument: string;
  readonly help: string;
  data(args: readonly string[]): unknown;
  /** The same as text. */
  text(args: readonly string[]): string;
}

const modelNamed = (args: readonly string[]): CpuModel => parseCpu(args[0] ?? 'intel').model;

/** What a guest sees of a model on this build. */
const shown = (model: CpuModel) => shownFeatures({ model, add: [], remove: [] }, CAPABILITIES);

const hasLess = (model: CpuModel): string[] => {
  const there = shown(model);
  return model.features.filter((name) => !there.has(name) && featureRow(name).needs !== 'live');
};

const modelData = (model: CpuModel) => ({
  name: model.name,
  brand: model.brand,
  vendor: model.vendorString,
  family: model.family,
  model: model.model,
  stepping: model.stepping,
  physicalAddressBits: model.physicalAddressBits,
  linearAddressBits: model.linearAddressBits,
  features: [...shown(model)],
  notYet: hasLess(model),
});

function msrRows(model: CpuModel): MsrRow[] {
  const policy = new CpuidPolicy({ model, add: [], remove: [] }, { cpus: 1, apicId: 0, capabilities: CAPABILITIES });
  return MSRS.filter((row) => msrExists(row, policy));
}

const writable = ({ writable: mask }: MsrRow): string =>
  typeof mask === 'string' ? mask : hex((BigInt(mask[0]) << 32n) | BigInt(mask[1] >>> 0), 16);

/** What is where, on a machine that has everything. PCI devices in the window find their place at the start. */
function devices() {
  const machine = new Machine({
    cpu: 'intel',
    ramBytes: RAM_MIN_BYTES,
    cpus: 1,
    epochMs: 0,
    serial: [() => {}, () => {}, () => {}, () => {}],
    debugExit: { iobase: 0x501, iosize: 2 },
    testDevice: true,
    random: true,
  });
  const ranges = [...machine.bus.ranges()].sort((a, b) => a.first - b.first);
  const of = (space: 'port' | 'memory') =>
    ranges.filter((range) => range.space === space).map(({ first, end, name }) => ({ name, first, last: end - 1 }));
  const apic = { name: 'local APIC', first: PHYSICAL.LOCAL_APIC, last: PHYSICAL.LOCAL_APIC + 0xfff };
  return {
    ports: of('port'),
    memory: [...of('memory'), apic].sort((a, b) => a.first - b.first),
    interrupts: IRQ,
    optional: Object.entries(DEVICES).map(([name, { help }]) => ({ name, help })),
  };
}

const limits = () => ({
  cpus: CPUS_MAX,
  ramLeastBytes: RAM_MIN_BYTES,
  ramMost: 'what one WebAssembly memory of 4 GiB has left beside decoded code and TLBs: 3.9 GiB with one CPU',
  ramBelow4GiBytes: LOW_RAM_MAX,
  serialPorts: 4,
});

const TOPICS: readonly Topic[] = [
  {
    name: 'cpu',
    argument: '[MODEL]',
    help: 'CPU models; with a name: that model and its CPUID flags',
    data: (args) => (args.length > 0 ? modelData(modelNamed(args)) : ALL_MODELS.map(modelData)),
    text: (args) => (args.length > 0 ? modelText(modelNamed(args)) : modelList()),
  },
  {
    name: 'features',
    argument: '',
    help: 'every CPUID feature that -cpu knows by name',
    data: () => FEATURE_NAMES.map((name) => ({ name, ...featureRow(name), works: works(name) })),
    text: () =>
      table([
        ['feature', 'leaf', 'register', 'bit', 'level', 'here'],
        ...FEATURE_NAMES.map((name) => {
          const row = featureRow(name);
          const leaf = `${hex(row.leaf)}${row.subleaf > 0 ? `.${row.subleaf}` : ''}`;
          return [name, leaf, row.register, `${row.bit}`, row.level || '-', works(name) ? 'yes' : 'no'];
        }),
      ]),
  },
  {
    name: 'vmx',
    argument: '',
    help: 'parts of VMX by the names with which -cpu takes them away from an L1',
    data: () => VMX_PART_NAMES.map((name) => ({ name, works: offers(FULL_OFFER, name) })),
    text: () =>
      table([
        ['part of VMX', 'here'],
        ...VMX_PART_NAMES.map((name) => [name, offers(FULL_OFFER, name) ? 'yes' : 'no']),
      ]),
  },
  {
    name: 'msrs',
    argument: '[MODEL]',
    help: 'MSRs of a CPU model (intel)',
    data: (args) => msrRows(modelNamed(args)),
    text: (args) =>
      table([
        ['MSR', 'name', 'kept by', 'writable bits', 'note'],
        ...msrRows(modelNamed(args)).map((row) => [hex(row.index), row.name, row.owner, writable(row), row.because]),
      ]),
  },
  {
    name: 'devices',
    argument: '',
    help: 'devices, and where they are',
    data: devices,
    text: () => {
      const { ports, memory, optional } = devices();
      const span = (first: number, last: number, digits: number) => `${hex(first, digits)}-${hex(last, digits)}`;
      return [
        table([['ports', 'device'], ...ports.map(({ name, first, last }) => [span(first, last, 4), name])]),
        '',
        table([['memory', 'device'], ...memory.map(({ name, first, last }) => [span(first, last, 9), name])]),
        '',
        'On PCI: host bridge 440FX, ISA bridge PIIX3, power management PIIX4; virtio-blk for every -drive.',
        '',
        table([['-device', 'what'], ...optional.map(({ name, help }) => [name, help])]),
      ].join('\n');
    },
  },
  {
    name: 'limits',
    argument: '',
    help: 'what fits and what does not',
    data: limits,
    text: () => {
      const { cpus, ramLeastBytes, ramMost, ramBelow4GiBytes, serialPorts } = limits();
      return table([
        ['limit', 'value'],
        ['CPUs', `1 to ${cpus}`],
        ['RAM, at least', byteSize(ramLeastBytes)],
        ['RAM, at most', ramMost],
        ['RAM below 4 GiB', `${byteSize(ramBelow4GiBytes)}; the rest lies above 4 GiB`],
        ['serial ports', `${serialPorts}`],
      ]);
    },
  },
];

const works = (name: (typeof FEATURE_NAMES)[number]): boolean => CAPABILITIES.has(featureRow(name).needs);

const modelList = (): string =>
  table([
    ['model', 'brand', 'family', 'model', 'address bits'],
    ...ALL_MODELS.map((each) => [
      each.name,
      each.brand,
      `${each.family}`,
      `${each.model}`,
      `${each.physicalAddressBits}/${each.linearAddressBits}`,
    ]),
  ]);

function modelText(model: CpuModel): string {
  const { features, notYet } = modelData(model);
  const flags = (names: readonly string[]) => (names.length === 0 ? '  none' : wrap(names.join(' '), 100, 2));
  return `${model.name}: ${model.brand}
vendor ${model.vendorString}, family ${model.family}, model ${model.model}, stepping ${model.stepping}, microcode ${hex(model.microcode)}
${model.physicalAddressBits} bits of physical and ${model.linearAddressBits} of linear address
caches: ${model.caches.map((cache) => `L${cache.level} ${cache.type} ${byteSize(cache.bytes)}`).join(', ')}

flags (${features.length}):
${flags(features)}

the model has these too, but this build cannot do them yet, and a guest does not see them:
${flags(notYet)}`;
}

interface InfoOptions {
  json: boolean;
  help: boolean;
}

const OPTIONS: readonly OptionRow<InfoOptions>[] = [json('The same'), HELP];

const usage = (): string => `usage: terrarium info TOPIC [--json]

${TOPICS.map(({ name, argument, help }) => `  ${`${name} ${argument}`.padEnd(14)}${help}`).join('\n')}

${describeOptions(OPTIONS)}`;

export function info(argv: readonly string[]): number {
  const options: InfoOptions = { json: false, help: false };
  const [name, ...args] = parseOptions(OPTIONS, argv, options, 'info');
  if (options.help || (name === undefined && !options.json)) {
    process.stdout.write(usage());
    return STATUS.DONE;
  }
  if (name === undefined) {
    process.stdout.write(`${toJson(Object.fromEntries(TOPICS.map((topic) => [topic.name, topic.data([])])))}\n`);
    return STATUS.DONE;
  }
  const topic = TOPICS.find((each) => each.name === name);
  if (topic === undefined) {
    const close = nearest(
      name,
      TOPICS.map((each) => each.name),
    );
    throw new UserError(`there is no "terrarium info ${name}": did you mean "terrarium info ${close}"?`);
  }
  process.stdout.write(`${options.json ? toJson(topic.data(args)) : topic.text(args)}\n`);
  return STATUS.DONE;
}
