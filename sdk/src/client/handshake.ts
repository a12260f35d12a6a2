/**
 * The first frames on a new WebSocket: HELLO for a session, JOIN for one more lane (PROTOCOL §2,
 * §7), and what a refusal means.
 */
import { performance } from 'node:perf_hooks';
import { Code, codeName } from '../wire/code.js';
import {
  readGoaway,
  readHelloOk,
  readJoinOk,
  readRefusal,
  type Goaway,
  type Hello,
  type Join,
  type JoinOk,
  type Resume,
} from '../wire/control.js';
import { decodeMessage, encodeFrame, FrameType, HEADER_BYTES, WireError } from '../wire/frame.js';
import type { MuxLimits } from '../mux/limits.js';
import { onAbort } from './abort.js';
import { dial, DialTimeout, UpgradeRefused, type DialOptions, type KitSocket } from './dial.js';
import {
  AuthError,
  ClosedError,
  LostError,
  ProtocolError,
  ResumeExpiredError,
  SessionLimitError,
  TunnelError,
  TunnelTimeoutError,
} from './errors.js';
import { networkError } from './network.js';
import type { CheckedSession } from './options.js';
import { currentToken } from './token.js';
import type { HelloOk } from '../wire/terms.js';

/** How often something is sent on every lane, in milliseconds; told in HELLO (PROTOCOL §6). */
export const PING_EVERY_MS = 2000;

/** Streams of a session, where an older kit does not say. */
const DEFAULT_STREAMS = 1024;

/** The subprotocol with one socket, and the one with several. */
const V1 = 'hoody-tunnel.v1';
const V2 = 'hoody-tunnel.v2';

/** Called in the turn in which the kit said yes, with what followed in the same message. */
type Accepted<T> = (socket: KitSocket, answer: T, rest: Buffer) => void;

/** What a kit answered to JOIN when it said no. */
export class JoinRefused extends Error {
  override readonly name = 'JoinRefused';
  constructor(readonly kitCode: string) {
    super(`JOIN was refused: ${kitCode}`);
  }
}

/** Dials and says HELLO. Rejects with a `TunnelError`, or with the signal's reason. */
export async function sayHello(
  config: CheckedSession,
  url: URL,
  resume: () => Resume | undefined,
  timeoutMs: number,
  signal: AbortSignal,
  accepted: Accepted<HelloOk>,
): Promise<void> {
  const left = countdown(timeoutMs);
  const token = await currentToken(config.token, timeoutMs, signal);
  const protocols = config.maxConnections > 1 ? [V2, V1] : [V1];
  let socket: KitSocket;
  try {
    socket = await dial(dialOptions(config, url, token, protocols, left()), signal);
  } catch (error) {
    signal.throwIfAborted();
    throw dialError(error, timeoutMs, url);
  }
  config.life.add(socket);
  const version = socket.protocol === V2 ? V2 : V1;
  const hello: Hello = { version, pingEveryMs: PING_EVERY_MS };
  if (token !== undefined) hello.auth = { kind: 'bearer', token };
  const capabilities = ['header-case', 'trailers', 'long-heads', 'tcp-expose', 'forward'];
  if (version === V2) {
    capabilities.push('multi-ws');
    hello.maxConnections = config.maxConnections;
  }
  if (config.replayBuffer > 0) {
    capabilities.push('replay');
    hello.replayBuffer = config.replayBuffer;
  }
  hello.capabilities = capabilities;
  // As late as this, for it tells which lanes stand.
  const known = resume();
  if (known !== undefined) hello.resume = known;
  const limits = { left: left(), of: timeoutMs, signal };
  await exchange(socket, FrameType.Hello, hello, limits, (type, payload, rest) => {
    if (type === FrameType.Goaway && known?.only === true) {
      const { code, final } = readGoaway(payload);
      if (code === Code.Cancel && final !== true) throw new ResumeExpiredError();
    }
    if (type !== FrameType.HelloOk) return false;
    accepted(socket, readHelloOk(payload), rest);
    return true;
  });
}

/** Dials and says JOIN; `timeoutMs` is for all of it. */
export async function sayJoin(
  config: CheckedSession,
  url: URL,
  join: Join,
  timeoutMs: number,
  signal: AbortSignal,
  accepted: Accepted<JoinOk>,
): Promise<void> {
  const left = countdown(timeoutMs);
  const token = await currentToken(config.token, timeoutMs, signal);
  const socket = await dial(dialOptions(config, url, token, [V2], left()), signal);
  config.life.add(socket);
  const limits = { left: left(), of: timeoutMs, signal };
  await exchange(socket, FrameType.Join, join, limits, (type, payload, rest) => {
    if (type === FrameType.JoinErr) throw new JoinRefused(readRefusal(payload, 'JOIN_ERR').code);
    if (type !== FrameType.JoinOk) return false;
    accepted(socket, readJoinOk(payload), rest);
    return true;
  });
}

