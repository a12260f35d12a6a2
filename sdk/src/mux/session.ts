/**
 * One session seen from the laptop, between two resumes: its lanes, its streams and its credit
 * (PROTOCOL §4, §5, §7). It knows neither bindings nor HTTP nor sockets.
 *
 * Order of calls: `addLane`, then `receive` for each message of that lane, `laneDrained` when its
 * carrier has room again, `dropLane` at its end; `sweep` about once a second; `abandon` at the end.
 */
import { Code } from '../wire/code.js';
import { readStreamOpen, type StreamOpen } from '../wire/control.js';
import {
  decodeMessage,
  decodeReset,
  encodeReset,
  faultCode,
  FrameType,
  WireError,
  type Frame,
  type FrameFault,
} from '../wire/frame.js';
import { RecvCredit, SendCredit } from './credit.js';
import type { Lane } from './lane.js';
import { Losses } from './losses.js';
import { MuxStream } from './stream.js';
import { Violation } from './violation.js';

/** What a session asks of the house above it. */
export interface MuxHost {
  /** A visitor or a caller came; the host sets `stream.sink` before it returns, or resets. */
  accept(stream: MuxStream, open: StreamOpen): void;
  /** A frame that is not about streams. */
  control(frame: Frame, lane: Lane): void;
}

/** Windows and bounds that HELLO_OK named. */
export interface MuxLimits {
  streamWindow: number;
  sessionWindow: number;
  maxStreams: number;
}

/** Milliseconds without progress after which a stream counts as stalled (PROTOCOL §5). */
const STALL_MS = 1000;
/** Milliseconds that a stream which never moved again may stall where the budget does not last. */
const CUT_STALLED_MS = 3000;
/** The same for one that goes on now and then: a slow reader takes its bytes in large steps. */
const CUT_SLOW_MS = 30_000;
/** Bytes of stalled streams that do not count against the session window (PROTOCOL §5). */
const STALL_BUDGET = 32 * 1024 * 1024;

/** A session's streams. */
export class MuxSession {
  /** Credit for everything we send. */
  readonly sendCredit: SendCredit;
  /** Streams with queued bytes that wait for a lane or for session credit, oldest first. */
  readonly blocked = new Set<MuxStream>();
  /** Milliseconds as `sweep` last saw them; good enough to tell a stall. */
  clock = 0;
  private readonly recvCredit: RecvCredit;
  private readonly lanes = new Map<number, Lane>();
  private readonly streams = new Map<number, MuxStream>();
  /** Streams that were over while the budget had no room for what their local side still holds. */
  private readonly lingering = new Set<MuxStream>();
  private readonly losses = new Losses();
  private highest = 0;
  private earlyTotal = 0;

  constructor(
    private readonly limits: MuxLimits,
    private readonly host: MuxHost,
  ) {
    this.sendCredit = new SendCredit(limits.sessionWindow);
    this.recvCredit = new RecvCredit(limits.sessionWindow);
  }

  /** How many streams are open. */
  get size(): number {
    return this.streams.size;
  }

  /** How many lanes are joined. */
  get laneCount(): number {
    return this.lanes.size;
  }

  /** The lane that carries the frames of the session itself. */
  get primary(): Lane | undefined {
    return this.lanes.get(0);
  }

  /** A socket has joined. */
  addLane(lane: Lane): void {
    this.lanes.set(lane.index, lane);
  }

  /** A socket is gone, and its streams with it. */
  dropLane(lane: Lane, reason: string): void {
    lane.close();
    if (this.lanes.get(lane.index) === lane) {
      this.lanes.delete(lane.index);
      this.losses.laneLost(lane.index);
    }
    for (const stream of [...this.streams.values()]) {
      if (stream.lane === lane) stream.onReset(Code.Cancel, reason);
    }
  }

  /** Bytes of DATA that have come on a lane index, to be told with its next JOIN. */
  dataReceived(index: number): number {
    return this.losses.receivedOn(index);
  }

  /**
   * A lane index is joined again, and the kit tells what it has received on it, if it does: what did
   * not arrive may be sent anew. Throws `Violation` when that cannot be.
   */
  settleLane(index: number, received: number | undefined): void {
    if (received === undefined) return;
    const lost = this.losses.settle(index, received);
    if (lost < 0 || !this.sendCredit.grow(lost)) {
      throw new Violation(Code.ProtocolError, 'JOIN_OK tells of DATA that was not sent');
    }
    this.pumpBlocked(undefined);
  }

