/**
 * The options that callers pass, checked before any socket is opened.
 */
import type { Ending } from './goodbye.js';
import { REPLAY_BUFFER, REPLAY_BUFFER_LEAST } from '../mux/limits.js';
import { LONGEST_HEAD, MOST_FIELDS } from '../wire/parts.js';
import { asText, checkFields, isCa, isInteger, isRecord, must, only, pick } from './check.js';
import { fromEnvironment } from './environment.js';
import { OptionsError } from './errors.js';
import { readTarget, type LocalTarget } from '../local/address.js';
import type {
  ErrorHandler,
  FetchHandler,
  HeadLimits,
  HostHeader,
  LocalAddress,
  ProxyProtocol,
} from '../local/terms.js';
import { Life } from './life.js';
import type { BindKind, BindMode } from '../wire/terms.js';

/** A token, or a function that gets one; asked at every dial. */
export type Token = string | (() => string | Promise<string>);

/** Header fields: an object, a `Headers`, or pairs of name and value. */
export type HeaderFields = Record<string, string> | Iterable<readonly [string, string]>;

/** PEM text, as text or as the bytes of a file, or a list of it. */
export type Certificates = string | Uint8Array | readonly (string | Uint8Array)[];

/** How to reach a kit. */
export interface KitOptions {
  /**
   * `wss://host`, `ws://host:port`, or the full address of `/api/v1/tunnel/connect`. Several, as a list
   * or with commas between them, are ways to the same kit: WebSockets are spread over them, and one
   * that is lost is dialled anew by the best of them. The first one names the kit. Default: what
   * `HOODY_TUNNEL_URL` says.
   */
  url?: string | URL | readonly (string | URL)[] | undefined;
  /** The kit's token; blanks around it do not count. Default: what `HOODY_TUNNEL_TOKEN` says. */
  token?: Token | undefined;
  /** Header fields for a proxy in front of the kit. */
  kitHeaders?: HeaderFields | undefined;
  /** Certificates of authorities (PEM text) to trust in place of the runtime's own. */
  ca?: Certificates | undefined;
}

/** How to ask a kit's administrative endpoints. */
export interface AdminOptions extends KitOptions {
  /** Milliseconds until one request must be answered, 1 to 3600000. Default 10000. */
  timeout?: number | undefined;
}

/** Where a session keeps its state, as text; `set` is given undefined when there is none. */
export interface StateStore {
  get(): string | undefined | Promise<string | undefined>;
  set(text: string | undefined): void | Promise<void>;
}

/** How a session connects and stays connected. */
export interface SessionOptions extends KitOptions {
  /** WebSockets of this session, 1 to 16. Default 1. */
  maxConnections?: number | undefined;
  /** A session to take up again; `connect` fails with `RESUME_EXPIRED` when it is gone. */
  resumeSessionId?: string | undefined;
  /**
   * Where its id and bindings are kept, so that a later session gets its ports back: the path of a
   * file, a store, or false for nowhere. Default: in this process, until it is closed.
   */
  state?: string | false | StateStore | undefined;
  /**
   * Bytes that each WebSocket keeps until the kit has them, so that streams survive a loss. Default
   * 4 MiB; 0 for none.
   */
  replayBuffer?: number | undefined;
  /** Whether a lost connection is dialled again. Default false here, true for the one-call forms. */
  reconnect?: boolean | undefined;
  /** Milliseconds until the first connection must be up, 1 to 3600000. Default 10000. */
  connectTimeout?: number | undefined;
  /** Milliseconds that the kit may take to answer BIND or UNBIND, likewise. Default 10000. */
  requestTimeout?: number | undefined;
  /** Connections to local servers at once, 1 to 65535. Default 4096, or what descriptors allow. */
  maxLocalConnections?: number | undefined;
  /** Handlers (`fetch`) that run at once, 1 to 65535. Default 512. */
  maxHandlers?: number | undefined;
  /** Bytes of a local server's answer before its body, 4096 to 262144. Default 262144. */
  maxHead?: number | undefined;
  /** Fields of it, 16 to 1000. Default 1000. */
  maxFields?: number | undefined;
  /** Closes the session when aborted. */
  signal?: AbortSignal | undefined;
}

