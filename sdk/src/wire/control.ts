/**
 * The JSON payloads (PROTOCOL §2 to §7): their shapes, and readers that trust nothing.
 *
 * A reader ignores keys it does not know, takes a missing or null optional key as its default, and
 * throws `WireError` for a required key that is missing or of the wrong type.
 */
import { isUtf8 } from 'node:buffer';
import { WireError } from './frame.js';
import { plain } from './text.js';
import type { BindKind, BindMode, HelloOk, JoinTicket, ResumedBind } from './terms.js';

/** Header fields in order, repeats kept. */
export type Headers = [name: string, value: string][];

/** The client's first frame. */
export interface Hello {
  version: string;
  auth?: { kind: 'bearer'; token: string };
  capabilities?: string[];
  resume?: Resume;
  /** What we keep of a lane until it is acknowledged (an addition). */
  replayBuffer?: number;
  /** The kit hears something on every lane at least so often (an addition). */
  pingEveryMs?: number;
  maxConnections?: number;
}

/** A session to take up, and, where its streams are to go on, what we know of it (PROTOCOL §9). */
export interface Resume {
  sessionId: string;
  epoch?: number;
  attempt?: number;
  received?: number;
  lanes?: HeldLane[];
  /** A fresh session in its place would be of no use. */
  only?: true;
}

/** A lane by the ticket that it was joined with. */
export interface HeldLane {
  index: number;
  nonce: string;
}

/** The first words on a secondary socket. */
export interface Join {
  sessionId: string;
  index: number;
  nonce: string;
  /** Bytes of DATA received on this index so far (an addition that older kits ignore). */
  dataReceived: number;
  /** With `replay`: frames taken on it; left out where it is to begin anew. */
  received?: number | undefined;
  /** With `replay`: the session's credit that came on it so far. */
  creditReceived?: number | undefined;
}

/** The kit's answer to JOIN. */
export interface JoinOk {
  /** Bytes of DATA that the kit received on this index so far; an older kit does not say. */
  dataReceived: number | undefined;
  /** Frames that the kit took on it; undefined where it begins anew. */
  received: number | undefined;
  /** The session's credit that came to the kit on it so far. */
  creditReceived: number | undefined;
}

/** A request for a binding. */
export interface Bind {
  clientBindRef: number;
  kind: BindKind;
  mode: BindMode;
  containerPort: number;
  label?: string;
  takeover?: boolean;
  host?: string;
  /** The session that may hold the port parked; an older kit ignores it. */
  replaces?: string;
}

/** A granted binding. */
export interface BindOk {
  clientBindRef: number;
  bindId: number;
  containerPort: number;
  publicUrl: string | null;
}

/** A refusal that names what it refuses: BIND_ERR by ref, UNBIND_ERR by id. */
export interface BindErr {
  clientBindRef: number | undefined;
  bindId: number | undefined;
  code: string;
  message: string;
}

/** How the body of a request is framed; undefined when an older kit does not say. */
export type BodyKind = 'none' | 'length' | 'chunked';

/** An HTTP request that a visitor made. */
export interface OpenHttp {
  kind: 'http';
  bindId: number | undefined;
  containerPort: number | undefined;
  method: string;
  target: string;
  headers: Headers;
  isUpgrade: boolean;
  body: BodyKind | undefined;
  remoteAddr: string | undefined;
  /** The number of the visitor's connection; undefined when an older kit does not say. */
  connectionId: number | undefined;
}

/** A TCP connection that a caller made. */
export interface OpenTcp {
  kind: 'tcp';
  bindId: number | undefined;
  containerPort: number | undefined;
  remoteAddr: string | undefined;
}

/** An address that sends datagrams to a UDP port. */
export interface OpenUdp {
  kind: 'udp';
  bindId: number | undefined;
  containerPort: number | undefined;
  remoteAddr: string | undefined;
}

/** What STREAM_OPEN of a kit says. */
export type StreamOpen = OpenHttp | OpenTcp | OpenUdp;

