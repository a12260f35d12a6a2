/**
 * What is to be reached in the container's network, and where for it this machine listens; checked
 * before any socket is opened.
 */
import net from 'node:net';
import { readTarget, shownAs, type LocalTarget } from '../local/address.js';
import type { OpenForward } from '../wire/open-forward.js';
import { isInteger, isRecord, must, only, pick } from './check.js';
import { OptionsError } from './errors.js';
import { checkSignal, forCall, type Calling, type CallOptions } from './options.js';

/**
 * Something that the kit reaches, as the container sees it: `5432`, `'db:5432'`, `'[::1]:6379'`,
 * `'unix:/run/x.sock'`. A port alone is one of the container's `localhost`.
 */
export type ForwardTarget =
  | number
  | string
  | { host: string; port: number }
  | { /** The path of a Unix socket in the container. */ unix: string };

/** One forward. */
export interface ForwardOptions {
  /** What is reached. */
  from: ForwardTarget;
  /**
   * The port on this machine, 0 for any. Default: that of `from`, or the next one that is free; for
   * a Unix socket any.
   */
  localPort?: number | undefined;
  /** The address on this machine. Default `127.0.0.1`; any but a loopback address needs `allowFrom`. */
  localHost?: string | undefined;
  /** Who may connect, as addresses or networks (`192.168.1.0/24`); others are closed at once. */
  allowFrom?: string | readonly string[] | undefined;
  /** Closes the forward when aborted. */
  signal?: AbortSignal | undefined;
}

/** Options of `tunnel.forward`. */
export type ForwardCallOptions = CallOptions & ForwardOptions;

/** A forward with its defaults. */
export interface CheckedForward {
  /** What STREAM_OPEN says. */
  open: OpenForward;
  /** As people read it. */
  shown: string;
  localHost: string;
  /** The ports to try, the first one first; 0 is any. */
  localPorts: number[];
  /** Whether somebody who came from an address may connect. */
  admits: (address: string | undefined) => boolean;
  signal: AbortSignal | undefined;
}

const KEYS = ['from', 'localPort', 'localHost', 'allowFrom'] as const;
/** How many ports are tried, from that of the target on, before any will do. */
const TRIES = 100;

/** Checks a forward. */
export function checkForward(options: ForwardOptions): CheckedForward {
  must(isRecord(options), 'options must be an object');
  only(options, [...KEYS, 'signal'], 'a forward');
  const { localPort, localHost = '127.0.0.1', signal } = options;
  checkSignal(signal);
  const from = checkFrom(options.from);
  must(
    localPort === undefined || isInteger(localPort, 0, 65_535),
    'localPort must be a whole number up to 65535',
  );
  must(
    localHost === 'localhost' || net.isIP(localHost) !== 0,
    "localHost must be an address of this machine, or 'localhost'",
  );
  const allowed = networks(options.allowFrom);
  must(
    allowed !== undefined || isLoopback(localHost),
    `whoever reaches ${localHost} would reach the container: say who may, with allowFrom`,
  );
  const { socketPath: unix, host, port } = from;
  const open: OpenForward =
    unix === undefined
      ? { kind: 'tcp', mode: 'forward', host, port }
      : { kind: 'tcp', mode: 'forward', unix };
  return {
    open,
    shown: shownAs(from),
    localHost,
    localPorts: localPort === undefined ? portsFrom(port) : [localPort],
    admits: (address) => allowed === undefined || isIn(allowed, address),
    signal,
  };
}

/** Takes the options of `tunnel.forward` apart; the parts are checked by whoever gets them. */
export function splitForward(options: ForwardCallOptions): Calling & { forward: ForwardOptions } {
  const calling = forCall(options, KEYS, 'tunnel.forward');
  return { ...calling, forward: pick(options, KEYS) as unknown as ForwardOptions };
}

function checkFrom(from: unknown): LocalTarget {
  must(from !== undefined, "from is needed: what to reach in the container, such as 'db:5432'");
  const { unix } = isRecord(from) ? (from as { unix?: unknown }) : {};
  let target: LocalTarget;
  try {
    target = readTarget(unix === undefined ? from : { ...(from as object), ...socketOf(unix) });
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new OptionsError(why.replace(/^to\b/, 'from').replace(/ of to$/, ' of from'));
  }
  const isPlain = target.prefix === '' && !target.secure;
  must(isPlain, 'a path and http: are for expose: from takes host and port');
  return target;
}

function socketOf(unix: unknown): object {
  return { unix: undefined, socketPath: unix };
}

function portsFrom(port: number): number[] {
  if (port === 0) return [0];
  const most = Math.min(TRIES, 65_536 - port);
  return [...Array.from({ length: most }, (_, n) => port + n), 0];
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\./.test(host);
}

/** The networks of `allowFrom`; undefined where everybody who can connect may. */
function networks(allowFrom: unknown): net.BlockList | undefined {
  if (allowFrom === undefined) return undefined;
  const all: unknown[] = Array.isArray(allowFrom) ? allowFrom : [allowFrom];
  must(all.length > 0, 'allowFrom must name somebody');
  const list = new net.BlockList();
  for (const one of all) {
    const [, address, bits] = /^([^/]+)(?:\/([0-9]{1,3}))?$/.exec(String(one)) ?? [];
    const version = address === undefined ? 0 : net.isIP(address);
    const most = version === 4 ? 32 : 128;
    const length = bits === undefined ? most : Number(bits);
    must(
      typeof one === 'string' && address !== undefined && version !== 0 && length <= most,
      `allowFrom: ${String(one)} is no network: write 192.168.1.0/24, fd00::/8 or an address`,
    );
    list.addSubnet(address, length, version === 4 ? 'ipv4' : 'ipv6');
  }
  return list;
}

function isIn(list: net.BlockList, address: string | undefined): boolean {
  if (address === undefined) return false;
  // Where both families come to one port, the older one is written so.
  const plain = address.replace(/^::ffff:(?=[0-9.]+$)/i, '').replace(/%.*$/, '');
  return list.check(plain, net.isIP(plain) === 4 ? 'ipv4' : 'ipv6');
}
