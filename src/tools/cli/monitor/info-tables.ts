/** `info …` of the monitor: one row a table, each a reader of the machine. */
import { byteSize, hex } from '../../../base/format.ts';
import { type CounterSnapshot, snapshotCounters } from '../../../inspect/counters.ts';
import { GuestView, type Mapping } from '../../../inspect/guest-view.ts';
import { formatFloatRegisters, formatRegisters } from '../../../inspect/register-text.ts';
import { snapshotRegisters } from '../../../inspect/registers.ts';
import { grouped, nonZero, table } from '../tables.ts';
import { versionText } from '../version.ts';
import type { MonitorContext } from './monitor.ts';

export interface InfoRow {
  readonly name: string;
  readonly help: string;
  show(context: MonitorContext, args: readonly string[]): string;
}

export const INFO: readonly InfoRow[] = [
  {
    name: 'registers',
    help: 'registers of the current CPU; -a: of all',
    show: ({ machine, cpu }, args) =>
      (args.includes('-a') ? machine.vcpus : [machine.vcpus[cpu]!])
        .map((vcpu) => {
          const registers = snapshotRegisters(vcpu);
          return `${formatRegisters(registers)}\n${formatFloatRegisters(registers)}`;
        })
        .join('\n\n'),
  },
  {
    name: 'cpus',
    help: 'every CPU: what it does and where it is; * is the current one',
    show: ({ machine, cpu }) =>
      machine.vcpus
        .map((vcpu) => {
          const { rip, mode, level, activity, instructions } = snapshotRegisters(vcpu);
          return `${vcpu.index === cpu ? '*' : ' '} CPU #${vcpu.index}: ${activity}, ${level}, ${mode}, rip=${hex(rip)}, ${grouped(instructions)} instructions`;
        })
        .join('\n'),
  },
  {
    name: 'mem',
    help: "what the current CPU's page tables map, neighbours of equal rights as one",
    show: showMappings,
  },
  {
    name: 'exits',
    help: 'exits to L0 by reason',
    show: ({ machine }) => exitTable(snapshotCounters(machine.vm)),
  },
  {
    name: 'mmu',
    help: 'counters of the MMU; those that are 0 are left out (all: with them)',
    show: ({ machine }, args) => counterTable(snapshotCounters(machine.vm).mmu, args.includes('all')),
  },
  {
    name: 'tlb',
    help: 'TLB contexts and counters',
    show: ({ machine }, args) => {
      const contexts = [...machine.engine.processor.tlb.names()].map((each) => [
        `${each.context}`,
        `${each.vcpu}`,
        `${each.vpid}`,
        `${each.root}`,
        `${each.pcid}`,
        each.dirty === 0 ? 'empty' : 'filled',
      ]);
      return `${table([['context', 'cpu', 'vpid', 'root', 'pcid', 'holds'], ...contexts])}\n\n${counterTable(
        snapshotCounters(machine.vm).tlb,
        args.includes('all'),
      )}`;
    },
  },
  {
    name: 'jit',
    help: 'decoded and compiled code: what is alive, what was lost, the longest pause, what earlier runs left',
    show: showCode,
  },
  { name: 'lapic', help: "the current CPU's local APIC", show: showLocalApic },
  { name: 'pic', help: 'the 8259 pair and the I/O APIC', show: showControllers },
  {
    name: 'timers',
    help: 'timers that are armed, in the order in which they fire',
    show: ({ machine }) => {
      const now = machine.vm.clock.nowNs();
      const armed = machine.vm.clock.armed().sort((a, b) => a.deadlineNs - b.deadlineNs);
      if (armed.length === 0) return 'no timer is armed';
      return table([
        ['timer', 'in ns', 'at ns'],
        ...armed.map(({ name, deadlineNs }) => [name, grouped(deadlineNs - now), grouped(deadlineNs)]),
      ]);
    },
  },
  {
    name: 'mtree',
    help: 'RAM, and which device answers at which ports and addresses',
    show: ({ machine }) => {
      const ram = machine.vm.mmu.slots.all.map((slot) => ({
        space: 'memory' as const,
        first: slot.baseGfn * 4096,
        end: (slot.lastGfn + 1) * 4096,
        name: slot.readOnly ? 'ROM' : 'RAM',
      }));
      const all = [...ram, ...machine.bus.ranges()].sort((a, b) => a.first - b.first);
      const section = (space: 'memory' | 'port', digits: number) =>
        all
          .filter((range) => range.space === space)
          .map(({ first, end, name }) => `  ${hex(first, digits).slice(2)}-${hex(end - 1, digits).slice(2)}  ${name}`)
          .join('\n');
      return `memory\n${section('memory', 12)}\nports\n${section('port', 4)}`;
    },
  },
  {
    name: 'unclaimed',
    help: 'ports, pages and MSRs that the guest asked for and nobody answered',
    show: ({ machine }) => {
      const rows = [
        ...[...machine.bus.unclaimed].map(([place, count]) => [place, grouped(count)]),
        ...Object.entries(snapshotCounters(machine.vm).refusedMsrs).map(([index, count]) => [
          `MSR ${index}`,
          grouped(count),
        ]),
      ];
      return rows.length === 0 ? 'none' : table([['place', 'accesses'], ...rows]);
    },
  },
  {
    name: 'status',
    help: 'running, stopped or over; virtual time',
    show: ({ machine, session }) => {
      const state = machine.ending ? `ended: ${machine.ending.message}` : session.isStopped ? 'paused' : 'running';
      return `VM status: ${state}, ${grouped(machine.vm.clock.nowNs())} ns of virtual time`;
    },
  },
  { name: 'version', help: 'version of Terrarium', show: () => versionText() },
];

