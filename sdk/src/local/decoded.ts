/**
 * What a runtime's `fetch` has decoded, and still describes as it came.
 */
import { isNamed } from './head.js';
import type { Headers } from '../wire/control.js';

/** The codings that every runtime's `fetch` undoes; it leaves a body alone that has others, too. */
const UNDONE = /^(?:(?:x-)?gzip|deflate|br)$/;

/**
 * The fields of a response of which `headers` are those that it has. One that came from `fetch` has an
 * address, and a body that is decoded: its coding and its length are those of what came.
 */
export function decoded(response: Response, headers: Headers): Headers {
  // Responses that others made have not all of the properties.
  const { url } = response as Partial<Response>;
  if (url === undefined || url === '') return headers;
  const codings = headers
    .filter(([name]) => isNamed(name, 'content-encoding'))
    .flatMap(([, value]) => value.toLowerCase().split(','))
    .map((coding) => coding.trim());
  if (codings.length === 0 || !codings.every((coding) => UNDONE.test(coding))) return headers;
  return headers.filter(
    ([name]) => !isNamed(name, 'content-encoding') && !isNamed(name, 'content-length'),
  );
}