/** The head of a response. */
export interface ResponseHead {
  status: number;
  headers: Headers;
  final: boolean;
}

/** Why a peer ends the session. */
export interface Goaway {
  code: number;
  message: string;
  graceMs: number;
  /** Whether the client is not wanted back; an older kit does not say. */
  final: boolean | undefined;
}

type Json = Record<string, unknown>;

/** The windows of a kit that names none, in bytes. */
const DEFAULT_STREAM_WINDOW = 1_048_576;
const DEFAULT_SESSION_WINDOW = 16_777_216;
/** The most fields in a head: a visitor's 128, and what the kit may add (PROTOCOL §11). */
const MAX_FIELDS = 136;

/** The longest code of a refusal that is looked at. */
const MAX_CODE = 64;
/** Ids and nonces. */
const SECRET = /^[\x21-\x7e]{1,1024}$/;
/** The longest address that a binding may have. */
const MAX_URL = 2048;

/** Parses a payload that must be one JSON object. */
export function parseObject(payload: Buffer, what: string): Json {
  return parseText(readText(payload, what), what);
}

function readText(payload: Buffer, what: string): string {
  if (!isUtf8(payload)) throw bad(what, 'is not UTF-8');
  return payload.toString('utf8');
}

function parseText(text: string, what: string): Json {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw bad(what, 'is not JSON');
  }
  if (!isObject(value)) throw bad(what, 'is not an object');
  return value;
}

/** Reads HELLO_OK. */
export function readHelloOk(payload: Buffer): HelloOk {
  const json = parseObject(payload, 'HELLO_OK');
  return {
    sessionId: secret(json, 'sessionId', 'HELLO_OK'),
    resumed: json['resumed'] === true,
    resumedBinds: list(json, 'resumedBinds').map(readResumedBind),
    streamWindow: optionalCount(json, 'streamWindow') ?? DEFAULT_STREAM_WINDOW,
    sessionWindow: optionalCount(json, 'sessionWindow') ?? DEFAULT_SESSION_WINDOW,
    connectionsGranted: optionalCount(json, 'connectionsGranted') ?? 1,
    joinTickets: readTickets(json),
    capabilities: list(json, 'capabilities').filter(isName),
    maxStreams: optionalCount(json, 'maxStreams'),
    epoch: optionalCount(json, 'epoch'),
    // What is no number says nothing: then the streams of before end.
    received: typeof json['received'] === 'number' ? optionalCount(json, 'received') : undefined,
    lanes: list(json, 'lanes').filter((lane) => typeof lane === 'number'),
    instance: isName(json['instance']) ? json['instance'] : undefined,
  };
}

/** Whether it can be the name of a capability, or of a process; any other is none that we know. */
function isName(value: unknown): value is string {
  return typeof value === 'string' && plain(value, MAX_CODE) === value;
}

function readResumedBind(value: unknown): ResumedBind {
  if (!isObject(value)) throw bad('HELLO_OK', 'has a resumed bind that is not an object');
  const bind: ResumedBind = {
    bindId: count(value, 'bindId', 'HELLO_OK'),
    kind: value['kind'] === 'tcp' ? 'tcp' : 'http',
    mode: value['mode'] === 'pull' ? 'pull' : 'expose',
    containerPort: count(value, 'containerPort', 'HELLO_OK'),
  };
  // That there is no address is said with null: a kit that leaves the key out does not know it.
  if ('publicUrl' in value) bind.publicUrl = urlOf(value);
  return bind;
}

function urlOf(json: Json): string | null {
  const url = json['publicUrl'];
  if (typeof url !== 'string') return null;
  // It is shown, and opened.
  if (url.length > MAX_URL || plain(url, MAX_URL) !== url) throw bad('publicUrl', 'is no address');
  return url;
}

