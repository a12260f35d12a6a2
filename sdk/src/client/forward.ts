/**
 * Something in the container's network at a port of this machine: each connection that comes is a
 * stream of ours, which the kit connects (PROTOCOL §8). It outlives the connection to the kit, and
 * connections that come while there is none wait a while.
 */
import './dispose.js';
import { once } from 'node:events';
import net from 'node:net';
import { performance } from 'node:perf_hooks';
import { bracketed } from '../local/address.js';
import { relayFrom } from '../local/relay.js';
import { Tally, type Report } from '../local/report.js';
import { LocalSocket } from '../local/socket.js';
import type { MuxStream, StreamSink } from '../mux/stream.js';
import { Code } from '../wire/code.js';
import type { OpenForward } from '../wire/open-forward.js';
import { plain } from '../wire/text.js';
import { onAbort } from './abort.js';
import { sleep } from './backoff.js';
import { ForwardError, NOT_GRANTED, type ForwardFailure } from './errors.js';
import type { TunnelEventMap } from './events.js';
import type { CheckedForward } from './forward-options.js';
import type { Life } from './life.js';
import { checkGrace } from './options.js';
import { DRAIN_POLL_MS, FORWARD_POLL_MS, FORWARD_WAIT_MS } from './patience.js';

/** The most connections of one forward at once. */
const MAX_CONNECTIONS = 4096;
/** So many streams are kept before those that are over are looked for. */
const SWEEP_AT = 64;

/** @internal What a forward asks of its session. */
export interface ForwardOwner {
  /** Opens a stream; undefined where none can be opened now, false where the kit grants none. */
  open(open: OpenForward, sinkOf: (stream: MuxStream) => StreamSink): MuxStream | undefined | false;
  /** Where exchanges are told; undefined when nobody listens. */
  report(): Report;
  failed(detail: TunnelEventMap['forwardFailed']): void;
  /** It listens no more. */
  left(forward: Forward): void;
  readonly life: Life;
}

/** A port of this machine that leads into the container's network. */
export class Forward {
  /** What it reaches. */
  readonly target: string;
  /** The address it listens at. */
  readonly localHost: string;
  /** Resolves when it listens no more. */
  readonly closed: Promise<void>;
  private port = 0;
  private readonly server: net.Server;
  private readonly abort = new AbortController();
  private readonly streams = new Set<MuxStream>();
  private sweepAt = SWEEP_AT;
  /** Connections that wait for a stream. */
  private readonly waiting = new Set<net.Socket>();

  /** @internal */
  constructor(
    private readonly owner: ForwardOwner,
    private readonly config: CheckedForward,
  ) {
    this.target = config.shown;
    this.localHost = config.localHost;
    const options = { allowHalfOpen: true, noDelay: true };
    this.server = net.createServer(options, (socket) => this.came(socket));
    this.server.maxConnections = MAX_CONNECTIONS;
    this.closed = new Promise((resolve) => {
      onAbort(this.abort.signal, resolve);
    });
    const { signal } = config;
    const stop = onAbort(signal, () => void this.close({ graceMs: 0 }));
    void this.closed.then(stop);
  }

  /** The port it listens at. */
  get localPort(): number {
    return this.port;
  }

  /** @internal Listens at the first of its ports that is free. */
  async listen(): Promise<this> {
    const { localHost, localPorts } = this.config;
    let last: unknown;
    for (const port of localPorts) {
      try {
        this.server.listen({ host: localHost, port, exclusive: true });
        await once(this.server, 'listening');
      } catch (error) {
        last = error;
        if (isTaken(error)) continue;
        break;
      }
      this.server.on('error', ignore);
      this.owner.life.add(this.server);
      this.port = (this.server.address() as net.AddressInfo).port;
      return this;
    }
    const place = `${bracketed(localHost)}:${localPorts[0] ?? 0}`;
    const why = last instanceof Error ? last.message : String(last);
    const advice = 'Choose another localPort, or 0 for any';
    throw new ForwardError('listen', `Nothing can listen at ${place}: ${why}. ${advice}.`, last);
  }

