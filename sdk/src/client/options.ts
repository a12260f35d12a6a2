/**
 * The options that callers pass, checked before any socket is opened.
 */
import type { FetchHandler } from '../local/serve.js';
import type { HostHeader } from '../local/request.js';
import type { LocalAddress } from '../local/target.js';
import { isFieldValue, isToken } from '../local/head.js';
import type { BindKind, BindMode } from '../wire/control.js';
import { OptionsError } from './errors.js';

/** A token, or a function that gets one; asked at every dial. */
export type Token = string | (() => string | Promise<string>);

/** How to reach a kit. */
export interface KitOptions {
  /** `wss://host`, `ws://host:port`, or the full address of `/api/v1/tunnel/connect`. */
  url: string | URL;
  /** The kit's token. */
  token?: Token;
  /** Header fields for a proxy in front of the kit. */
  kitHeaders?: Record<string, string>;
  /** Certificates of authorities (PEM text) to trust in place of the runtime's own. */
  ca?: string | string[];
}

/** How to ask a kit's administrative endpoints. */
export interface AdminOptions extends KitOptions {
  /** Milliseconds until one request must be answered, 1 to 3600000. Default 10000. */
  timeout?: number;
}

/** How a session connects and stays connected. */
export interface SessionOptions extends KitOptions {
  /** WebSockets of this session, 1 to 16. Default 1. */
  maxConnections?: number;
  /** A session to take up again; `connect` fails with `RESUME_EXPIRED` when it is gone. */
  resumeSessionId?: string;
  /** Whether a lost connection is dialled again. Default false here, true for the one-call forms. */
  reconnect?: boolean;
  /** Milliseconds until the first connection must be up, 1 to 3600000. Default 10000. */
  connectTimeout?: number;
  /** Milliseconds that the kit may take to answer BIND or UNBIND, likewise. Default 10000. */
  requestTimeout?: number;
  /** Closes the session when aborted. */
  signal?: AbortSignal;
}

/** One binding. */
export interface BindOptions {
  /** Default `http` for expose and `tcp` for pull. */
  kind?: BindKind;
  mode: BindMode;
  /** The port in the container; 0 lets the kit choose. */
  containerPort: number;
  /** Where traffic goes on this machine. Default `127.0.0.1:containerPort`. */
  to?: LocalAddress;
  /** Answers requests in this process instead of a local server. Only for expose. */
  fetch?: FetchHandler;
  /** What the local server gets as Host. Default `rewrite`. */
  hostHeader?: HostHeader;
  /** A name for the kit's listings. */
  label?: string;
  /** Takes the port from the session that has it. Only for expose. */
  takeover?: boolean;
  /** Where a pull binding listens in the container. Default `127.0.0.1`. */
  host?: '127.0.0.1' | '::1' | 'localhost';
  /** Gives the request up when aborted. */
  signal?: AbortSignal;
}

/** Options of `tunnel.expose`. */
export type ExposeOptions = SessionOptions & Omit<BindOptions, 'mode' | 'kind' | 'fetch' | 'host'>;
/** Options of `tunnel.pull`. */
export type PullOptions = SessionOptions &
  Pick<BindOptions, 'containerPort' | 'label' | 'host'> & {
    /** Where traffic goes on this machine. Required when `containerPort` is 0. */
    to?: LocalAddress;
  };
/** Options of `tunnel.serve`. */
export type ServeOptions = SessionOptions &
  Pick<BindOptions, 'containerPort' | 'label' | 'takeover'> & {
    /** Answers requests. */
    fetch: FetchHandler;
  };

/** Session options with their defaults. */
export interface CheckedSession {
  connectUrl: URL;
  token: Token | undefined;
  kitHeaders: Record<string, string>;
  ca: string | string[] | undefined;
  maxConnections: number;
  resumeSessionId: string | undefined;
  reconnect: boolean;
  connectTimeout: number;
  requestTimeout: number;
  signal: AbortSignal | undefined;
}

/** Binding options with their defaults. */
export interface CheckedBind {
  kind: BindKind;
  mode: BindMode;
  containerPort: number;
  to: LocalAddress | undefined;
  fetch: FetchHandler | undefined;
  hostHeader: HostHeader;
  label: string | undefined;
  takeover: boolean;
  host: string | undefined;
}

/** Where a kit takes tunnels. */
const CONNECT_PATH = '/api/v1/tunnel/connect';

/** Checks how to reach a kit. */
export function checkKit(options: KitOptions): URL {
  must(isRecord(options), 'options must be an object');
  const url = parseUrl(options.url);
  const { token, kitHeaders, ca } = options;
  must(
    token === undefined || typeof token === 'function' || isGoodToken(token),
    'token must be a string of printable characters that is not empty, or a function',
  );
  must(kitHeaders === undefined || isRecord(kitHeaders), 'kitHeaders must be an object');
  for (const [name, value] of Object.entries(kitHeaders ?? {})) {
    must(
      isToken(name) && typeof value === 'string' && isFieldValue(value),
      `kitHeaders: ${JSON.stringify(name)} is no header field, or its value would break its line`,
    );
  }
  must(
    ca === undefined || (Array.isArray(ca) ? ca.length > 0 && ca.every(isPem) : isPem(ca)),
    'ca must be certificates as PEM text, or a list of it; not the path of a file',
  );
  return url;
}

function isPem(ca: unknown): boolean {
  return typeof ca === 'string' && /-----BEGIN [A-Z0-9 ]*CERTIFICATE-----/.test(ca);
}

