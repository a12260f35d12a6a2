/**
 * One WebSocket to the kit, on whatever the runtime offers.
 *
 * Node and Deno use `ws`, since their own WebSocket cannot send header fields or tell a backlog;
 * Bun has a native one that can. Both look the same from here on.
 */
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import WebSocket from 'ws';
import { MAX_MESSAGE } from '../wire/frame.js';
import { plain } from '../wire/text.js';
import type { Carrier } from '../mux/lane.js';
import type { KeptMessage } from '../mux/replay.js';
import { LANE_ROOM_AT } from '../mux/limits.js';
import { onAbort } from './abort.js';
import { MaskedFrame } from './masked.js';

/** What to dial. */
export interface DialOptions {
  url: URL;
  protocols: string[];
  headers: Record<string, string>;
  ca: string | string[] | undefined;
  timeoutMs: number;
}

/** Told what happens on a socket. */
export interface KitSocketUser {
  message(message: Buffer): void;
  /** A text message, which breaks the protocol. */
  text(): void;
  /** Room again after a backlog. */
  drain(): void;
  /** A ping of the WebSocket, which is answered already. */
  pinged(): void;
  /** Gone; told once. 1006 means without a close frame. */
  closed(code: number, reason: string): void;
}

/** An open WebSocket to the kit. */
export interface KitSocket extends Carrier {
  readonly protocol: string;
  /** Told what happens; the first one is told as well what happened before it was set. */
  user: KitSocketUser;
  /** Bytes received so far, also of a message that is not complete yet. */
  received(): number;
  /** Stops reading until `resume`; false where the runtime cannot. */
  pause(): boolean;
  resume(): void;
  /** Does not keep the process alive any more, where the runtime can do without it. */
  unref(): void;
  close(code: number, reason: string): void;
  /** Drops the connection without a word. */
  terminate(): void;
}

/** The server answered with something else than an upgrade. */
export class UpgradeRefused extends Error {
  override readonly name = 'UpgradeRefused';
  constructor(
    readonly status: number,
    body: string,
  ) {
    super(`the upgrade was answered with status ${status}${body === '' ? '' : `: ${body}`}`);
  }
}

/** No answer in time. */
export class DialTimeout extends Error {
  override readonly name = 'DialTimeout';
}

/** Dials. Rejects with `UpgradeRefused`, `DialTimeout`, the signal's reason, or the network's. */
export function dial(options: DialOptions, signal?: AbortSignal): Promise<KitSocket> {
  return 'Bun' in globalThis ? dialNative(options, signal) : dialWs(options, signal);
}

/** The most bytes of a refusal's body that go into an error message. */
const REFUSAL_BYTES = 200;
/** How long the body of a refusal may take, in milliseconds; its status says enough without. */
const REFUSAL_MS = 1000;

function dialWs(options: DialOptions, signal?: AbortSignal): Promise<KitSocket> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(options.url, options.protocols, {
      headers: options.headers,
      perMessageDeflate: false,
      maxPayload: MAX_MESSAGE,
      skipUTF8Validation: true,
      followRedirects: false,
      ...(options.ca === undefined ? {} : { ca: options.ca }),
    });
    const kit = new WsSocket(socket);
    const settled = guard(options.timeoutMs, signal, (error) => {
      socket.on('error', ignore);
      socket.terminate();
      reject(error);
    });
    socket.once('open', () => {
      settled();
      resolve(kit);
    });
    socket.once('error', (error) => {
      settled();
      reject(error);
    });
    socket.once('unexpected-response', (_request, response: IncomingMessage) => {
      // The guard stays until the body is read: it may never end.
      void readRefusal(response).then((body) => {
        settled();
        socket.on('error', ignore);
        socket.terminate();
        reject(new UpgradeRefused(response.statusCode ?? 0, body));
      });
    });
  });
}

/**
 * Whom a socket tells what happens. Messages may come with the answer to the upgrade, before whoever
 * dialled has heard of the socket; they wait.
 */