/** One binding. */
export interface BindOptions {
  /**
   * Default `http` for expose and `tcp` for pull. With `tcp`, expose carries bytes as they come, for
   * TLS, gRPC, SSH and the like; the kit has to grant that.
   */
  kind?: BindKind | undefined;
  mode: BindMode;
  /** The port in the container; without one, or with 0, the kit chooses. */
  containerPort?: number | null | undefined;
  /** Where traffic goes on this machine. Default `localhost:containerPort`. */
  to?: LocalAddress | undefined;
  /** Certificates of authorities (PEM text) that a local server's own must come from (`https:`). */
  upstreamCa?: Certificates | undefined;
  /** Whether any certificate of a local server does. On this machine any does without it. */
  upstreamInsecure?: boolean | undefined;
  /** Fields of every request to the local server, in the place of the visitor's. */
  headers?: HeaderFields | undefined;
  /** Answers requests in this process instead of a local server. Only for expose. */
  fetch?: FetchHandler | undefined;
  /** Told what goes wrong in `fetch`, and may answer; without it that is printed. */
  onError?: ErrorHandler | undefined;
  /** What the local server gets as Host. Default `rewrite`. */
  hostHeader?: HostHeader | undefined;
  /** A name for the kit's listings, of 1000 characters at the most. */
  label?: string | undefined;
  /** Takes the port from the session that has it. Only for expose. */
  takeover?: boolean | undefined;
  /** Where a pull binding listens in the container. Default `127.0.0.1`. */
  host?: '127.0.0.1' | '::1' | 'localhost' | undefined;
  /** Tells the local server first who is calling, by the PROXY protocol. Only for TCP. */
  proxyProtocol?: ProxyProtocol | undefined;
  /** Gives the request up when aborted. */
  signal?: AbortSignal | undefined;
}

/** What all one-call forms know. */
export interface CallOptions extends SessionOptions {
  /**
   * Whether tunnels of the same session options have one session together, which is so unless there
   * is a `signal` or a `resumeSessionId`, or one of this one's own.
   */
  session?: 'shared' | 'new' | undefined;
  /**
   * Whether the tunnel is closed at SIGINT, SIGTERM and `beforeExit`. Default true, but for SIGTERM
   * where `state` is kept: watchers restart programs by it.
   */
  closeOnExit?: boolean | undefined;
}

/** Options of `tunnel.expose`. */
export type ExposeOptions = CallOptions & Omit<BindOptions, 'mode' | 'fetch' | 'onError' | 'host'>;
/** Options of `tunnel.pull`. */
export type PullOptions = CallOptions &
  Pick<BindOptions, 'containerPort' | 'label' | 'host' | 'proxyProtocol'> & {
    /** Where traffic goes on this machine. Required where the kit chooses the port. */
    to?: LocalAddress | undefined;
  };
/** Options of `tunnel.serve`. */
export type ServeOptions = CallOptions &
  Pick<BindOptions, 'containerPort' | 'label' | 'takeover' | 'onError'> & {
    /** Answers requests. */
    fetch: FetchHandler;
  };

/** Session options with their defaults. */
export interface CheckedSession extends CheckedKit {
  maxConnections: number;
  resumeSessionId: string | undefined;
  state: string | false | StateStore | undefined;
  reconnect: boolean;
  /** 0 where streams end with their connection. */
  replayBuffer: number;
  connectTimeout: number;
  requestTimeout: number;
  maxLocalConnections: number | undefined;
  maxHandlers: number;
  /** How large the heads of local servers' answers may be. */
  heads: HeadLimits;
  signal: AbortSignal | undefined;
  life: Life;
}

