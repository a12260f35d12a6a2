/**
 * A path of the server that visitors do not see: it stands in front of what they ask, and is taken
 * off what the server says of itself.
 *
 * Nothing leads out of it. Servers differ in how they read `..` (encoded, behind a backslash, with
 * parameters), and browsers resolve it before they ask; so what has it in any reading is refused
 * rather than resolved.
 */

const PLAIN = /^(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})+$/;

/** Whether `path` may be a prefix: it begins with a slash, ends with none, and reads the same for all. */
export function isGoodPrefix(path: string): boolean {
  if (!path.startsWith('/') || !PLAIN.test(path) || climbs(path)) return false;
  const parts = path.slice(1).split('/');
  return parts.every((part) => !['', '.'].includes(withoutParameters(decoded(part))));
}

/** Whether a part of the path of `target` means the one above it, in any reading. */
export function climbs(target: string): boolean {
  const path = decoded(target.split(/[?#]/, 1)[0] ?? '');
  return path.split(/[/\\]/).some((part) => withoutParameters(part) === '..');
}

/** `rest` of a URL, from its path on, behind `prefix`. */
export function putOn(prefix: string, rest: string): string {
  return prefix + (rest.startsWith('/') ? rest : `/${rest}`);
}

/** The same without `prefix`; undefined where it does not lie in there. */
export function takeOff(prefix: string, rest: string): string | undefined {
  if (prefix === '') return rest;
  if (!rest.startsWith(prefix)) return undefined;
  const inside = rest.slice(prefix.length);
  if (inside.startsWith('/')) return inside;
  return inside === '' || /^[?#]/.test(inside) ? `/${inside}` : undefined;
}

/**
 * Whether a reference that begins so stays on its host: `//` and what browsers take for it name
 * another.
 */
export function stays(path: string): boolean {
  return /^\/(?:[^\x00-\x20/\\]|$)/.test(path);
}

function decoded(text: string): string {
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) =>
    String.fromCharCode(parseInt(hex, 16)),
  );
}

function withoutParameters(part: string): string {
  return part.split(';', 1)[0] ?? '';
}