  /**
   * Listens no more; connections that run get `graceMs` (default 5000, 0 for none) to finish.
   */
  async close(options: { graceMs?: number | undefined } = {}): Promise<void> {
    const deadline = performance.now() + checkGrace(options);
    this.release();
    while (this.running() > 0 && performance.now() < deadline) await sleep(DRAIN_POLL_MS, NEVER);
    for (const stream of this.streams) stream.fail(Code.Cancel, 'the forward was closed');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal Listens no more, and leaves what runs as it is. */
  release(): void {
    if (this.abort.signal.aborted) return;
    this.abort.abort();
    this.server.close(ignore);
    for (const socket of this.waiting) socket.destroy();
    this.owner.left(this);
  }

  /** How many of its connections are not over; lets go of the others. */
  private running(): number {
    for (const stream of this.streams) if (stream.over) this.streams.delete(stream);
    return this.streams.size;
  }

  private came(socket: net.Socket): void {
    socket.on('error', ignore);
    if (!this.config.admits(socket.remoteAddress)) {
      socket.resetAndDestroy();
      return;
    }
    this.waiting.add(socket);
    void this.carry(socket).finally(() => this.waiting.delete(socket));
  }

  /** Gives a connection its stream, as soon as there can be one. */
  private async carry(socket: net.Socket): Promise<void> {
    const { remoteAddress = '', remotePort = 0 } = socket;
    const remoteAddr = `${bracketed(remoteAddress)}:${remotePort}`;
    const deadline = performance.now() + FORWARD_WAIT_MS;
    while (!socket.destroyed && !this.abort.signal.aborted) {
      const begin = (stream: MuxStream): StreamSink => this.relay(stream, socket, remoteAddr);
      const stream = this.owner.open(this.config.open, begin);
      if (stream === undefined && performance.now() < deadline) {
        await sleep(FORWARD_POLL_MS, this.abort.signal);
        continue;
      }
      if (stream === false) this.failed(remoteAddr, 'not-granted', NOT_GRANTED);
      else if (stream === undefined) this.failed(remoteAddr, 'lost', 'no connection to the kit');
      else return this.note(stream);
      socket.resetAndDestroy();
      return;
    }
  }

  private note(stream: MuxStream): void {
    if (this.streams.add(stream).size > this.sweepAt) {
      this.sweepAt = Math.max(SWEEP_AT, 2 * this.running());
    }
  }

  private relay(stream: MuxStream, socket: net.Socket, remoteAddr: string): StreamSink {
    const open = { kind: 'tcp', bindId: undefined, containerPort: undefined, remoteAddr } as const;
    const report = this.owner.report();
    const { target } = this;
    const tally = new Tally(open, report && ((told) => report({ ...told, target })));
    let isReached = false;
    return relayFrom(stream, new LocalSocket({ accepted: socket }), tally, {
      reached: () => (isReached = true),
      reset: (code, reason) => {
        if (!isReached) this.failed(remoteAddr, failureOf(code, reason), reason);
      },
    });
  }

  private failed(remoteAddr: string, reason: ForwardFailure, why: string): void {
    const { target, localPort } = this;
    const message = plain(`${target} was not reached: ${why || 'the kit said no'}`);
    this.owner.failed({ target, localPort, remoteAddr, reason, message });
  }
}

/** What became of a stream that the kit ended before it was connected (PROTOCOL §8). */
export function failureOf(code: number, reason: string): ForwardFailure {
  if (code === Code.RefusedStream) return 'denied';
  const word = /^(dns|unreachable|refused|timeout):/.exec(reason)?.[1];
  return code === Code.Cancel && word !== undefined ? (word as ForwardFailure) : 'lost';
}

/** Whether another port may be free, or allowed, where this one is not. */
function isTaken(error: unknown): boolean {
  return ['EADDRINUSE', 'EACCES'].includes(String((error as { code?: unknown }).code));
}

const NEVER = new AbortController().signal;

function ignore(): void {
  // Its close tells what there is to tell.
}