/** Reads the tickets of HELLO_OK or of REISSUE_JOIN_TICKETS. */
export function readTickets(json: Json): JoinTicket[] {
  return list(json, 'joinTickets').map((value) => {
    if (!isObject(value)) throw bad('a join ticket', 'is not an object');
    return {
      index: count(value, 'index', 'a join ticket'),
      nonce: secret(value, 'nonce', 'a join ticket'),
      expiresMs: optionalCount(value, 'expiresMs') ?? 10_000,
    };
  });
}

/** Reads JOIN_OK. */
export function readJoinOk(payload: Buffer): JoinOk {
  const json = parseObject(payload, 'JOIN_OK');
  return {
    dataReceived: optionalCount(json, 'dataReceived'),
    received: optionalCount(json, 'received'),
    creditReceived: optionalCount(json, 'creditReceived'),
  };
}

/** Reads BIND_OK. */
export function readBindOk(payload: Buffer): BindOk {
  const json = parseObject(payload, 'BIND_OK');
  return {
    clientBindRef: count(json, 'clientBindRef', 'BIND_OK'),
    bindId: count(json, 'bindId', 'BIND_OK'),
    containerPort: count(json, 'containerPort', 'BIND_OK'),
    publicUrl: urlOf(json),
  };
}

/** Reads BIND_ERR, UNBIND_ERR and JOIN_ERR. */
export function readRefusal(payload: Buffer, what: string): BindErr {
  const json = parseObject(payload, what);
  return {
    clientBindRef: optionalCount(json, 'clientBindRef'),
    bindId: optionalCount(json, 'bindId'),
    code: typeof json['code'] === 'string' ? plain(json['code'], MAX_CODE) : 'INTERNAL',
    message: said(json, 'message'),
  };
}

/** Reads the id that UNBIND_OK and BIND_REVOKED name. */
export function readBindId(payload: Buffer, what: string): { bindId: number; reason: string } {
  const json = parseObject(payload, what);
  return { bindId: count(json, 'bindId', what), reason: said(json, 'reason') };
}

/** Reads STREAM_OPEN. */
export function readStreamOpen(payload: Buffer): StreamOpen {
  const raw = readText(payload, 'STREAM_OPEN');
  const json = parseText(raw, 'STREAM_OPEN');
  const bindId = optionalCount(json, 'bindId');
  const containerPort = optionalCount(json, 'containerPort');
  const remoteAddr = typeof json['remoteAddr'] === 'string' ? json['remoteAddr'] : undefined;
  if (json['kind'] === 'tcp') {
    if (json['mode'] != null) throw bad('STREAM_OPEN', 'has a mode that a client does not take');
    return { kind: 'tcp', bindId, containerPort, remoteAddr };
  }
  if (json['kind'] === 'udp' && json['mode'] == null) {
    return { kind: 'udp', bindId, containerPort, remoteAddr };
  }
  if (json['kind'] !== 'http') throw bad('STREAM_OPEN', 'has a kind that a client does not take');
  const { body, connectionId } = json;
  const open: OpenHttp = {
    kind: 'http',
    bindId,
    containerPort,
    method: text(json, 'method', 'STREAM_OPEN'),
    target: text(json, 'target', 'STREAM_OPEN'),
    headers: readHeaders(json['headers'], 'STREAM_OPEN'),
    isUpgrade: json['isUpgrade'] === true,
    body: body === 'none' || body === 'length' || body === 'chunked' ? body : undefined,
    remoteAddr,
    connectionId: typeof connectionId === 'number' ? connectionId : undefined,
  };
  if (MAY_HOLD_OTHERS.test(raw)) {
    checkOctets(open.target, 'STREAM_OPEN');
    checkAllOctets(open.headers, 'STREAM_OPEN');
  }
  return open;
}

/** Reads STREAM_CONNECTED: the address that was reached, empty where it is not told. */
export function readConnected(payload: Buffer): string {
  const { peer } = parseObject(payload, 'STREAM_CONNECTED');
  if (peer === undefined || peer === null) return '';
  if (typeof peer !== 'string') throw bad('STREAM_CONNECTED', 'has a peer that is not text');
  return plain(peer);
}

