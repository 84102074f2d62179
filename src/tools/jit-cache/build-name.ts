/** Which build this is, if it is the bundle: what two builds generate is not to be mixed up. */
export interface Build {
  readonly name: string;
  /** The file of modules that came with it, if it is there. */
  readonly modules: string;
}
let known: Build | undefined;

/** Said by who has loaded the bundle (bin/bundle.mjs). */
export function nameBuild(name: string, modules: string): void {
  known = { name, modules };
}

/** Undefined: modules one by one, of which nobody knows whether they are of one build. */
export const buildNamed = (): Build | undefined => known;