class Told {
  private readonly early: ((user: KitSocketUser) => void)[] = [];
  private current: KitSocketUser | undefined;

  get user(): KitSocketUser {
    return this.current ?? NOBODY;
  }

  set user(user: KitSocketUser) {
    this.current = user;
    // The user may be another one after each of them.
    for (const tell of this.early.splice(0)) tell(this.user);
  }

  protected message(message: Buffer): void {
    if (this.current !== undefined) this.current.message(message);
    else this.early.push((user) => user.message(message));
  }

  protected text(): void {
    this.tell((user) => user.text());
  }

  protected closed(code: number, reason: string): void {
    this.tell((user) => {
      this.user = NOBODY;
      user.closed(code, reason);
    });
  }

  private tell(what: (user: KitSocketUser) => void): void {
    if (this.current !== undefined) what(this.current);
    else this.early.push(what);
  }
}

class WsSocket extends Told implements KitSocket {
  private outstanding = 0;
  private full = false;
  private tcp: Socket | undefined;

  constructor(private readonly socket: WebSocket) {
    super();
    socket.on('upgrade', (response: IncomingMessage) => {
      this.tcp = response.socket;
      this.tcp.setNoDelay(true);
    });
    socket.on('message', (data, isBinary) => {
      if (isBinary) this.message(data as Buffer);
      else this.text();
    });
    socket.on('close', (code, reason) => {
      this.closed(code, plain(reason.toString()));
    });
    socket.on('ping', () => {
      this.user.pinged();
    });
    // What goes wrong on an open socket also closes it, and the close is what is told.
    socket.on('error', ignore);
  }

  get protocol(): string {
    return this.socket.protocol;
  }

  get backlog(): number {
    return this.outstanding;
  }

  send(message: Buffer): void {
    this.write(MaskedFrame.of(message, 1));
  }

  keep(message: Buffer): KeptMessage {
    const frame = MaskedFrame.of(message, 2);
    this.write(frame);
    return frame;
  }

  private write(frame: MaskedFrame): void {
    // `ws` writes its own frames, which are pongs and the close, to this same socket whole.
    if (this.socket.readyState !== WebSocket.OPEN || this.tcp === undefined) return;
    const { length } = frame;
    this.outstanding += length;
    if (this.outstanding > LANE_ROOM_AT) this.full = true;
    this.tcp.write(frame.bytes, (error) => {
      this.outstanding -= length;
      if (error instanceof Error) return;
      frame.release();
      if (!this.full || this.outstanding > LANE_ROOM_AT) return;
      this.full = false;
      this.user.drain();
    });
  }

  received(): number {
    return this.tcp?.bytesRead ?? 0;
  }

  pause(): boolean {
    this.socket.pause();
    return true;
  }

  resume(): void {
    this.socket.resume();
  }

  unref(): void {
    this.tcp?.unref();
  }

  close(code: number, reason: string): void {
    this.socket.close(code, reason);
  }

  terminate(): void {
    this.socket.terminate();
  }
}

