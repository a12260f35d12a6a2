/**
 * Who is calling, said to a local server before a connection's first byte: HAProxy's PROXY
 * protocol, version 1 (a line of text) and 2 (binary).
 */
import { isIPv4, isIPv6 } from 'node:net';
import type { ProxyProtocol } from './terms.js';

/** What version 2 begins with. */
const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1');
/** Version 2, a connection for somebody else; and how TCP over either family is called. */
const PROXIED = 0x21;
const FAMILY = { 4: 0x11, 6: 0x21 } as const;

interface Ends {
  family: 4 | 6;
  from: string;
  fromPort: number;
  to: string;
  toPort: number;
}

/**
 * What is said of a caller that came from `remote` to the loopback `port` in the container. An address
 * that is not known is said to be so: then the server takes what it sees.
 */
export function greeting(version: ProxyProtocol, remote: string | undefined, port: number): Buffer {
  const ends = endsOf(remote ?? '', port);
  return version === 1 ? asText(ends) : asBytes(ends);
}

function asText(ends: Ends | undefined): Buffer {
  if (ends === undefined) return Buffer.from('PROXY UNKNOWN\r\n');
  const { family, from, fromPort, to, toPort } = ends;
  return Buffer.from(`PROXY TCP${family} ${from} ${to} ${fromPort} ${toPort}\r\n`);
}

function asBytes(ends: Ends | undefined): Buffer {
  // Of nobody: no family, and nothing behind it.
  if (ends === undefined) return Buffer.concat([SIGNATURE, Buffer.from([PROXIED - 1, 0, 0, 0])]);
  const { family, from, fromPort, to, toPort } = ends;
  const octets = family === 4 ? octetsOf4 : octetsOf6;
  const addresses = Buffer.from([...octets(from), ...octets(to)]);
  const tail = Buffer.alloc(4);
  tail.writeUInt16BE(fromPort, 0);
  tail.writeUInt16BE(toPort, 2);
  const head = Buffer.from([PROXIED, FAMILY[family], 0, addresses.length + tail.length]);
  return Buffer.concat([SIGNATURE, head, addresses, tail]);
}

/** Reads an address with its port: whatever is not exactly that is not known. */
function endsOf(remote: string, toPort: number): Ends | undefined {
  const [, inside, plain, digits] =
    /^(?:\[([0-9A-Fa-f:.]+)(?:%[0-9]+)?\]|([0-9.]+)):([0-9]{1,5})$/.exec(remote) ?? [];
  const fromPort = Number(digits);
  if (digits === undefined || fromPort > 65_535) return undefined;
  if (plain !== undefined) {
    return isIPv4(plain)
      ? { family: 4, from: plain, fromPort, to: '127.0.0.1', toPort }
      : undefined;
  }
  if (inside === undefined || !isIPv6(inside)) return undefined;
  // Written as RFC 5952 has it.
  const from = new URL(`http://[${inside}]/`).hostname.slice(1, -1);
  const mapped = octetsOf6(from);
  if (!isMapped(mapped)) return { family: 6, from, fromPort, to: '::1', toPort };
  return { family: 4, from: mapped.slice(12).join('.'), fromPort, to: '127.0.0.1', toPort };
}

/** Whether an address is one of IPv4 in the clothes of IPv6. */
function isMapped(octets: number[]): boolean {
  return octets.slice(0, 12).every((octet, at) => octet === (at < 10 ? 0 : 255));
}

function octetsOf4(address: string): number[] {
  return address.split('.').map(Number);
}

function octetsOf6(address: string): number[] {
  const [before = '', after] = address.split('::');
  const groups = (text = ''): string[] => (text === '' ? [] : text.split(':'));
  const [left, right] = [groups(before), groups(after)];
  const zeros = Array<string>(8 - left.length - right.length).fill('0');
  return [...left, ...zeros, ...right].flatMap((group) => {
    const value = parseInt(group, 16);
    return [value >> 8, value & 0xff];
  });
}