/** What a GOAWAY means to whoever waits. */
export function goawayError(goaway: Goaway): TunnelError {
  const why = `The kit ended the session: ${goaway.message || codeName(goaway.code)}`;
  if (goaway.final === true && goaway.code !== Code.AuthError) {
    return new ClosedError(goaway.message || codeName(goaway.code), true);
  }
  switch (goaway.code) {
    case Code.AuthError:
      return new AuthError(why);
    case Code.ResourceExhausted:
      return new SessionLimitError(goaway.message);
    case Code.NoError:
    case Code.Cancel:
    case Code.IdleTimeout:
      return new ClosedError(goaway.message || codeName(goaway.code));
    default:
      return new ProtocolError(why);
  }
}

/** What a handshake may take in all, token and dial included, and what of it is left. */
interface Limits {
  left: number;
  of: number;
  signal: AbortSignal;
}

/** Counts down from `ms`, to 1 at the least: timers take no less. */
function countdown(ms: number): () => number {
  const deadline = performance.now() + ms;
  return () => Math.max(1, Math.ceil(deadline - performance.now()));
}

/** Sends one frame and waits for the answer that `take` accepts. */
function exchange(
  socket: KitSocket,
  type: number,
  json: object,
  { left, of, signal }: Limits,
  take: (type: number, payload: Buffer, rest: Buffer) => boolean,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      clearTimeout(timer);
      stop();
    };
    // Of one that was given up, an answer may still be read.
    let isOver = false;
    const over = (error: unknown): void => {
      isOver = true;
      settle();
      socket.terminate();
      reject(error);
    };
    const aborted = (): void => over(signal.reason);
    const timer = setTimeout(() => over(new TunnelTimeoutError('HELLO', of)), left);
    const stop = onAbort(signal, aborted);
    if (signal.aborted) return aborted();
    socket.user = {
      message: (message) => {
        if (isOver) return;
        try {
          if (!firstFrame(message, take)) return;
          settle();
          resolve();
        } catch (error) {
          over(error instanceof WireError ? new ProtocolError(error.message) : error);
        }
      },
      text: () => over(new ProtocolError('The kit sent a text message')),
      drain: () => undefined,
      pinged: () => undefined,
      closed: (code, reason) => over(closeError(code, reason)),
    };
    socket.send(encodeFrame(type, 0, Buffer.from(JSON.stringify(json))));
  });
}

function firstFrame(
  message: Buffer,
  take: (type: number, payload: Buffer, rest: Buffer) => boolean,
): boolean {
  const frame = decodeMessage(message)[0];
  if (frame === undefined) return false;
  const rest = message.subarray(HEADER_BYTES + frame.payload.length);
  if (take(frame.type, frame.payload, rest)) return true;
  if (frame.type === FrameType.Goaway) throw goawayError(readGoaway(frame.payload));
  throw new ProtocolError(`The kit answered with a frame of type 0x${frame.type.toString(16)}`);
}

function dialOptions(
  config: CheckedSession,
  url: URL,
  token: string | undefined,
  protocols: string[],
  timeoutMs: number,
): DialOptions {
  const headers = { ...config.kitHeaders };
  // A proxy in front may want an Authorization of its own; the kit then takes the one in HELLO.
  const taken = Object.keys(headers).some((name) => name.toLowerCase() === 'authorization');
  if (token !== undefined && !taken) headers['authorization'] = `Bearer ${token}`;
  return { url, protocols, headers, ca: config.ca, timeoutMs };
}

function dialError(error: unknown, timeoutMs: number, { host: where }: URL): TunnelError {
  if (error instanceof DialTimeout) {
    return new TunnelTimeoutError(`Connecting to ${where}`, timeoutMs, error);
  }
  if (error instanceof UpgradeRefused) {
    if (error.status === 401 || error.status === 403)
      return new AuthError(`${where}: ${error.message}`);
    if (error.status < 500 && error.status !== 429) {
      return new ProtocolError(`${where} is no tunnel kit: ${error.message}`);
    }
  }
  return networkError('No connection to', where, error);
}

function closeError(code: number, reason: string): TunnelError {
  const why = `The kit closed the connection with ${code}${reason === '' ? '' : ` (${reason})`}`;
  if (code === 1008) return new AuthError(why);
  if (code === 1013) return new SessionLimitError(reason);
  if (code === 1002 || code === 1003) return new ProtocolError(why);
  return new LostError(why);
}

/** What a kit's answer to HELLO allows the streams of the session. */
export function grantedBy(hello: HelloOk): MuxLimits {
  const { streamWindow, sessionWindow, capabilities } = hello;
  // The kit keeps to it, but of some streams it knows the end before we do: while a local server
  // takes the last bytes slowly, or where the end comes on a lane that is slower than that of the
  // next stream's beginning.
  const maxStreams = 2 * (hello.maxStreams ?? DEFAULT_STREAMS);
  const headerCase = capabilities.includes('header-case');
  const trailers = capabilities.includes('trailers');
  const longHeads = capabilities.includes('long-heads');
  const forward = capabilities.includes('forward');
  return { streamWindow, sessionWindow, maxStreams, headerCase, trailers, longHeads, forward };
}
