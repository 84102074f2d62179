import { readFileSync } from 'node:fs';

/** Of package.json, three folders above dist/tools/cli. */
export const packageFolder = new URL('../../../', import.meta.url);

export function versionText(): string {
  const { version } = JSON.parse(readFileSync(new URL('package.json', packageFolder), 'utf8')) as { version: string };
  return `Terrarium ${version}, Node ${process.versions.node}`;
}