/** Binding options with their defaults. */
export interface CheckedBind {
  kind: BindKind;
  mode: BindMode;
  containerPort: number;
  to: LocalTarget | undefined;
  upstreamCa: string | string[] | undefined;
  upstreamInsecure: boolean;
  headers: [string, string][];
  fetch: FetchHandler | undefined;
  onError: ErrorHandler | undefined;
  hostHeader: HostHeader;
  label: string | undefined;
  takeover: boolean;
  host: string | undefined;
  proxyProtocol: ProxyProtocol | undefined;
}

/** The longest name of a binding: BIND has to fit into one frame. */
const MAX_LABEL = 1000;

/** What of the options is about the kit. */
const KIT_KEYS = ['url', 'token', 'kitHeaders', 'ca'] as const;

/** What of the options is about the session. */
const SESSION_KEYS = [
  ...KIT_KEYS,
  'maxConnections',
  'resumeSessionId',
  'state',
  'replayBuffer',
  'reconnect',
  'connectTimeout',
  'requestTimeout',
  'maxLocalConnections',
  'maxHandlers',
  'maxHead',
  'maxFields',
  'signal',
] as const satisfies (keyof SessionOptions)[];

/** What of the options is about the binding. */
const BIND_KEYS = [
  'kind',
  'containerPort',
  'label',
  'to',
  'upstreamCa',
  'upstreamInsecure',
  'headers',
  'takeover',
  'hostHeader',
  'host',
  'proxyProtocol',
  'fetch',
  'onError',
] as const satisfies (keyof BindOptions)[];

/** The most addresses of one kit. */
const MAX_URLS = 16;
/** Where a kit takes tunnels. */
const CONNECT_PATH = '/api/v1/tunnel/connect';

/** How to reach a kit, checked. */
export interface CheckedKit {
  /** The first of `urls`. */
  connectUrl: URL;
  urls: URL[];
  token: Token | undefined;
  kitHeaders: Record<string, string>;
  ca: string | string[] | undefined;
}

/** Checks how to reach a kit. */
export function checkKit(options: KitOptions): CheckedKit {
  must(isRecord(options), 'options must be an object');
  const urls = parseUrls(options.url ?? fromEnvironment('HOODY_TUNNEL_URL'));
  const [connectUrl] = urls;
  must(
    connectUrl !== undefined && urls.length <= MAX_URLS,
    `url must be 1 to ${MAX_URLS} addresses`,
  );
  const given = options.token === undefined ? fromEnvironment('HOODY_TUNNEL_TOKEN') : options.token;
  const token = typeof given === 'string' ? given.trim() : given;
  const ca = asText(options.ca);
  must(
    token === undefined || typeof token === 'function' || isGoodToken(token),
    'token must be a string of 1 to 16384 printable characters, or a function',
  );
  must(isCa(ca), 'ca must be certificates as PEM text, or a list of it; not the path of a file');
  const kitHeaders = checkFields(options.kitHeaders, 'kitHeaders', OURS);
  return { connectUrl, urls, token, kitHeaders, ca };
}

/** Fields that make the upgrade, or frame it. */
const OURS =
  /^(connection|upgrade|content-length|transfer-encoding|te|trailer|expect|sec-websocket-.*)$/;

/** Fields that frame a request, end at the next hop, or name its server, for which there is `hostHeader`. */
const FRAMING =
  /^(connection|keep-alive|proxy-connection|upgrade|content-length|transfer-encoding|te|trailer|expect|host)$/;

/** Checks a token, also one that a function returned. */
export function isGoodToken(token: unknown): token is string {
  return typeof token === 'string' && /^[\x21-\x7e]{1,16384}$/.test(token);
}

