/** A user's mistake or a missing tool: one sentence with what was found and what to do. Exit status 2. */
export class UserError extends Error {}

/** Runs a script's main function; a UserError becomes one line on stderr. */
export async function runMain(name, main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    console.error(`${name}: ${error.message}`);
    process.exitCode = 2;
  }
}