/** What Bun's WebSocket can do beyond the standard. */
interface NativeSocket {
  binaryType: string;
  readonly protocol: string;
  readonly bufferedAmount: number;
  onopen: (() => void) | null;
  onerror: ((event: { message?: string }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  send(data: Uint8Array): void;
  close(code: number, reason: string): void;
  terminate(): void;
  unref?: () => void;
}

type NativeConstructor = new (url: string, options: Record<string, unknown>) => NativeSocket;

function dialNative(options: DialOptions, signal?: AbortSignal): Promise<KitSocket> {
  const { WebSocket: Native } = globalThis as unknown as { WebSocket: NativeConstructor };
  return new Promise((resolve, reject) => {
    const socket = new Native(options.url.href, {
      protocols: options.protocols,
      headers: options.headers,
      perMessageDeflate: false,
      ...(options.ca === undefined ? {} : { tls: { ca: options.ca } }),
    });
    socket.binaryType = 'nodebuffer';
    const settled = guard(options.timeoutMs, signal, (error) => {
      socket.onopen = socket.onclose = null;
      socket.terminate();
      reject(error);
    });
    let message = '';
    socket.onopen = () => {
      settled();
      resolve(new BunSocket(socket));
    };
    socket.onerror = (event) => {
      message = event.message ?? '';
    };
    socket.onclose = ({ reason }) => {
      settled();
      const status = /status code: ([1-5][0-9]{2})$/.exec(message)?.[1];
      const why = message === '' ? reason : message;
      reject(status === undefined ? new Error(why) : new UpgradeRefused(Number(status), why));
    };
  });
}

/** How often a backlog of Bun's WebSocket is looked at; it has no event for it. */
const POLL_MS = 2;

class BunSocket extends Told implements KitSocket {
  private bytes = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly socket: NativeSocket) {
    super();
    socket.onmessage = ({ data }) => {
      if (!Buffer.isBuffer(data)) {
        this.text();
        return;
      }
      this.bytes += data.length;
      this.message(data);
    };
    socket.onclose = ({ code, reason }) => {
      clearInterval(this.timer);
      this.closed(code, plain(reason));
    };
  }

  get protocol(): string {
    return this.socket.protocol;
  }

  get backlog(): number {
    return this.socket.bufferedAmount;
  }

  send(message: Buffer): void {
    this.socket.send(message);
    if (this.timer !== undefined || this.socket.bufferedAmount <= LANE_ROOM_AT) return;
    this.timer = setInterval(() => {
      if (this.socket.bufferedAmount > LANE_ROOM_AT) return;
      clearInterval(this.timer);
      this.timer = undefined;
      this.user.drain();
    }, POLL_MS);
  }

  received(): number {
    return this.bytes;
  }

  pause(): boolean {
    return false;
  }

  resume(): void {
    // It never stopped.
  }

  unref(): void {
    this.socket.unref?.();
  }

  close(code: number, reason: string): void {
    this.socket.close(code, reason);
  }

  terminate(): void {
    this.socket.terminate();
  }
}

/** Calls `fail` once, on time-out or abort; the returned function calls it off. */
function guard(ms: number, signal: AbortSignal | undefined, fail: (error: Error) => void) {
  const timer = setTimeout(() => {
    off();
    fail(new DialTimeout(`no answer within ${ms} ms`));
  }, ms);
  const aborted = (): void => {
    off();
    fail(reasonOf(signal));
  };
  const off = (): void => {
    clearTimeout(timer);
    stop();
  };
  const stop = onAbort(signal, aborted);
  if (signal?.aborted === true) queueMicrotask(aborted);
  return off;
}

/** Why a signal was aborted; its reason may be anything, and rejections are errors. */
function reasonOf(signal: AbortSignal | undefined): Error {
  const reason: unknown = signal?.reason;
  return reason instanceof Error ? reason : new Error('aborted', { cause: reason });
}

/** Reads the beginning of a refusal's body, as far as it comes in time. */
function readRefusal(response: IncomingMessage): Promise<string> {
  return new Promise((resolve) => {
    let body = '';
    const done = (): void => {
      clearTimeout(timer);
      resolve(plain(body.trim(), REFUSAL_BYTES));
    };
    const timer = setTimeout(done, REFUSAL_MS);
    response.on('data', (chunk: Buffer) => {
      body += chunk.toString('latin1');
      if (body.length >= REFUSAL_BYTES) done();
    });
    // Half a reason is better than none.
    for (const event of ['end', 'error', 'close']) response.once(event, done);
  });
}

const NOBODY: KitSocketUser = {
  message: ignore,
  text: ignore,
  drain: ignore,
  pinged: ignore,
  closed: ignore,
};

function ignore(): void {
  // Nobody is told.
}