/** Checks what a session is made of. */
export function checkSession(options: SessionOptions, reconnect: boolean): CheckedSession {
  const kit = checkKit(options);
  only(options, SESSION_KEYS, 'a session');
  const { maxConnections = 1 } = options;
  must(isInteger(maxConnections, 1, 16), 'maxConnections must be a whole number from 1 to 16');
  const { resumeSessionId, signal, maxLocalConnections, maxHandlers = 512 } = options;
  for (const [name, value] of Object.entries({ maxLocalConnections, maxHandlers })) {
    const good = value === undefined || isInteger(value, 1, 65_535);
    must(good, `${name} must be a whole number from 1 to 65535`);
  }
  must(
    resumeSessionId === undefined || isId(resumeSessionId),
    'resumeSessionId must be the id of a session',
  );
  must(
    options.reconnect === undefined || typeof options.reconnect === 'boolean',
    'reconnect must be true or false',
  );
  const { state, replayBuffer = REPLAY_BUFFER } = options;
  must(
    replayBuffer === 0 || isInteger(replayBuffer, REPLAY_BUFFER_LEAST, 2 ** 30),
    `replayBuffer must be 0, or bytes from ${REPLAY_BUFFER_LEAST} to ${2 ** 30}`,
  );
  const dialsAgain = options.reconnect ?? reconnect;
  must(
    state === undefined || state === false || isPath(state) || isStore(state),
    'state must be the path of a file, { get, set }, or false',
  );
  checkSignal(signal);
  return {
    ...kit,
    maxConnections,
    resumeSessionId,
    state,
    reconnect: dialsAgain,
    // Nobody would come back to what is kept.
    replayBuffer: dialsAgain ? replayBuffer : 0,
    connectTimeout: milliseconds(options.connectTimeout, 'connectTimeout'),
    requestTimeout: milliseconds(options.requestTimeout, 'requestTimeout'),
    maxLocalConnections,
    maxHandlers,
    heads: checkHeads(options),
    signal,
    life: new Life(),
  };
}

function checkHeads(options: SessionOptions): HeadLimits {
  const { maxHead = LONGEST_HEAD, maxFields = MOST_FIELDS } = options;
  must(
    isInteger(maxHead, 4096, LONGEST_HEAD),
    `maxHead must be bytes from 4096 to ${LONGEST_HEAD}`,
  );
  must(
    isInteger(maxFields, 16, MOST_FIELDS),
    `maxFields must be a whole number from 16 to ${MOST_FIELDS}`,
  );
  return { bytes: maxHead, fields: maxFields };
}

/** Whether a value can be the id of a session. */
export function isId(value: unknown): value is string {
  return typeof value === 'string' && /^[\x21-\x7e]{1,128}$/.test(value);
}

function isPath(value: unknown): boolean {
  return typeof value === 'string' && value !== '' && !value.includes('\0');
}

function isStore(value: unknown): boolean {
  const { get, set } = isRecord(value) ? (value as Partial<StateStore>) : {};
  return typeof get === 'function' && typeof set === 'function';
}

/** Checks a signal, wherever one is passed. */
export function checkSignal(signal: unknown): asserts signal is AbortSignal | undefined {
  must(signal === undefined || signal instanceof AbortSignal, 'signal must be an AbortSignal');
}

/** Checks the options of a single call. */
export function checkCall(options: object, keys: readonly string[]): void {
  must(isRecord(options), 'options must be an object');
  only(options, keys, 'this call');
  checkSignal((options as { signal?: unknown }).signal);
}

/** Checks what `close` is asked for; returns how long what runs may take to finish. */
export function checkGrace(options: { graceMs?: number | undefined }): number {
  checkCall(options, ['graceMs']);
  const { graceMs = 5000 } = options;
  must(isInteger(graceMs, 0, 3_600_000), 'graceMs must be milliseconds from 0 to 3600000');
  return graceMs;
}

