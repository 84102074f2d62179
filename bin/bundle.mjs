/**
 * Loads dist/tools/bundle/terrarium.cjs, all of src in one file (scripts/bundle.mjs makes it).
 *
 * MEASURED on Node 20: three hundred modules take 180 ms to load one by one, one file 70, and 30 with the code cache beside
 * it: what V8 compiled of it in a short run when it was built. V8 itself refuses a cache of another version, or one made under
 * other flags; one of another build is not offered to it. Without a cache everything works, and starts later. So it is with the
 * core module, which the bundle looks for where it is told (src/tools/jit-cache).
 */
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

const DIST = fileURLToPath(new URL('../dist', import.meta.url));

/** In the bundle's first line, before the name of this build; its cache begins with that name. */
export const HEADER = '// terrarium ';
export const NAME_LENGTH = 16;

export const bundlePath = (dist = DIST) => `${dist}/tools/bundle/terrarium.cjs`;
export const modulesPath = (dist = DIST) => `${dist}/tools/bundle/terrarium.modules`;
export const cachePath = (dist = DIST) => `${dist}/tools/bundle/terrarium.cache`;

/** The name of a build, from the text of its bundle. */
export const nameOf = (text) => text.slice(HEADER.length, HEADER.length + NAME_LENGTH);

// The namespace of node:fs as a module would load all that is behind its getters: 5 ms
const require = createRequire(import.meta.url);
const fs = require('node:fs');

export const isBuilt = (dist = DIST) => fs.existsSync(bundlePath(dist));

/** @returns  What the bundle exports. */
export async function loadBundle(dist = DIST) {
  return (await loadScript(dist)).exports;
}

/** The same with the script that it comes from. */
export async function loadScript(dist = DIST) {
  // Flags are part of what V8 compares a cache with
  const { once, prepareV8 } = await import(pathToFileURL(`${dist}/tools/v8-flags.js`).href);
  prepareV8();
  const filename = bundlePath(dist);
  const text = fs.readFileSync(filename, 'latin1');
  const script = new (require('node:vm').Script)(text, { filename, ...readCache(dist, nameOf(text)) });
  const module = { exports: {} };
  Error.prepareStackTrace = stackMapper(filename);
  once(() => script.runInThisContext()(module.exports, require, module, filename));
  module.exports.nameBuild?.(nameOf(text), modulesPath(dist));
  return { exports: module.exports, script };
}

function readCache(dist, name) {
  try {
    const bytes = fs.readFileSync(cachePath(dist));
    return bytes.latin1Slice(0, NAME_LENGTH) === name ? { cachedData: bytes.subarray(NAME_LENGTH) } : {};
  } catch {
    return {}; // none here
  }
}

/** Where the code at a line and column of the bundle, from 1, is in src: "FILE:LINE:COLUMN", or undefined. */
export function sourceMapper(filename) {
  const { SourceMap } = require('node:module');
  const map = new SourceMap(JSON.parse(fs.readFileSync(`${filename}.map`, 'utf8')));
  return (line, column) => {
    const { originalSource, originalLine, originalColumn } = map.findEntry(line - 1, column - 1);
    if (originalSource === undefined) return undefined;
    const file = require('node:path').resolve(filename, '..', originalSource);
    return `${file}:${originalLine + 1}:${originalColumn + 1}`;
  };
}

/** Lets stack traces name files and lines of src, as --enable-source-maps does for what Node loads itself. */
function stackMapper(filename) {
  let source;
  const described = (frame) => {
    const text = frame.toString();
    if (frame.getFileName() !== filename) return text;
    try {
      source ??= sourceMapper(filename);
    } catch {
      return text; // no map here
    }
    const place = source(frame.getLineNumber(), frame.getColumnNumber());
    return place === undefined
      ? text
      : text.replace(`${filename}:${frame.getLineNumber()}:${frame.getColumnNumber()}`, place);
  };
  return (error, frames) => [Error.prototype.toString.call(error), ...frames.map(described)].join('\n    at ');
}
