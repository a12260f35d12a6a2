/**
 * Fields behind a chunked body (PROTOCOL §4, RFC 9110 §6.5).
 *
 * Whoever receives them may merge them into the head, which was judged without them. So what frames,
 * routes, authenticates or modifies a message never passes, in either direction, and is left out
 * without a word: a message means the same without it.
 */
import type { Headers } from '../wire/control.js';
import { checkHeaders, HttpFault, isFieldValue, isToken, trim } from './head.js';

/** The most bytes of trailers, and the most fields. */
export const MAX_TRAILERS = 8 * 1024;
export const MAX_TRAILER_FIELDS = 128;

/** What RFC 9110 §6.5.1 forbids, and what tells how the body is to be read. */
const NEVER = new Set([
  'accept',
  'accept-charset',
  'accept-encoding',
  'accept-language',
  'accept-ranges',
  'age',
  'allow',
  'alt-svc',
  'authentication-info',
  'authorization',
  'cache-control',
  'clear-site-data',
  'connection',
  'content-disposition',
  'content-encoding',
  'content-language',
  'content-length',
  'content-location',
  'content-range',
  'content-security-policy',
  'content-type',
  'cookie',
  'date',
  'destination',
  'expect',
  'expires',
  'from',
  'host',
  'http2-settings',
  'keep-alive',
  'last-modified',
  'location',
  'max-forwards',
  'origin',
  'pragma',
  'proxy',
  'range',
  'referer',
  'refresh',
  'retry-after',
  'set-cookie',
  'strict-transport-security',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'vary',
  'www-authenticate',
]);

/** Fields of a kind, and those that programs take for others: `_` is read as `-`. */
const NEVER_OF_A_KIND = /^(?:if-|proxy-|sec-|access-|x-forwarded-|forwarded$|x-real-ip$)|_/;

/** Whether a field of this name means behind a body what it says, and no more. */
function mayTrail(name: string): boolean {
  const lower = name.toLowerCase();
  return !NEVER.has(lower) && !NEVER_OF_A_KIND.test(lower);
}

/** Lines behind the last chunk, as the fields that pass. What is no field is left out. */
export function trailersOf(lines: readonly string[]): Headers {
  const fields: Headers = [];
  for (const line of lines) {
    const colon = line.indexOf(':');
    const name = line.slice(0, Math.max(colon, 0));
    const value = trim(line.slice(colon + 1));
    if (isToken(name) && isFieldValue(value) && mayTrail(name)) fields.push([name, value]);
  }
  return fields;
}

/** The end of a chunked body with a peer's trailers, as far as they may pass. Throws `HttpFault`. */
export function lastChunk(trailers: Headers): string {
  const octets = trailers.reduce((sum, [name, value]) => sum + name.length + value.length, 0);
  if (octets > MAX_TRAILERS || trailers.length > MAX_TRAILER_FIELDS) {
    throw new HttpFault('trailers that are too long');
  }
  checkHeaders(trailers);
  let text = '0\r\n';
  for (const [name, value] of trailers) if (mayTrail(name)) text += `${name}: ${value}\r\n`;
  return `${text}\r\n`;
}