/** Checks what is to be bound. */
export function checkBind(options: BindOptions): CheckedBind {
  must(isRecord(options), 'options must be an object');
  only(options, ['mode', 'signal', ...BIND_KEYS], 'a binding');
  checkSignal(options.signal);
  const { mode, fetch, onError, hostHeader, label, host, takeover } = options;
  const containerPort = options.containerPort ?? 0;
  must(['expose', 'pull'].includes(mode), "mode must be 'expose' or 'pull'");
  const { kind = mode === 'expose' ? 'http' : 'tcp' } = options;
  must(
    ['http', 'tcp'].includes(kind) && (kind === 'tcp' || mode === 'expose'),
    "kind must be 'http' or 'tcp' for expose, and 'tcp' for pull",
  );
  must(isInteger(containerPort, 0, 65_535), 'containerPort must be a whole number up to 65535');
  checkHandlers(options, kind);
  const to = options.to === undefined ? undefined : checkTarget(options.to, kind);
  must(
    to !== undefined || fetch !== undefined || containerPort !== 0,
    'to is needed where the kit chooses the port: there is none to fall back on',
  );
  const upstreamCa = asText(options.upstreamCa);
  const { upstreamInsecure = false } = options;
  must(typeof upstreamInsecure === 'boolean', 'upstreamInsecure must be true or false');
  const ofTls = upstreamCa !== undefined || upstreamInsecure;
  must(
    !ofTls || to?.secure === true,
    'upstreamCa and upstreamInsecure are for https targets alone',
  );
  must(isCa(upstreamCa), 'upstreamCa must be certificates as PEM text, or a list of it');
  const headers = Object.entries(checkFields(options.headers, 'headers', FRAMING));
  must(
    headers.length === 0 || (kind === 'http' && fetch === undefined),
    'headers are for a local HTTP server alone',
  );
  must(
    hostHeader === undefined || (typeof hostHeader === 'string' && isHostName(hostHeader)),
    "hostHeader must be 'rewrite', 'keep' or a host name",
  );
  must(
    hostHeader === undefined || (kind === 'http' && fetch === undefined),
    'hostHeader is for a local HTTP server alone',
  );
  must(
    label === undefined || (typeof label === 'string' && isLabel(label)),
    `label must be one line of ${MAX_LABEL} characters at the most`,
  );
  must(takeover === undefined || typeof takeover === 'boolean', 'takeover must be true or false');
  must(takeover !== true || mode === 'expose', 'takeover is for expose alone');
  checkTcp(options, kind);
  return {
    kind,
    mode,
    containerPort,
    to,
    upstreamCa,
    upstreamInsecure,
    headers,
    fetch,
    onError,
    hostHeader: hostHeader ?? 'rewrite',
    label,
    takeover: takeover === true,
    host,
    proxyProtocol: options.proxyProtocol,
  };
}

function checkTcp({ host, proxyProtocol, mode }: BindOptions, kind: BindKind): void {
  must(
    host === undefined || (mode === 'pull' && ['127.0.0.1', '::1', 'localhost'].includes(host)),
    "host is for pull alone, and must be '127.0.0.1', '::1' or 'localhost'",
  );
  must(
    proxyProtocol === undefined || (kind === 'tcp' && [1, 2].includes(proxyProtocol)),
    'proxyProtocol is for TCP alone, and must be 1 or 2',
  );
}

function checkHandlers({ fetch, onError, to }: BindOptions, kind: BindKind): void {
  must(fetch === undefined || typeof fetch === 'function', 'fetch must be a function');
  must(fetch === undefined || kind === 'http', 'fetch answers HTTP: it is for expose alone');
  must(fetch === undefined || to === undefined, 'give either to or fetch, not both');
  must(
    onError === undefined || (typeof onError === 'function' && fetch !== undefined),
    'onError must be a function, beside fetch',
  );
}

/** What each one-call form knows of a binding, beside its port and label. */
const FORMS = {
  'tunnel.expose': [
    ...['kind', 'to', 'upstreamCa', 'upstreamInsecure', 'headers', 'takeover', 'hostHeader'],
    'proxyProtocol',
  ],
  'tunnel.pull': ['to', 'host', 'proxyProtocol'],
  'tunnel.serve': ['takeover', 'fetch', 'onError'],
} as const;

/** What a one-call form was asked for, beside what it is for. */
export interface Calling {
  session: SessionOptions;
  /** Nobody else is to have its session. */
  isNew: boolean;
  /** The signals at which it says goodbye; without any it does not at all. */
  leavesAt: readonly Ending[];
}

/** One that binds a port. */
export type Call = Calling & { bind: BindOptions };

