/** Our own mistake: a broken invariant, named by its message. Never thrown for what a guest or a user does. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError';
}

export function assert(condition: boolean, invariant: string): asserts condition {
  if (!condition) throw new InvariantError(`broken invariant: ${invariant}`);
}

/** For the arm that the types say cannot be reached. */
export function unreachable(value: never, what: string): never {
  throw new InvariantError(`broken invariant: ${what} has no case for ${String(value)}`);
}

/** A user's mistake: one sentence with what was expected, what was found and what to do. Exit code 2. */
export class UserError extends Error {
  override readonly name = 'UserError';
}
