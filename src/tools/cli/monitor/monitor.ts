/**
 * The monitor: QEMU's commands, as far as this machine has what they act on. Rows; `help` is printed from them.
 *
 * Knows   the terminal not at all: a line in, text out.
 */

import { nearIfAny } from '../../../arch/cpu-models.ts';
import { UserError } from '../../../base/assert.ts';
import { hex } from '../../../base/format.ts';
import { GuestView } from '../../../inspect/guest-view.ts';
import { snapshotRegisters } from '../../../inspect/registers.ts';
import type { Machine } from '../../../machine/machine.ts';
import type { JitCache } from '../../jit-cache/jit-cache.ts';
import { parseInteger } from '../sizes.ts';
import { table } from '../tables.ts';
import { formatDump, parseDumpFormat } from './dump.ts';
import { evaluate } from './expression.ts';
import { INFO } from './info-tables.ts';

/** What the monitor may do to the run loop. */
export interface SessionControl {
  readonly isStopped: boolean;
  stop(): void;
  resume(): void;
  quit(status: number): void;
  /** Native code of earlier runs, if this run uses it. */
  readonly jitCache: JitCache | undefined;
}

export interface MonitorContext {
  readonly machine: Machine;
  readonly session: SessionControl;
  /** Current CPU: whose registers and memory are shown. */
  cpu: number;
}

interface CommandRow {
  readonly names: readonly [string, ...string[]];
  readonly usage: string;
  readonly help: string;
  run(context: MonitorContext, args: readonly string[], monitor: Monitor): string;
}

const COMMANDS: readonly CommandRow[] = [
  {
    names: ['help', '?'],
    usage: '[COMMAND]',
    help: 'this list, or one of its lines',
    run: (_context, args) => help(args),
  },
  { names: ['info'], usage: 'WHAT', help: 'shows something; "info" alone lists what', run: info },
  {
    names: ['x'],
    usage: '/FMT ADDRESS',
    help: 'linear memory of the current CPU: /8xg shows 8 giant words in hexadecimal (x d u o c; b h w g)',
    run: (context, args) => examine(context, args, true),
  },
  {
    names: ['xp'],
    usage: '/FMT ADDRESS',
    help: 'the same for guest-physical memory',
    run: (context, args) => examine(context, args, false),
  },
  {
    names: ['gva2gpa'],
    usage: 'ADDRESS',
    help: 'the guest-physical address behind a linear one',
    run: (context, args) => {
      const vcpu = context.machine.vcpus[context.cpu]!;
      const found = new GuestView(vcpu).translate(address(context, args.join(' ')));
      if (!found) return 'Unmapped';
      const behind =
        found.physical === found.guestPhysical
          ? ''
          : `, L1-physical ${found.physical < 0 ? 'unmapped' : hex(found.physical)}`;
      return `gpa: ${hex(found.guestPhysical)}${behind}`;
    },
  },
  {
    names: ['print', 'p'],
    usage: 'EXPRESSION',
    help: 'value of an expression such as $rsp+8',
    run: (context, args) => hex(address(context, args.join(' '))),
  },
  {
    names: ['cpu'],
    usage: 'N',
    help: 'makes CPU N the current one',
    run: (context, args) => {
      context.cpu = parseInteger('cpu', args[0] ?? '', 0, context.machine.vcpus.length - 1);
      return '';
    },
  },
  {
    names: ['stop', 's'],
    usage: '',
    help: 'stops the guest',
    run: ({ session }) => {
      session.stop();
      return '';
    },
  },
  {
    names: ['cont', 'c'],
    usage: '',
    help: 'lets it run on',
    run: ({ session, machine }) => {
      if (machine.ending) return `the machine is over: ${machine.ending.message}`;
      session.resume();
      return '';
    },
  },
  {
    names: ['system_reset'],
    usage: '',
    help: 'resets the machine',
    run: ({ machine }) => {
      machine.reset('asked for in the monitor');
      return '';
    },
  },
  {
    names: ['system_powerdown'],
    usage: '',
    help: 'presses the power button',
    run: ({ machine }) => {
      machine.pressPowerButton();
      return '';
    },
  },
  {
    names: ['nmi'],
    usage: '',
    help: 'a pulse on the NMI line: LINT1 of every local APIC',
    run: ({ machine }) => {
      machine.vm.irq.setNmi(true);
      machine.vm.irq.setNmi(false);
      return '';
    },
  },
  {
    names: ['quit', 'q'],
    usage: '[STATUS]',
    help: 'ends Terrarium',
    run: ({ session }, args) => {
      session.quit(args[0] === undefined ? 0 : parseInteger('quit', args[0], 0, 255));
      return '';
    },
  },
];

export class Monitor {
  readonly context: MonitorContext;

  constructor(machine: Machine, session: SessionControl) {
    this.context = { machine, session, cpu: 0 };
  }

  /** Runs one line. A user's mistake is an answer, too. */
  execute(line: string): string {
    const { name, args } = splitCommand(line);
    if (name === '') return '';
    try {
      return commandNamed(name).run(this.context, args, this);
    } catch (error) {
      if (error instanceof UserError) return error.message;
      throw error;
    }
  }
}

/** `x/8xg $rsp` has no space before its format: the command is `x` all the same. */
export function splitCommand(line: string): { name: string; args: string[] } {
  const [first = '', ...args] = line.trim().split(/\s+/);
  const slash = first.indexOf('/');
  return slash > 0 ? { name: first.slice(0, slash), args: [first.slice(slash), ...args] } : { name: first, args };
}

function commandNamed(name: string): CommandRow {
  const found = COMMANDS.find(({ names }) => names.includes(name));
  if (found) return found;
  const close = nearIfAny(
    name,
    COMMANDS.flatMap(({ names }) => names),
  );
  throw new UserError(`there is no command "${name}".${close ? ` Did you mean ${close}?` : ''} "help" lists them.`);
}

function help(args: readonly string[]): string {
  const rows = args[0] === undefined ? COMMANDS : [commandNamed(args[0])];
  return table([
    ['command', 'what it does'],
    ...rows.map((row) => [`${row.names.join('|')} ${row.usage}`.trim(), row.help]),
  ]);
}

function info(context: MonitorContext, args: readonly string[]): string {
  const [what, ...rest] = args;
  if (what === undefined) return table([['info', 'shows'], ...INFO.map((row) => [row.name, row.help])]);
  const row = INFO.find(({ name }) => name === what);
  if (!row) {
    const close = nearIfAny(
      what,
      INFO.map(({ name }) => name),
    );
    const guess = close ? ` Did you mean info ${close}?` : '';
    throw new UserError(`there is no "info ${what}".${guess} "info" lists them.`);
  }
  return row.show(context, rest);
}

const address = ({ machine, cpu }: MonitorContext, text: string): bigint =>
  evaluate(text, snapshotRegisters(machine.vcpus[cpu]!));

function examine(context: MonitorContext, args: readonly string[], linear: boolean): string {
  const [first = '', ...rest] = args;
  const hasFormat = first.startsWith('/');
  const format = parseDumpFormat(hasFormat ? first : '/x');
  const where = address(context, (hasFormat ? rest : args).join(' '));
  const view = new GuestView(context.machine.vcpus[context.cpu]!);
  const bytes = new Uint8Array(format.count * format.bytes);
  const valid = linear ? view.readLinear(where, bytes) : view.readPhysical(Number(where), bytes);
  return formatDump(where, bytes, valid, format);
}