export function exitTable({ exits, instructions }: CounterSnapshot): string {
  const total = Object.values(exits).reduce((sum, count) => sum + count, 0);
  if (total === 0) return 'no exits yet';
  const rows = Object.entries(exits).map(([name, count]) => [
    name,
    grouped(count),
    `${((100 * count) / total).toFixed(1)} %`,
  ]);
  const rate = Math.round(instructions / total);
  return `${table([['exit', 'count', 'share'], ...rows])}\n${grouped(total)} exits, one in ${grouped(rate)} instructions`;
}

export function counterTable(counters: Readonly<Record<string, number>>, all: boolean): string {
  const rows = all
    ? Object.entries(counters).map(([name, value]): [string, string] => [name, grouped(value)])
    : nonZero(counters);
  return rows.length === 0 ? 'all counters are 0' : table([['counter', 'value'], ...rows]);
}

function showCode({ machine, session }: MonitorContext): string {
  const { code, jit, instructions } = snapshotCounters(machine.vm);
  const decoded = counterTable(code, true);
  if (!jit) return `${decoded}\n\nnothing is compiled: -accel compiler does that`;
  const { lockstep } = jit;
  const per = (many: number, few: number): string => (few === 0 ? '-' : (many / few).toFixed(1));
  const rows: [string, string][] = [
    ['regions alive', grouped(jit.regions)],
    ['WebAssembly alive', `${byteSize(jit.bytes)} of at most ${byteSize(jit.bytesMax)} (-accel …,tb-size=)`],
    [
      'compiled',
      `${grouped(jit.compiled)} regions in ${grouped(jit.modules)} modules, after ${grouped(jit.threshold)} runs (-accel …,threshold=)`,
    ],
    [
      'instructions in them',
      `${grouped(jit.compiledInstructions)}, ${per(jit.compiledBytes, jit.compiledInstructions)} bytes of WebAssembly each`,
    ],
    ['ran in them', `${grouped(jit.retired)} instructions, ${per(100 * jit.retired, instructions)} % of all`],
    ['lost', `${grouped(jit.lost)} because their code changed, ${grouped(jit.aged)} to make room`],
    ['time', `${jit.ms.toFixed(1)} ms in the compiler, the longest pause ${jit.longestMs.toFixed(1)} ms`],
  ];
  if (lockstep)
    rows.push([
      'lockstep',
      `${grouped(lockstep.compared)} calls of regions compared, ${grouped(lockstep.instructions)} instructions`,
    ]);
  const { jitCache } = session;
  if (jitCache?.contents) {
    const { path, modules, bytes, pages } = jitCache.contents;
    const { hits, misses, refused, taken, writes } = jitCache.counters;
    rows.push(
      ['kept from earlier runs', `${grouped(modules)} modules, ${byteSize(bytes)}, in ${path} (-jit-cache)`],
      [
        'asked for',
        `${grouped(hits + misses + refused)} modules: ${grouped(hits)} found, ${grouped(misses)} not, ${grouped(refused)} of no use`,
      ],
      [
        'known from earlier runs',
        `${grouped(pages)} pages; ${grouped(code.known)} of ${grouped(code.pages)} here were among them: their hot code is compiled early`,
      ],
      ['kept for later runs', `${grouped(taken)} modules, in ${grouped(writes)} writings`],
    );
  }
  return `${decoded}\n\n${table([['compiled code', ''], ...rows])}`;
}

