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
import { hostNameOf, type LocalTarget } from './address.js';
import { namesFor, type Names, type Naming } from './rewrite.js';
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
export interface RewriteFor extends Naming {
  /** Fields that take the place of the visitor's. */
  headers: Headers;
}

/** A request that leads out of what is exposed. */
export class LeadsOut extends Error {
  override readonly name = 'LeadsOut';
}

/** What a server gets as Host; undefined for what the visitor sent. */
export function hostFor(target: LocalTarget, hostHeader: HostHeader): string | undefined {
  if (hostHeader === 'keep') return undefined;
  return hostHeader === 'rewrite' ? hostNameOf(target) : hostHeader;
}

/** Checks a visitor's request and makes it the local server's. Throws `HttpFault`, or `LeadsOut`. */
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
  const names = namesFor(headers, rewrite, open.isUpgrade);
  const target = names === undefined ? open.target : names.target(open.target);
  if (target === undefined || headers.some(([name, value]) => names?.leadsOut(name, value))) {
    throw new LeadsOut();
  }
  rename(headers, rewrite.host, names);
  // A TRACE is echoed to whoever asks, and our own fields may be secrets (RFC 9110 §9.3.8).
  replace(headers, rewrite.headers, open.method.toUpperCase() === 'TRACE' ? [] : rewrite.headers);
  if (body === 'chunked') headers.push(['transfer-encoding', 'chunked']);
  if (carriesTrailers) headers.push(...announced(open, body));
  if (open.isUpgrade) {
    headers.push([nameIn(open.headers, 'Connection'), 'Upgrade']);
    headers.push([nameIn(open.headers, 'Upgrade'), 'websocket']);
  }
  return { method: open.method, target, headers, body, length: length ?? 0, names };
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

/** Puts fields in the place of those that have the names of others. */
function replace(headers: Headers, named: Headers, fields: Headers): void {
  if (named.length === 0) return;
  const replaced = new Set(named.map(([name]) => name.toLowerCase()));
  const others = headers.filter(([name]) => !replaced.has(name.toLowerCase()));
  headers.splice(0, headers.length, ...others, ...fields);
}

function rename(headers: Headers, host: string | undefined, names: Names | undefined): void {
  for (const field of headers) field[1] = names?.inwards(field[0], field[1]) ?? field[1];
  if (host === undefined) return;
  const at = headers.findIndex((field) => isNamed(field[0], 'host'));
  if (at < 0) headers.unshift(['host', host]);
  else headers[at] = [nameIn(headers, 'Host'), host];
}
