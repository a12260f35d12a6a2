/**
 * A caller's TCP connection carried to the local server: bytes, FIN and RST in each direction.
 */
import { Code } from '../wire/code.js';
import type { OpenTcp } from '../wire/control.js';
import type { MuxStream, StreamSink } from '../mux/stream.js';
import type { Capacity } from './capacity.js';
import { Tally, type Report } from './report.js';
import type { SlotUser, Ticket } from './slots.js';
import type { LocalSocket } from './socket.js';
import type { ConnectUser, Target, Unreachable } from './target.js';
import type { Shortage } from './terms.js';
import { originOf } from './visitor.js';

/** Starts to relay a stream that was just opened; `first` goes ahead of its caller's bytes. */
export function relayToTarget(
  stream: MuxStream,
  open: OpenTcp,
  target: Target,
  capacity: Capacity,
  report: Report,
  first?: Buffer,
): void {
  const relay = new Relay(stream, target, capacity, new Tally(open, report), first);
  stream.sink = relay;
  relay.start(originOf(open.remoteAddr));
}

class Relay implements StreamSink, ConnectUser, SlotUser {
  private socket: LocalSocket | undefined;
  private giveUp: (() => void) | undefined;
  private ticket: Ticket | undefined;
  private over = false;
  private waiting: Buffer[] = [];
  private callerEnded = false;
  private serverEnded = false;

  constructor(
    private readonly stream: MuxStream,
    private readonly target: Target,
    private readonly capacity: Capacity,
    private readonly tally: Tally,
    private readonly first: Buffer | undefined,
  ) {}

  start(origin: string): void {
    this.stream.releaseHead();
    const ticket = this.capacity.connections.ask(origin, this);
    this.ticket = ticket;
    // It may have had its place, and its end, at once.
    if (this.over) ticket.leave();
  }

  seated(): void {
    this.giveUp = this.target.connect(this);
  }

  turnedAway(why: Shortage): void {
    this.capacity.turnedAway(why);
    this.fail(`no ${why} left`, Code.RefusedStream);
  }

  connected(socket: LocalSocket): void {
    this.giveUp = undefined;
    this.socket = socket;
    const waiting = this.waiting;
    this.waiting = [];
    if (this.first !== undefined) socket.write(this.first, ignore);
    for (const chunk of waiting) this.write(socket, chunk);
    if (this.callerEnded) socket.end();
  }

  unreachable(error: Unreachable): void {
    this.giveUp = undefined;
    if (error.isShort) {
      this.capacity.shed();
      this.ticket?.ranShort();
      return;
    }
    this.fail(`no local server accepted: ${error.message}`);
  }

  // The caller's side.

  data(chunk: Buffer): void {
    this.tally.bytesIn += chunk.length;
    if (this.socket === undefined) this.waiting.push(chunk);
    else this.write(this.socket, chunk);
  }

  end(): void {
    this.callerEnded = true;
    this.socket?.end();
    this.settle();
  }

  reset(code: number, reason: string): void {
    this.leave();
    this.giveUp?.();
    this.socket?.reset();
    this.tally.done(reason === '' ? `reset with code ${code}` : reason);
  }

  drain(): void {
    this.socket?.resume();
  }

  connection(): string | undefined {
    return this.socket?.name;
  }

  // The local server's side.

  bytes(buffer: Buffer, start: number, end: number): void {
    this.tally.bytesOut += end - start;
    if (!this.stream.writeInPlace(buffer, start, end)) this.socket?.pause();
  }

  ended(): void {
    this.serverEnded = true;
    this.stream.end();
    this.settle();
  }

  closed(error: Error | undefined): void {
    if (error !== undefined || !this.serverEnded) {
      this.fail(error?.message ?? 'the local server closed');
    }
  }

  private write(socket: LocalSocket, chunk: Buffer): void {
    socket.write(chunk, () => {
      this.stream.consumed(chunk.length);
    });
  }

  private leave(): void {
    this.over = true;
    this.ticket?.leave();
  }

  private fail(reason: string, code: number = Code.Cancel): void {
    this.leave();
    this.stream.break(code, reason);
    this.tally.done(reason);
  }

  private settle(): void {
    if (!this.callerEnded || !this.serverEnded) return;
    this.leave();
    this.tally.done();
  }
}

function ignore(): void {
  // Nobody gave credit for it.
}