function showMappings({ machine, cpu }: MonitorContext): string {
  const { list, complete } = new GuestView(machine.vcpus[cpu]!).mappings();
  if (list.length === 0) return 'PG disabled';
  const lines = list.map((mapping) => {
    const digits = (value: bigint) => BigInt.asUintN(64, value).toString(16).padStart(16, '0');
    return `${digits(mapping.linear)}-${digits(mapping.linear + mapping.bytes)} ${digits(mapping.bytes)} ${rights(mapping)}`;
  });
  if (!complete) lines.push('… the tables have more entries than are looked at');
  return lines.join('\n');
}

const rights = ({ user, writable, executable }: Mapping): string =>
  `${user ? 'u' : '-'}r${writable ? 'w' : '-'}${executable ? 'x' : '-'}`;

/** Vectors whose bit is set in a 256-bit register of the APIC page. */
function vectorsIn(words: readonly number[], offset: number): string {
  const found: string[] = [];
  for (let vector = 0; vector < 256; vector += 1) {
    const word = words[(offset + 16 * (vector >>> 5)) >>> 2]!;
    if ((word >>> (vector & 31)) & 1) found.push(hex(vector, 2));
  }
  return found.join(' ') || '-';
}

function showLocalApic({ machine, cpu }: MonitorContext): string {
  const apic = machine.vcpus[cpu]!.apic;
  const { words, baseLo } = apic.save();
  const at = (offset: number) => hex(words[offset >>> 2]!, 8);
  const mode = apic.isX2apic ? 'x2APIC' : apic.isEnabled ? 'xAPIC' : 'disabled';
  return [
    `APIC ${apic.initialId}: ${mode}${apic.isBsp ? ', boot processor' : ''}, IA32_APIC_BASE ${hex(baseLo, 8)}`,
    `TPR ${at(0x80)}  LDR ${at(0xd0)}  DFR ${at(0xe0)}  SVR ${at(0xf0)}  ESR ${at(0x280)}  ICR ${at(0x310)}:${at(0x300)}`,
    `LVT  timer ${at(0x320)}  thermal ${at(0x330)}  perf ${at(0x340)}  LINT0 ${at(0x350)}  LINT1 ${at(0x360)}  error ${at(0x370)}`,
    `timer  initial count ${at(0x380)}  divide ${at(0x3e0)}`,
    `ISR  ${vectorsIn(words, 0x100)}`,
    `IRR  ${vectorsIn(words, 0x200)}`,
  ].join('\n');
}

function showControllers({ machine }: MonitorContext): string {
  const { pic, ioApic, extInt } = machine.vm.irq.save();
  const chip = (name: string, state: typeof pic.master) =>
    `${name}: irr=${hex(state.irr, 2)} imr=${hex(state.imr, 2)} isr=${hex(state.isr, 2)} base=${hex(state.vectorBase, 2)} ` +
    `elcr=${hex(state.elcr, 2)} lines=${hex(state.lines, 2)} aeoi=${(state.icw4 >>> 1) & 1}`;
  const entries = Array.from({ length: ioApic.low.length }, (_, pin) => {
    const low = ioApic.low[pin]!;
    const destination = hex(ioApic.high[pin]! >>> 24, 2);
    const delivery = ['fixed', 'lowest', 'SMI', '3', 'NMI', 'INIT', '6', 'ExtINT'][(low >>> 8) & 7]!;
    return [
      `${pin}`,
      hex(low & 0xff, 2),
      delivery,
      low & 0x800 ? `logical ${destination}` : `physical ${destination}`,
      low & 0x8000 ? 'level' : 'edge',
      low & 0x2000 ? 'low' : 'high',
      low & 0x1_0000 ? 'masked' : 'open',
      low & 0x4000 ? 'remote IRR' : '',
    ];
  });
  return [
    chip('8259 master', pic.master),
    chip('8259 slave ', pic.slave),
    `ExtINT waits for ${extInt.flatMap((waits, index) => (waits ? [`CPU #${index}`] : [])).join(' ') || 'no CPU'}`,
    table([['pin', 'vector', 'delivery', 'to', 'trigger', 'active', 'mask', ''], ...entries]),
  ].join('\n');
}