  /** Counts DATA that leaves against the session's credit. */
  spend(lane: Lane, bytes: number): void {
    this.sendCredit.spend(bytes);
    this.losses.sent(lane.index, bytes, this.clock);
  }

  /** Whether streams wait for credit that went down with a lane, and will not come back. */
  get ranDry(): boolean {
    const waits = this.blocked.size > 0 && this.sendCredit.available === 0;
    return waits && this.losses.ranDry(this.clock);
  }

  /** The session is gone, or starts over: every stream ends. */
  abandon(reason: string): void {
    for (const lane of [...this.lanes.values()]) this.dropLane(lane, reason);
  }

  /** Takes one message; throws `Violation` when the session cannot go on. */
  receive(lane: Lane, message: Buffer): void {
    let frames: Frame[];
    try {
      frames = decodeMessage(message);
    } catch (error) {
      throw toViolation(error);
    }
    for (const frame of frames) this.dispatch(frame, lane);
  }

  /** The carrier of a lane has room again. */
  laneDrained(lane: Lane): void {
    this.pumpBlocked(lane);
  }

  /** A stream has credit again. */
  resume(stream: MuxStream): void {
    this.blocked.add(stream);
    this.pumpBlocked(stream.lane);
  }

  /** Forgets a stream that is over. */
  settle(stream: MuxStream): void {
    if (!stream.over) return;
    this.streams.delete(stream.id);
    // A busy Map leaves old copies of its table behind, and what they hold lives until the next full
    // collection. A stream without its sink is small, and takes no exchange with it.
    stream.sink = undefined;
    // What the local side still holds of a finished stream must not narrow the session.
    if (!this.giveBackEarly(stream)) this.lingering.add(stream);
  }

  /**
   * Bytes were passed on, or stalled: the session's credit for them goes back. `early` bytes leave
   * the budget of those whose credit went back before; a negative number enters them.
   */
  giveBack(bytes: number, early: number): void {
    this.earlyTotal -= early;
    if (bytes === 0) return;
    const increment = this.recvCredit.passedOn(bytes);
    if (increment > 0) this.primary?.pushNumber(FrameType.Window, 0, increment);
  }

  /**
   * Gives session credit back early for streams whose local side has stalled, so that slow readers
   * do not stop the others. Past the budget credit is withheld; only where others wait for it, and
   * one has stalled for too long, that one is reset.
   */
  sweep(now: number): void {
    this.clock = now;
    while (!this.relieve()) {
      const worst = this.longestStalled();
      if (worst === undefined) return;
      worst.fail(Code.EnhanceYourCalm, 'the local side has stalled');
    }
  }

  /** Whether the local side of a stream that holds bytes has taken none for a while. */
  hasStalled(stream: MuxStream): boolean {
    return this.clock - stream.movedAt >= STALL_MS;
  }

  /**
   * Gives credit back early, longest-stalled first, so that those which may yet go on keep theirs
   * cheap. Says whether the budget lasted for all of them, or nobody needs it to.
   */
  private relieve(): boolean {
    for (const stream of this.lingering) {
      if (stream.held === stream.early) this.lingering.delete(stream);
    }
    const lasted = [...this.streams.values(), ...this.lingering]
      .filter((stream) => stream.held > stream.early && this.hasStalled(stream))
      .sort((a, b) => a.movedAt - b.movedAt)
      .every((stream) => this.giveBackEarly(stream));
    return lasted || !this.somebodyWaits();
  }

  /** Gives credit back for what a stream holds; false when the budget has no room for that. */
  private giveBackEarly(stream: MuxStream): boolean {
    const bytes = stream.held - stream.early;
    if (this.earlyTotal + bytes > STALL_BUDGET) return false;
    stream.early += bytes;
    this.giveBack(bytes, -bytes);
    return true;
  }

  /** Whether streams with nothing to pass on may be waiting for session credit. */
  private somebodyWaits(): boolean {
    return this.recvCredit.scarce && [...this.streams.values()].some((stream) => stream.hungry);
  }

  /** Of the streams that may be reset, the one that has stalled for the longest time. */
  private longestStalled(): MuxStream | undefined {
    let worst: MuxStream | undefined;
    for (const stream of this.streams.values()) {
      const patience = stream.crawls ? CUT_SLOW_MS : CUT_STALLED_MS;
      if (stream.held === 0 || this.clock - stream.movedAt < patience) continue;
      if (worst === undefined || stream.movedAt < worst.movedAt) worst = stream;
    }
    return worst;
  }