/** Checks a token, also one that a function returned. */
export function isGoodToken(token: unknown): token is string {
  return typeof token === 'string' && /^[\x21-\x7e]+$/.test(token);
}

/** Checks what a session is made of. */
export function checkSession(options: SessionOptions, reconnect: boolean): CheckedSession {
  const connectUrl = checkKit(options);
  const maxConnections = options.maxConnections ?? 1;
  must(isInteger(maxConnections, 1, 16), 'maxConnections must be a whole number from 1 to 16');
  const { resumeSessionId, signal } = options;
  must(
    resumeSessionId === undefined ||
      (typeof resumeSessionId === 'string' && /^[\x21-\x7e]{1,128}$/.test(resumeSessionId)),
    'resumeSessionId must be the id of a session',
  );
  must(
    options.reconnect === undefined || typeof options.reconnect === 'boolean',
    'reconnect must be true or false',
  );
  must(signal === undefined || signal instanceof AbortSignal, 'signal must be an AbortSignal');
  return {
    connectUrl,
    token: options.token,
    kitHeaders: { ...options.kitHeaders },
    ca: options.ca,
    maxConnections,
    resumeSessionId,
    reconnect: options.reconnect ?? reconnect,
    connectTimeout: milliseconds(options.connectTimeout, 'connectTimeout'),
    requestTimeout: milliseconds(options.requestTimeout, 'requestTimeout'),
    signal,
  };
}

/** Checks what is to be bound. */
export function checkBind(options: BindOptions): CheckedBind {
  must(isRecord(options), 'options must be an object');
  const { mode, containerPort, to, fetch, hostHeader, label, host } = options;
  must(['expose', 'pull'].includes(mode), "mode must be 'expose' or 'pull'");
  const kind = options.kind ?? (mode === 'expose' ? 'http' : 'tcp');
  must(
    (mode === 'expose' && kind === 'http') || (mode === 'pull' && kind === 'tcp'),
    "kind must be 'http' for expose and 'tcp' for pull",
  );
  must(isInteger(containerPort, 0, 65_535), 'containerPort must be a whole number up to 65535');
  must(fetch === undefined || typeof fetch === 'function', 'fetch must be a function');
  must(fetch === undefined || mode === 'expose', 'fetch answers HTTP: it is for expose alone');
  must(fetch === undefined || to === undefined, 'give either to or fetch, not both');
  if (to !== undefined) checkAddress(to);
  must(
    to !== undefined || fetch !== undefined || containerPort !== 0,
    'to is needed when containerPort is 0: there is no port to fall back on',
  );
  must(
    hostHeader === undefined || (typeof hostHeader === 'string' && isHostName(hostHeader)),
    "hostHeader must be 'rewrite', 'keep' or a host name",
  );
  must(label === undefined || typeof label === 'string', 'label must be a string');
  must(options.takeover !== true || mode === 'expose', 'takeover is for expose alone');
  must(
    host === undefined || (mode === 'pull' && ['127.0.0.1', '::1', 'localhost'].includes(host)),
    "host is for pull alone, and must be '127.0.0.1', '::1' or 'localhost'",
  );
  return {
    kind,
    mode,
    containerPort,
    to,
    fetch,
    hostHeader: hostHeader ?? 'rewrite',
    label,
    takeover: options.takeover === true,
    host,
  };
}

/** The URL of an administrative endpoint beside `/connect`. */
export function adminUrl(connectUrl: URL, endpoint: string): URL {
  const url = new URL(connectUrl);
  url.protocol = url.protocol === 'wss:' ? 'https:' : 'http:';
  url.pathname = url.pathname.replace(/\/connect\/?$/, '') + `/${endpoint}`;
  return url;
}

function parseUrl(value: unknown): URL {
  const text = value instanceof URL ? value.href : value;
  must(typeof text === 'string' && URL.canParse(text), 'url must be an address such as wss://host');
  const url = new URL(text);
  const scheme = { 'http:': 'ws:', 'https:': 'wss:', 'ws:': 'ws:', 'wss:': 'wss:' }[url.protocol];
  must(scheme !== undefined, 'url must start with ws://, wss://, http:// or https://');
  must(url.username === '' && url.password === '', 'url must not hold credentials: use token');
  // The schemes of HTTP and WebSocket are of one kind, so that the setter accepts the change.
  url.protocol = scheme;
  url.hash = '';
  if (url.pathname === '/' || url.pathname === '') url.pathname = CONNECT_PATH;
  return url;
}

function checkAddress(to: LocalAddress): void {
  must(isRecord(to), 'to must be { host, port }');
  must(
    typeof to.host === 'string' && /^[0-9A-Za-z.:[\]_-]{1,253}$/.test(to.host),
    'to.host must be a host name or an address',
  );
  must(isInteger(to.port, 1, 65_535), 'to.port must be a whole number from 1 to 65535');
}

function isHostName(value: string): boolean {
  return /^[0-9A-Za-z.:[\]_-]{1,253}$/.test(value);
}

/** A time-out with its default, checked. */
export function milliseconds(value: number | undefined, name: string): number {
  const ms = value ?? 10_000;
  must(isInteger(ms, 1, 3_600_000), `${name} must be milliseconds from 1 to 3600000`);
  return ms;
}

function isInteger(value: unknown, least: number, most: number): boolean {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

function isRecord(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

function must(good: boolean, message: string): asserts good {
  if (!good) throw new OptionsError(message);
}
