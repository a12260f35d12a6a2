/**
 * A TCP connection carried between a stream and this machine: bytes, FIN and RST in each direction.
 * A caller's goes to the local server, and one that came to us to whatever the kit reaches.
 */
import { Code } from '../wire/code.js';
import type { OpenTcp } from '../wire/control.js';
import type { MuxStream, StreamSink } from '../mux/stream.js';
import type { Capacity } from './capacity.js';
import { Tally, type Report } from './report.js';
import type { SlotUser, Ticket } from './slots.js';
import type { LocalSocket, SocketUser } from './socket.js';
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
  const relay = new CallerRelay(stream, target, capacity, new Tally(open, report), first);
  stream.sink = relay;
  relay.start(originOf(open.remoteAddr));
}

/** What happens to a stream that we opened for a connection that came to us. */
export interface Forwarded {
  /** The kit has reached what it is for. */
  reached(peer: string): void;
  /** The kit ended it; also behind `reached`. */
  reset(code: number, reason: string): void;
}

/** Relays between a stream that we opened and a connection that came to us. */
export function relayFrom(
  stream: MuxStream,
  socket: LocalSocket,
  tally: Tally,
  user: Forwarded,
): StreamSink {
  const relay = new ForwardRelay(stream, tally, user);
  socket.user = relay;
  relay.begin(socket);
  return relay;
}

/** What both have in common. */
abstract class Relay implements StreamSink, SocketUser {
  protected socket: LocalSocket | undefined;
  private waiting: Buffer[] = [];
  private remoteEnded = false;
  private localEnded = false;

  constructor(
    protected readonly stream: MuxStream,
    protected readonly tally: Tally,
  ) {}

  /** There is a connection; `first` goes ahead of what came for it. */
  begin(socket: LocalSocket, first?: Buffer): void {
    this.socket = socket;
    const waiting = this.waiting;
    this.waiting = [];
    if (first !== undefined) socket.write(first, ignore);
    for (const chunk of waiting) this.write(socket, chunk);
    if (this.remoteEnded) socket.end();
  }

  // The side of the stream.

  data(chunk: Buffer): void {
    this.tally.bytesIn += chunk.length;
    if (this.socket === undefined) this.waiting.push(chunk);
    else this.write(this.socket, chunk);
  }

  end(): void {
    this.remoteEnded = true;
    this.socket?.end();
    this.settle();
  }

  reset(code: number, reason: string): void {
    this.leave();
    this.socket?.reset();
    this.tally.done(reason === '' ? `reset with code ${code}` : reason);
  }

  drain(): void {
    this.socket?.resume();
  }

  connection(): string | undefined {
    return this.socket?.name;
  }

  // The side of this machine.

  bytes(buffer: Buffer, start: number, end: number): void {
    this.tally.bytesOut += end - start;
    if (!this.stream.writeInPlace(buffer, start, end)) this.socket?.pause();
  }

  ended(): void {
    this.localEnded = true;
    this.stream.end();
    this.settle();
  }

  closed(error: Error | undefined): void {
    if (error !== undefined || !this.localEnded) {
      this.fail(error?.message ?? 'the local side closed');
    }
  }

  /** Nothing of it goes on. */
  protected abstract leave(): void;

  protected fail(reason: string, code: number = Code.Cancel): void {
    this.leave();
    this.stream.break(code, reason);
    this.tally.done(reason);
  }

  private write(socket: LocalSocket, chunk: Buffer): void {
    socket.write(chunk, () => {
      this.stream.consumed(chunk.length);
    });
  }

  private settle(): void {
    if (!this.remoteEnded || !this.localEnded) return;
    this.leave();
    this.tally.done();
  }
}

/** A caller's stream, and the connection to the local server that is made for it. */
class CallerRelay extends Relay implements ConnectUser, SlotUser {
  private giveUp: (() => void) | undefined;
  private ticket: Ticket | undefined;
  private over = false;

  constructor(
    stream: MuxStream,
    private readonly target: Target,
    private readonly capacity: Capacity,
    tally: Tally,
    private readonly first: Buffer | undefined,
  ) {
    super(stream, tally);
  }

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
    this.begin(socket, this.first);
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

  override reset(code: number, reason: string): void {
    this.giveUp?.();
    super.reset(code, reason);
  }

  protected override leave(): void {
    this.over = true;
    this.ticket?.leave();
  }
}

/** A connection that came to us, and the stream that was opened for it. */
class ForwardRelay extends Relay {
  constructor(
    stream: MuxStream,
    tally: Tally,
    private readonly user: Forwarded,
  ) {
    super(stream, tally);
  }

  reached(peer: string): void {
    this.user.reached(peer);
  }

  override reset(code: number, reason: string): void {
    this.user.reset(code, reason);
    super.reset(code, reason);
  }

  protected override leave(): void {
    // It takes no place of anybody's.
  }
}

function ignore(): void {
  // Nobody gave credit for it.
}