  private dispatch(frame: Frame, lane: Lane): void {
    const { type, streamId, payload } = frame;
    if (frame.fault !== undefined) return this.onFault(frame, frame.fault, lane);
    switch (type) {
      case FrameType.Data:
        return this.onData(streamId, payload, lane);
      case FrameType.Eof:
        return this.find(streamId, lane)?.onEof();
      case FrameType.Reset:
        return this.onReset(streamId, payload);
      case FrameType.Window:
        return this.onWindow(streamId, payload.readUInt32BE(0), lane);
      case FrameType.StreamOpen:
        return this.onOpen(streamId, payload, lane);
      case FrameType.Ping:
        // Not queued behind anything but this turn's frames: bulk waits in the streams.
        return lane.push(FrameType.Pong, 0, payload);
      case FrameType.StreamResponseHead:
        return this.find(streamId, lane)?.fail(Code.ProtocolError, 'a response head from the kit');
      default:
        return this.host.control(frame, lane);
    }
  }

  /** A frame that costs its stream; a RESET is never answered with another. */
  private onFault(frame: Frame, fault: FrameFault, lane: Lane): void {
    const code = faultCode(fault);
    if (frame.type !== FrameType.Reset) this.find(frame.streamId, lane)?.fail(code, fault);
    else this.streams.get(frame.streamId)?.onReset(code, fault);
  }

  private onOpen(id: number, payload: Buffer, lane: Lane): void {
    if (id % 2 === 1) return this.refuse(id, lane, 'the kit opened an odd stream id');
    if (this.streams.has(id) || id <= lane.lastOpened) {
      throw new Violation(Code.ProtocolError, `stream id ${id} was opened before`);
    }
    lane.lastOpened = id;
    this.highest = Math.max(this.highest, id);
    let open: StreamOpen;
    try {
      open = readStreamOpen(payload);
    } catch (error) {
      return this.refuse(id, lane, error instanceof Error ? error.message : 'malformed');
    }
    if (this.streams.size >= this.limits.maxStreams) {
      lane.push(FrameType.Reset, id, encodeReset(Code.RefusedStream, 'too many streams'));
      return;
    }
    const stream = new MuxStream(this, lane, id, this.limits.streamWindow);
    this.streams.set(id, stream);
    this.host.accept(stream, open);
  }

  private onData(id: number, payload: Buffer, lane: Lane): void {
    if (!this.recvCredit.received(payload.length)) {
      throw new Violation(Code.FlowControlError, 'DATA past the session window');
    }
    this.losses.received(lane.index, payload.length);
    const stream = this.find(id, lane);
    if (stream === undefined) this.giveBack(payload.length, 0);
    else stream.onData(payload);
  }

  private onReset(id: number, payload: Buffer): void {
    const { code, reason } = decodeReset(payload);
    this.streams.get(id)?.onReset(code, reason);
  }

  private onWindow(id: number, increment: number, lane: Lane): void {
    if (id !== 0) return this.find(id, lane)?.onWindow(increment);
    if (!this.sendCredit.grow(increment)) {
      throw new Violation(Code.FlowControlError, 'a session WINDOW past its initial size');
    }
    this.losses.refilled(this.clock);
    this.pumpBlocked(undefined);
  }

  /** The stream of an id; one that is over is ignored, one that never was costs itself. */
  private find(id: number, lane: Lane): MuxStream | undefined {
    const stream = this.streams.get(id);
    if (stream === undefined && (id > this.highest || id % 2 === 1)) {
      this.refuse(id, lane, `stream id ${id} was never opened`);
    }
    return stream;
  }

  private refuse(id: number, lane: Lane, reason: string): void {
    lane.push(FrameType.Reset, id, encodeReset(Code.ProtocolError, reason));
  }

  /** Lets blocked streams send in turns, a quantum each, until none can. */
  private pumpBlocked(lane: Lane | undefined): void {
    // A stream that sent goes to the end of the set, where this same loop meets it again.
    for (const stream of this.blocked) {
      if (lane !== undefined && stream.lane !== lane) continue;
      const pumped = stream.pump();
      if (pumped === 'waiting') continue;
      this.blocked.delete(stream);
      if (pumped === 'sent') this.blocked.add(stream);
      if (pumped === 'empty') stream.drained();
    }
  }
}

function toViolation(error: unknown): unknown {
  if (error instanceof WireError) return new Violation(error.code, error.message);
  return error;
}
