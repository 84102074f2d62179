/** Which build this is, if it is the bundle: what two builds generate is not to be mixed up. */
let name = '';

/** Said by who has loaded the bundle (bin/bundle.mjs). */
export function nameBuild(given: string): void {
  name = given;
}

/** `''`: modules one by one, of which nobody knows whether they are of one build. */
export const buildName = (): string => name;
