/**
 * HTTP/1.1 heads, strictly (PROTOCOL §4, §11).
 *
 * What is ambiguous is refused, in both directions: a head that two readers may read in two ways is
 * how requests are smuggled. Octets travel as code points 0 to 255, so heads are Latin-1 strings.
 */
import type { Headers } from '../wire/control.js';

/** The head of a response as the local server sent it. */
export interface Head {
  minor: number;
  status: number;
  /** Names are as the server wrote them. */
  headers: Headers;
}

/** A head, or a body, that is not HTTP/1.1. */
export class HttpFault extends Error {
  override readonly name = 'HttpFault';
}

/** A head that is HTTP/1.1, and more than is passed on. */
export class HeadTooLarge extends HttpFault {
  constructor(message = 'has a head that is larger than maxHead or maxFields allow') {
    super(message);
  }
}

/** Fields between two neighbours only, never passed on (PROTOCOL §4). */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]);

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/;
const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?$/;
/** Without a fragment, which is nothing to ask a server for. */
const TARGET = /^[\x21\x22\x24-\x7e\x80-\xff]+$/;

/** Whether a string is a method or a field name. */
export function isToken(text: string): boolean {
  return TOKEN.test(text);
}

/** Whether a string can be a field value without ending its line. */
export function isFieldValue(text: string): boolean {
  return VALUE.test(text);
}

/** Whether a string can be a request target in origin form, or the `*` of OPTIONS. */
export function isTarget(method: string, target: string): boolean {
  if (target === '*') return method === 'OPTIONS';
  return target.startsWith('/') && TARGET.test(target);
}

/** Throws when a field would not survive being written. */
export function checkHeaders(headers: Headers): void {
  for (const [name, value] of headers) {
    if (!isToken(name)) throw new HttpFault(`a field name that is no token: ${quote(name)}`);
    if (!isFieldValue(value)) throw new HttpFault(`a bad value in field ${quote(name)}`);
  }
}

/** Parses a response head: everything before the empty line. */
export function parseResponseHead(text: string): Head {
  const lines = text.split('\r\n');
  const head = parseStatusLine(lines[0] ?? '');
  for (let at = 1; at < lines.length; at += 1) head.headers.push(parseField(lines[at] ?? ''));
  return head;
}

/** Parses the first line of a response: a head without fields. */
export function parseStatusLine(line: string): Head {
  const match = STATUS_LINE.exec(line);
  if (match === null) throw new HttpFault('no HTTP/1.1 status line');
  return { minor: Number(match[1]), status: Number(match[2]), headers: [] };
}

/** Parses the line of an answer's field; blanks before its colon mean nothing (RFC 9112 §5.1). */
export function parseField(line: string): [string, string] {
  const colon = line.indexOf(':');
  const name = line.slice(0, Math.max(colon, 0)).replace(/[\t ]+$/, '');
  if (!isToken(name)) throw new HttpFault(`a line that is no field: ${quote(line)}`);
  const value = trim(line.slice(colon + 1));
  if (!isFieldValue(value)) throw new HttpFault(`a bad value in field ${quote(name)}`);
  return [name, value];
}

/** Writes a head; the fields have been checked. */
export function formatRequestHead(method: string, target: string, headers: Headers): string {
  let text = `${method} ${target} HTTP/1.1\r\n`;
  for (const [name, value] of headers) text += `${name}: ${value}\r\n`;
  return text + '\r\n';
}

/** The fields without those that are for the neighbour only; `named` are those of Connection. */
export function withoutHopByHop(headers: Headers, named = listOf(headers, 'connection')): Headers {
  return headers.filter((field) => {
    const name = field[0].toLowerCase();
    // What frames the body, and whom a request is for, Connection has no say in.
    if (name === 'content-length' || name === 'host') return true;
    return !HOP_BY_HOP.has(name) && !named.includes(name);
  });
}

/** Whether a name, in any case, is `wanted`, which is in lower case. */
export function isNamed(name: string, wanted: string): boolean {
  return name.length === wanted.length && name.toLowerCase() === wanted;
}

/** A field's name as a head has it, or as it is mostly written. */
export function nameIn(headers: Headers, usual: string): string {
  const wanted = usual.toLowerCase();
  return headers.find(([name]) => isNamed(name, wanted))?.[0] ?? usual;
}

/** Every value of a field. */
export function allOf(headers: Headers, wanted: string): string[] {
  const values: string[] = [];
  for (const [name, value] of headers) if (isNamed(name, wanted)) values.push(value);
  return values;
}

/** The first value of a field. */
export function firstOf(headers: Headers, wanted: string): string | undefined {
  for (const [name, value] of headers) if (isNamed(name, wanted)) return value;
  return undefined;
}

/** The tokens of every list field of a name; in lower case, for they compare that way. */
export function listOf(headers: Headers, wanted: string): string[] {
  const tokens: string[] = [];
  for (const value of allOf(headers, wanted)) {
    for (const part of value.split(',')) {
      const token = trim(part).toLowerCase();
      if (token !== '') tokens.push(token);
    }
  }
  return tokens;
}

/** Whether an answer switches to WebSocket, to that alone, and its Connection names the switch. */
export function switchesToWebSocket({ status, headers }: Head): boolean {
  const upgrades = listOf(headers, 'upgrade');
  const isNamedHere = listOf(headers, 'connection').includes('upgrade');
  return status === 101 && isNamedHere && upgrades.length === 1 && upgrades[0] === 'websocket';
}

/** The one Content-Length of a head; undefined when there is none, a fault when it is ambiguous. */
export function contentLength(headers: Headers): number | undefined {
  const values = allOf(headers, 'content-length');
  const value = values[0];
  if (value === undefined) return undefined;
  if (values.length > 1 || !/^[0-9]+$/.test(value)) {
    throw new HttpFault('an ambiguous Content-Length');
  }
  // What more digits say fits no counter of 64 bits. Above 2^53 a number is not exact any more, which
  // matters to nobody: such a body has no end, and whoever announces it means just that.
  if (value.length > 19) throw new HttpFault('a Content-Length that is too large');
  return Number(value);
}

/** Only space and tab surround a value; `trim` of the language takes more. */
export function trim(text: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && isBlank(text.charCodeAt(start))) start += 1;
  while (end > start && isBlank(text.charCodeAt(end - 1))) end -= 1;
  return text.slice(start, end);
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09;
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 40));
}