/** Reads STREAM_RESPONSE_HEAD; the SDK only writes it, the tests read it. */
export function readResponseHead(payload: Buffer): ResponseHead {
  const json = parseObject(payload, 'STREAM_RESPONSE_HEAD');
  const status = count(json, 'status', 'STREAM_RESPONSE_HEAD');
  if (status < 100 || status > 999) throw bad('STREAM_RESPONSE_HEAD', 'has a status out of range');
  const headers = readHeaders(json['headers'], 'STREAM_RESPONSE_HEAD');
  checkAllOctets(headers, 'STREAM_RESPONSE_HEAD');
  return { status, headers, final: json['final'] !== false };
}

/** Reads STREAM_TRAILERS. */
export function readTrailers(payload: Buffer): Headers {
  const headers = readHeaders(
    parseObject(payload, 'STREAM_TRAILERS')['headers'],
    'STREAM_TRAILERS',
  );
  checkAllOctets(headers, 'STREAM_TRAILERS');
  return headers;
}

/** Reads HEAD_PART, whose empty names are for whoever joins several. */
export function readHeadPart(payload: Buffer): Headers {
  const json = parseObject(payload, 'HEAD_PART');
  // Its bytes bound it: values may come in any number of pieces.
  const headers = readHeaders(json['headers'], 'HEAD_PART', Infinity);
  checkAllOctets(headers, 'HEAD_PART');
  return headers;
}

/** Reads GOAWAY. */
export function readGoaway(payload: Buffer): Goaway {
  const json = parseObject(payload, 'GOAWAY');
  return {
    code: optionalCount(json, 'code') ?? 0,
    message: said(json, 'message'),
    graceMs: optionalCount(json, 'graceMs') ?? 0,
    final: typeof json['final'] === 'boolean' ? json['final'] : undefined,
  };
}

function readHeaders(value: unknown, what: string, most = MAX_FIELDS): Headers {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw bad(what, 'has headers that are not a list');
  if (value.length > most) throw bad(what, `has more than ${most} headers`);
  for (const pair of value as unknown[]) {
    const good =
      Array.isArray(pair) &&
      pair.length === 2 &&
      typeof pair[0] === 'string' &&
      typeof pair[1] === 'string';
    if (!good) throw bad(what, 'has a header that is not a pair of strings');
  }
  return value as Headers;
}

/** What a JSON text has where one of its strings holds anything but octets, and seldom otherwise. */
const MAY_HOLD_OTHERS = /[^\x00-\xff]|\\u/;

/** Octets travel as code points 0 to 255; anything above is no octet. */
function checkOctets(value: string, what: string): void {
  if (!/^[\x00-\xff]*$/.test(value)) throw bad(what, 'has a character that is no octet');
}

function checkAllOctets(headers: Headers, what: string): void {
  for (const [name, value] of headers) {
    checkOctets(name, what);
    checkOctets(value, what);
  }
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function list(json: Json, key: string): unknown[] {
  const value = json[key];
  return Array.isArray(value) ? (value as unknown[]) : [];
}

/** Words for people, which nobody else has to understand. */
function said(json: Json, key: string): string {
  const value = json[key];
  return typeof value === 'string' ? plain(value) : '';
}

/** What we have to say again, and what therefore has to fit into a frame of ours. */
function secret(json: Json, key: string, what: string): string {
  const value = text(json, key, what);
  if (!SECRET.test(value)) throw bad(what, `has a ${key} that is too long, or is not plain text`);
  return value;
}

function text(json: Json, key: string, what: string): string {
  const value = json[key];
  if (typeof value !== 'string') throw bad(what, `has no ${key}`);
  return value;
}

function count(json: Json, key: string, what: string): number {
  const value = optionalCount(json, key);
  if (value === undefined) throw bad(what, `has no ${key}`);
  return value;
}

function optionalCount(json: Json, key: string): number | undefined {
  const value = json[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw bad(key, 'is not a count');
}

function bad(what: string, why: string): WireError {
  return new WireError('BAD_JSON', `${what} ${why}`);
}
