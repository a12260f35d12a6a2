/**
 * How callers name a local server, and what that means.
 */
import { isGoodPrefix } from './prefix.js';

/** A local server: a TCP address, or the path of a Unix socket. */
export interface LocalTarget {
  host: string;
  port: number;
  /** The path of its Unix socket, which then stands in place of host and port. */
  socketPath: string | undefined;
  /** What stands in front of the path of each request: nothing, or `/path`. */
  prefix: string;
  /** It speaks TLS. */
  secure: boolean;
}

/** The most bytes that the path of a Unix socket may have, with the NUL behind it. */
const SOCKET_PATH_BYTES = 107;
const HTTP = 80;
const HTTPS = 443;

const HOST = /^[0-9A-Za-z._-]{1,253}$/;
const IPV6 = /^[0-9A-Fa-f:.]{2,45}$/;

/** Reads what a caller gave. Throws a `TypeError` that says what is wrong with it. */
export function readTarget(to: unknown): LocalTarget {
  if (typeof to === 'number') return readTarget(String(to));
  if (typeof to === 'string') return parse(to);
  if (typeof to !== 'object' || to === null) throw noTarget(String(to));
  const { host, port, socketPath, ...more } = to as Record<string, unknown>;
  const [odd] = Object.keys(more).filter((key) => more[key] !== undefined);
  if (odd !== undefined) throw new TypeError(`${odd} is no option of to`);
  if (socketPath !== undefined) {
    if (host !== undefined || port !== undefined) {
      throw new TypeError('to has either a socketPath or a host and a port');
    }
    if (typeof socketPath !== 'string') throw new TypeError('to.socketPath must be a path');
    return unix(socketPath);
  }
  if (typeof host !== 'string' || !/^[0-9A-Za-z.:[\]_-]{1,253}$/.test(host)) {
    throw new TypeError('to.host must be a host name or an address');
  }
  if (!Number.isInteger(port) || (port as number) < 1 || (port as number) > 65_535) {
    throw new TypeError('to.port must be a whole number from 1 to 65535');
  }
  return tcp(host.replace(/^\[(.*)\]$/, '$1'), port as number);
}

/** What a browser would send as `Host` to reach it. */
export function hostNameOf({ host, port, socketPath, secure }: LocalTarget): string {
  if (socketPath !== undefined) return 'localhost';
  const name = bracketed(host);
  return port === (secure ? HTTPS : HTTP) ? name : `${name}:${port}`;
}

/** How it is shown; that can be given again. */
export function shownAs(target: LocalTarget): string {
  const { host, port, socketPath, prefix, secure } = target;
  if (socketPath !== undefined) return `unix:${socketPath}`;
  const place = `${bracketed(host)}:${port}`;
  if (secure) return `https://${place}${prefix}`;
  return prefix === '' ? place : `http://${place}${prefix}`;
}

/** An IPv6 address in brackets, and any other name as it is. */
export function bracketed(host: string): string {
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
}

function tcp(host: string, port: number, prefix = '', secure = false): LocalTarget {
  return { host, port, socketPath: undefined, prefix, secure };
}

function parse(text: string): LocalTarget {
  const path = /^unix:(.*)$/is.exec(text)?.[1];
  if (path !== undefined) return unix(path);
  // It may be a password that stands before it, and is not repeated.
  if (text.includes('@')) throw new TypeError('A target has no user and no password.');
  const [, scheme, rest] = /^(https?):\/\/(.*)$/is.exec(text) ?? [];
  if (scheme === undefined || rest === undefined) {
    const { host, port } = place(text, undefined) ?? {};
    if (host === undefined || port === undefined) throw noTarget(text);
    return tcp(host, port);
  }
  const secure = scheme.toLowerCase() === 'https';
  const end = /[/?#]/.exec(rest)?.index ?? rest.length;
  const found = place(rest.slice(0, end), secure ? HTTPS : HTTP);
  if (found === undefined) throw noTarget(text);
  return tcp(found.host, found.port, prefixOf(rest.slice(end)), secure);
}

/** A host and a port; where a `usual` port is known the host alone will do, elsewhere the port. */
function place(
  text: string,
  usual: number | undefined,
): { host: string; port: number } | undefined {
  const [, inside, name, digits] = /^(?:\[([^\]]*)\]|([^:]*))(?::([0-9]+))?$/s.exec(text) ?? [];
  const bare = usual === undefined && inside === undefined && /^[0-9]+$/.test(text);
  const port = bare ? Number(text) : digits === undefined ? usual : Number(digits);
  if (port === undefined || port < 1 || port > 65_535) return undefined;
  if (inside !== undefined) return isIPv6(inside) ? { host: inside, port } : undefined;
  if (bare || (name === '' && usual === undefined)) return { host: 'localhost', port };
  return name !== undefined && HOST.test(name) ? { host: name, port } : undefined;
}

function isIPv6(text: string): boolean {
  return IPV6.test(text) && URL.canParse(`http://[${text}]/`);
}

/** The path of a target's URL, without the slash in the end. */
function prefixOf(path: string): string {
  if (/[?#]/.test(path)) {
    throw new TypeError("A target's URL ends with its path: it has no ? and no #.");
  }
  const prefix = path.replace(/\/$/, '');
  if (prefix !== '' && !isGoodPrefix(prefix)) {
    throw new TypeError(
      "A target's path has letters, digits and %xx, and no part of it is empty, . or ..",
    );
  }
  return prefix;
}

/** A Unix socket; `unix:///run/app.sock` is one, too. */
function unix(text: string): LocalTarget {
  if (!text.startsWith('/')) {
    throw new TypeError("A Unix socket's path begins with a slash, as in unix:/run/app.sock.");
  }
  const path = text.replace(/^\/+/, '/');
  if (path.endsWith('/') || /\p{Cc}/u.test(path)) {
    throw new TypeError('That is no path of a Unix socket.');
  }
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_BYTES) {
    throw new TypeError(
      `A Unix socket's path has at most ${SOCKET_PATH_BYTES} bytes; this one has ${bytes}.`,
    );
  }
  return { host: 'localhost', port: 0, socketPath: path, prefix: '', secure: false };
}

function noTarget(text: string): TypeError {
  return new TypeError(
    `${JSON.stringify(text)} is not a target: write 3000, 'localhost:3000', '[::1]:3000', ` +
      "'host:port', 'http://host:port/path', 'https://host:port' or 'unix:/path'",
  );
}
