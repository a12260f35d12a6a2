/**
 * Who asks, as the kit tells it, and logins that hold for a connection and not for a request.
 *
 * NTLM and Negotiate prove once who somebody is, and from then on the *connection* is that
 * person's: whoever sends the next request on it is served as them. So a local connection that ever
 * carried such a login, or was asked for one, belongs to the visitor's connection that it was used
 * for, and nobody else gets it.
 */
import { isIP } from 'node:net';
import type { Headers, OpenHttp } from '../wire/control.js';
import { isNamed } from './head.js';

/**
 * The visitor's connection that a request came on, if it is named: port 0 is nobody's, for behind a
 * proxy several visitors may share a connection. The number tells it from the next one of the same
 * address and port, which on one host may be here within a second; an older kit does not say it.
 */
export function visitorOf(open: Named): string | undefined {
  const { host, port } = partsOf(open.remoteAddr);
  if (host === undefined || port === 0) return undefined;
  return `${open.remoteAddr} ${open.connectionId ?? ''}`;
}

/** What a STREAM_OPEN says of who asks. */
export type Named = Pick<OpenHttp, 'remoteAddr' | 'connectionId'>;

/**
 * For whom a bound is shared: one address, which for IPv6 is a network of 2^64 of them, since any
 * host has so many. Everybody of whom the kit does not tell is one and the same.
 */
export function originOf(remoteAddr: string | undefined): string {
  const { host } = partsOf(remoteAddr);
  if (host === undefined) return '';
  return isIP(host) === 4 ? host : networkOf(host);
}

/** Whether a request logs its connection in. */
export function logsIn(headers: Headers): boolean {
  return names(headers, 'authorization') || names(headers, 'proxy-authorization');
}

/** Whether a response asks for such a login, or goes on with one. */
export function asksToLogIn(headers: Headers): boolean {
  return names(headers, 'www-authenticate') || names(headers, 'proxy-authenticate');
}

/**
 * Whether a field of a name is about a scheme that authenticates the connection. A comma in a
 * quoted string may make it say yes too often, which costs no more than the reuse of a connection.
 */
function names(headers: Headers, wanted: string): boolean {
  return headers.some(([name, value]) => isNamed(name, wanted) && SCHEME.test(value));
}

const SCHEME = /(?:^|,)[ \t]*(?:ntlm|negotiate|kerberos|nego2)(?:[ \t,]|$)/i;

interface Parts {
  host: string | undefined;
  port: number;
}

function partsOf(remoteAddr: string | undefined): Parts {
  const text = remoteAddr ?? '';
  if (isIP(text) !== 0) return { host: text, port: 0 };
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || isIP(host) === 0) return { host: undefined, port: 0 };
  return { host, port: Number(match?.[3]) };
}

/** The first half of an IPv6 address, or the IPv4 address that is mapped into one. */
function networkOf(host: string): string {
  const mapped = /^::ffff:([0-9.]+)$/i.exec(host)?.[1];
  if (mapped !== undefined && isIP(mapped) === 4) return mapped;
  const [left = '', right] = host.toLowerCase().split('::');
  const before = groupsOf(left);
  const after = groupsOf(right ?? '');
  const gap = right === undefined ? 0 : Math.max(0, 8 - before.length - after.length);
  const all = [...before, ...Array<string>(gap).fill('0'), ...after];
  return all.slice(0, 4).map(plain).join(':');
}

function groupsOf(text: string): string[] {
  // A dotted tail stands for two groups; which ones does not matter in the last half.
  return text === '' ? [] : text.replace(/[0-9]+(?:\.[0-9]+){3}$/, '0:0').split(':');
}

function plain(group: string): string {
  return group.replace(/^0+(?=.)/, '');
}