const BOTH: readonly Ending[] = ['SIGINT', 'SIGTERM'];

/** What of the options is about the call. */
const CALL_KEYS = ['session', 'closeOnExit'] as const;

/** Takes the options of a one-call form apart; the parts are checked by whoever gets them. */
export function split(
  options: ExposeOptions | PullOptions | ServeOptions,
  mode: BindMode,
  form: keyof typeof FORMS,
): Call {
  const calling = forCall(options, ['containerPort', 'label', ...FORMS[form]], form);
  const bind = pick(options, [...BIND_KEYS, 'signal']);
  return { ...calling, bind: { ...bind, mode } };
}

/** What of the options of a one-call form is not about what it is for, of which there are `more`. */
export function forCall(options: CallOptions, more: readonly string[], form: string): Calling {
  must(isRecord(options), 'options must be an object');
  only(options, [...SESSION_KEYS, ...CALL_KEYS, ...more], form);
  const { session: sharing = 'shared', closeOnExit } = options;
  must(['shared', 'new'].includes(sharing), "session must be 'shared' or 'new'");
  must([undefined, true, false].includes(closeOnExit), 'closeOnExit must be true or false');
  // Whoever watches a program's files ends it by SIGTERM, to start it again on the same port.
  const comesBack =
    closeOnExit === undefined && !['undefined', 'boolean'].includes(typeof options.state);
  const leavesAt = closeOnExit === false ? [] : comesBack ? (['SIGINT'] as const) : BOTH;
  const session = pick(options, SESSION_KEYS) as unknown as SessionOptions;
  return { session, isNew: sharing === 'new', leavesAt };
}

/** Options of the administrative side with their defaults. */
export interface CheckedAdmin extends CheckedKit {
  timeout: number;
}

/** Checks the options of the administrative side. */
export function checkAdmin(options: AdminOptions): CheckedAdmin {
  const kit = checkKit(options);
  only(options, [...KIT_KEYS, 'timeout'], 'tunnel.admin');
  return { ...kit, timeout: milliseconds(options.timeout, 'timeout') };
}

/** The URL of an administrative endpoint beside `/connect`. */
export function adminUrl(connectUrl: URL, endpoint: string): URL {
  const url = new URL(connectUrl);
  url.protocol = url.protocol === 'wss:' ? 'https:' : 'http:';
  url.pathname = url.pathname.replace(/\/connect\/?$/, '') + `/${endpoint}`;
  return url;
}

function parseUrls(value: unknown): URL[] {
  const all: unknown[] = Array.isArray(value) ? value : [value];
  // A comma may be part of an address; one between two of them is followed by a scheme.
  const split = (one: unknown): unknown[] =>
    typeof one === 'string' ? one.split(/\s*,\s*(?=[a-z]+:\/\/)/i) : [one];
  return all.flatMap(split).map(parseUrl);
}

function parseUrl(value: unknown): URL {
  const text = value instanceof URL ? value.href : value;
  must(text !== undefined, 'url is needed, here or as HOODY_TUNNEL_URL: such as wss://host');
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

function checkTarget(to: unknown, kind: BindKind): LocalTarget {
  let target: LocalTarget;
  try {
    target = readTarget(to);
  } catch (error) {
    throw new OptionsError(error instanceof Error ? error.message : String(error));
  }
  const isPlain = target.prefix === '' && !target.secure;
  must(kind === 'http' || isPlain, 'a path and https: are for HTTP: TCP takes host and port');
  return target;
}

function isLabel(value: string): boolean {
  return value.length <= MAX_LABEL && !/\p{Cc}/u.test(value);
}

function isHostName(value: string): boolean {
  const host = /^(?:[0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?$/.exec(value);
  return host !== null && Number(host[1] ?? 1) <= 65_535;
}

/** A time-out with its default, checked. */
function milliseconds(value: number | undefined, name: string): number {
  const ms = value === undefined ? 10_000 : value;
  must(isInteger(ms, 1, 3_600_000), `${name} must be milliseconds from 1 to 3600000`);
  return ms;
}
