/** The command `terrarium`: which subcommand, and what becomes of errors. */
import { nearest } from '../../arch/cpu-models.ts';
import { UserError } from '../../base/assert.ts';
import { demo } from './demo.ts';
import { info } from './info.ts';
import { MachineBug } from './machine-bug.ts';
import { nested } from './nested.ts';
import { run } from './run.ts';
import { STATUS } from './status.ts';
import { versionText } from './version.ts';

interface Subcommand {
  readonly help: string;
  run(argv: readonly string[]): number | Promise<number>;
}

const SUBCOMMANDS: Readonly<Record<string, Subcommand>> = {
  run: {
    help: 'boots a kernel: terrarium run -kernel FILE …',
    run,
  },
  demo: {
    help: 'boots the guest that comes with Terrarium, and shows what ran',
    run: demo,
  },
  nested: {
    help: 'an L1 hypervisor and its L2 guests: what each switch reuses, and what it costs',
    run: nested,
  },
  info: {
    help: 'what the machine offers: CPU models, MSRs, devices, limits',
    run: info,
  },
};

const help = (): string =>
  `usage: terrarium COMMAND …

An x86-64 machine with hardware virtualization.

${Object.entries(SUBCOMMANDS)
  .map(([name, row]) => `  ${name.padEnd(8)}${row.help}`)
  .join('\n')}

"terrarium COMMAND --help" lists a command's options. --version says which Terrarium this is.
`;

/** @returns  The exit status; `status.ts` lists them. */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    return await dispatch(argv);
  } catch (error) {
    if (error instanceof UserError) {
      process.stderr.write(`terrarium: ${error.message}\n`);
      return STATUS.USER_ERROR;
    }
    const bug = error instanceof MachineBug ? error.cause : error;
    process.stderr.write(
      `terrarium: this is a bug of Terrarium's, not of the guest's: ${bug instanceof Error ? bug.stack : String(bug)}\n`,
    );
    if (error instanceof MachineBug) process.stderr.write(`${error.state}\n`);
    return STATUS.BUG;
  }
}

async function dispatch(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === 'help' || name === '-h' || name === '-help' || name === '--help') {
    (name === undefined ? process.stderr : process.stdout).write(help());
    return name === undefined ? STATUS.USER_ERROR : STATUS.DONE;
  }
  if (name === '-version' || name === '--version' || name === 'version') {
    process.stdout.write(`${versionText()}\n`);
    return STATUS.DONE;
  }
  const command = Object.hasOwn(SUBCOMMANDS, name) ? SUBCOMMANDS[name] : undefined;
  if (command === undefined) {
    const close = name.startsWith('-') ? 'run' : nearest(name, Object.keys(SUBCOMMANDS));
    const hint = name.startsWith('-')
      ? `write "terrarium run ${argv.join(' ')}"`
      : `did you mean "terrarium ${close}"?`;
    throw new UserError(`there is no command "${name}": ${hint}`);
  }
  return command.run(rest);
}
