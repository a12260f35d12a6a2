/**
 * From STREAM_OPEN to the request that the local server gets: checked, without what was for the
 * neighbour only, and with the Host that the server expects (PROTOCOL §4).
 */
import type { BodyKind, Headers, OpenHttp } from '../wire/control.js';
import {
  allOf,
  checkHeaders,
  contentLength,
  HttpFault,
  isNamed,
  isTarget,
  isToken,
  listOf,
  nameIn,
  withoutHopByHop,
} from './head.js';
import { namesFor, type Names } from './rewrite.js';
import type { HostHeader } from './terms.js';

/** How a request's body is framed; `unknown` until its first bytes, for an older kit does not say. */
export type RequestBody = BodyKind | 'unknown';

/** A request ready to be written. */
export interface LocalRequest {
  method: string;
  target: string;
  headers: Headers;
  body: RequestBody;
  length: number;
  /** What the answer's head is rewritten by; none where the Host was kept. */
  names: Names | undefined;
}

/** What a request is rewritten for. */
export interface RewriteFor {
  /** What the local server gets as Host; undefined for what the visitor sent. */
  host: string | undefined;
  publicUrl: string | null;
}

/** What a server at `authority` gets as Host; undefined for what the visitor sent. */
export function hostFor(authority: string, hostHeader: HostHeader): string | undefined {
  if (hostHeader === 'keep') return undefined;
  return hostHeader === 'rewrite' ? authority.replace(/:80$/, '') : hostHeader;
}

/** Checks a visitor's request and makes it the local server's. Throws `HttpFault`. */
export function localRequest(
  open: OpenHttp,
  rewrite: RewriteFor,
  carriesTrailers = false,
): LocalRequest {
  if (!isToken(open.method) || open.method === 'CONNECT') {
    throw new HttpFault('a method that cannot be passed on');
  }
  if (!isTarget(open.method, open.target)) {
    throw new HttpFault('a target that is not in origin form');
  }
  checkHeaders(open.headers);
  if (allOf(open.headers, 'host').length > 1) throw new HttpFault('more than one Host');
  const length = contentLength(open.headers);
  const body = bodyKind(open, length);
  const headers = withoutHopByHop(open.headers);
  const names = namesFor(headers, rewrite.host, rewrite.publicUrl, open.isUpgrade);
  setHost(headers, rewrite.host, names);
  if (body === 'chunked') headers.push(['transfer-encoding', 'chunked']);
  if (carriesTrailers) headers.push(...announced(open, body));
  if (open.isUpgrade) {
    headers.push([nameIn(open.headers, 'Connection'), 'Upgrade']);
    headers.push([nameIn(open.headers, 'Upgrade'), 'websocket']);
  }
  return { method: open.method, target: open.target, headers, body, length: length ?? 0, names };
}

/** What tells of trailers: where they are announced, and where they are taken (RFC 9110 §10.1.4). */
function announced(open: OpenHttp, body: RequestBody): Headers {
  const told: Headers = [];
  if (body === 'chunked') told.push(...open.headers.filter(([name]) => isNamed(name, 'trailer')));
  if (!open.isUpgrade && listOf(open.headers, 'te').includes('trailers')) {
    told.push(['te', 'trailers'], ['connection', 'TE']);
  }
  return told;
}

const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);

/** Whether a request may be sent twice when nothing of an answer was seen. */
export function isRepeatable(method: string): boolean {
  return REPEATABLE.has(method);
}

function bodyKind(open: OpenHttp, length: number | undefined): RequestBody {
  if (open.body === 'length' && length === undefined) {
    throw new HttpFault('a body by length without a Content-Length');
  }
  if (open.body === 'chunked' && length !== undefined) {
    throw new HttpFault('a chunked body with a Content-Length');
  }
  if (open.body === 'none' && length !== undefined && length > 0) {
    throw new HttpFault('no body but a Content-Length');
  }
  if (open.isUpgrade) return 'none';
  if (open.body !== undefined) return open.body;
  if (length !== undefined) return 'length';
  return open.method === 'GET' || open.method === 'HEAD' ? 'none' : 'unknown';
}

function setHost(headers: Headers, host: string | undefined, names: Names | undefined): void {
  if (host === undefined) return;
  for (const field of headers) field[1] = names?.inwards(field[0], field[1]) ?? field[1];
  const at = headers.findIndex((field) => isNamed(field[0], 'host'));
  if (at < 0) headers.unshift(['host', host]);
  else headers[at] = [nameIn(headers, 'Host'), host];
}
