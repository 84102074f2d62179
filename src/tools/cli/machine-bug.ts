/** Our own mistake while a machine ran: `cause` says which, `state` where the machine stood. */
export class MachineBug extends Error {
  override readonly name = 'MachineBug';
  readonly state: string;

  constructor(cause: unknown, state: string) {
    super('a machine met a bug of Terrarium', { cause });
    this.state = state;
  }
}
