/**
 * The first frames on a new WebSocket: HELLO for a session, JOIN for one more lane (PROTOCOL §2,
 * §7), and what a refusal means.
 */
import { Code, codeName } from '../wire/code.js';
import {
  readGoaway,
  readHelloOk,
  readRefusal,
  type Goaway,
  type Hello,
  type HelloOk,
  type JoinTicket,
} from '../wire/control.js';
import { decodeMessage, encodeFrame, FrameType, HEADER_BYTES, WireError } from '../wire/frame.js';
import { dial, DialTimeout, UpgradeRefused, type DialOptions, type KitSocket } from './dial.js';
import {
  AuthError,
  ClosedError,
  LostError,
  OptionsError,
  ProtocolError,
  SessionLimitError,
  TunnelError,
  TunnelTimeoutError,
} from './errors.js';
import { networkError } from './network.js';
import { isGoodToken, type CheckedSession } from './options.js';

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
  resumeId: string | undefined,
  timeoutMs: number,
  signal: AbortSignal,
  accepted: Accepted<HelloOk>,
): Promise<void> {
  const token = await tokenOf(config);
  const protocols = config.maxConnections > 1 ? [V2, V1] : [V1];
  let socket: KitSocket;
  try {
    socket = await dial(dialOptions(config, token, protocols, timeoutMs), signal);
  } catch (error) {
    signal.throwIfAborted();
    throw dialError(error, timeoutMs, config);
  }
  const version = socket.protocol === V2 ? V2 : V1;
  const hello: Hello = { version };
  if (token !== undefined) hello.auth = { kind: 'bearer', token };
  if (version === V2) {
    hello.capabilities = ['multi-ws'];
    hello.maxConnections = config.maxConnections;
  }
  if (resumeId !== undefined) hello.resume = { sessionId: resumeId };
  await exchange(socket, FrameType.Hello, hello, timeoutMs, signal, (type, payload, rest) => {
    if (type !== FrameType.HelloOk) return false;
    accepted(socket, readHelloOk(payload), rest);
    return true;
  });
}

/** Dials and says JOIN with a ticket. */
export async function sayJoin(
  config: CheckedSession,
  sessionId: string,
  ticket: JoinTicket,
  timeoutMs: number,
  signal: AbortSignal,
  accepted: Accepted<JoinTicket>,
): Promise<void> {
  const token = await tokenOf(config);
  const socket = await dial(dialOptions(config, token, [V2], timeoutMs), signal);
  const join = { sessionId, index: ticket.index, nonce: ticket.nonce };
  await exchange(socket, FrameType.Join, join, timeoutMs, signal, (type, payload, rest) => {
    if (type === FrameType.JoinErr) throw new JoinRefused(readRefusal(payload, 'JOIN_ERR').code);
    if (type !== FrameType.JoinOk) return false;
    accepted(socket, ticket, rest);
    return true;
  });
}

/** What a GOAWAY means to whoever waits. */
export function goawayError(goaway: Goaway): TunnelError {
  const why = `The kit ended the session: ${goaway.message || codeName(goaway.code)}`;
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

/** Sends one frame and waits for the answer that `take` accepts. */
function exchange(
  socket: KitSocket,
  type: number,
  json: object,
  timeoutMs: number,
  signal: AbortSignal,
  take: (type: number, payload: Buffer, rest: Buffer) => boolean,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const over = (error: unknown): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', aborted);
      if (error === undefined) {
        resolve();
        return;
      }
      socket.terminate();
      reject(error instanceof Error ? error : new Error('aborted', { cause: error }));
    };
    const aborted = (): void => over(signal.reason ?? new Error('aborted'));
    const timer = setTimeout(() => over(new TunnelTimeoutError('HELLO', timeoutMs)), timeoutMs);
    if (signal.aborted) return aborted();
    signal.addEventListener('abort', aborted);
    socket.user = {
      message: (message) => {
        try {
          if (firstFrame(message, take)) over(undefined);
        } catch (error) {
          over(error instanceof WireError ? new ProtocolError(error.message) : error);
        }
      },
      drain: () => undefined,
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
  if (frame.type === FrameType.Goaway) throw goawayError(readGoaway(frame.payload));
  const rest = message.subarray(HEADER_BYTES + frame.payload.length);
  if (take(frame.type, frame.payload, rest)) return true;
  throw new ProtocolError(`The kit answered with a frame of type 0x${frame.type.toString(16)}`);
}

async function tokenOf(config: CheckedSession): Promise<string | undefined> {
  const { token } = config;
  if (typeof token !== 'function') return token;
  const value: unknown = await token();
  if (!isGoodToken(value)) {
    throw new OptionsError('the token function must return a string of printable characters');
  }
  return value;
}

function dialOptions(
  config: CheckedSession,
  token: string | undefined,
  protocols: string[],
  timeoutMs: number,
): DialOptions {
  const headers = { ...config.kitHeaders };
  // A proxy in front may want an Authorization of its own; the kit then takes the one in HELLO.
  const taken = Object.keys(headers).some((name) => name.toLowerCase() === 'authorization');
  if (token !== undefined && !taken) headers['authorization'] = `Bearer ${token}`;
  return { url: config.connectUrl, protocols, headers, ca: config.ca, timeoutMs };
}

function dialError(error: unknown, timeoutMs: number, config: CheckedSession): TunnelError {
  const where = config.connectUrl.host;
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
