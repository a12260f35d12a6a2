/**
 * One session seen from the laptop, between two resumes: its lanes, its streams and its credit
 * (PROTOCOL §4, §5, §7). It knows neither bindings nor HTTP nor sockets.
 *
 * Order of calls: `addLane`, then `receive` for each message of that lane, `laneDrained` when its
 * carrier has room again, `dropLane` at its end; `sweep` about once a second; `abandon` at the end.
 */
import { Code } from '../wire/code.js';
import { readStreamOpen, type StreamOpen } from '../wire/control.js';
import type { OpenForward } from '../wire/open-forward.js';
import { decodeMessage, decodeReset, encodeReset, faultCode } from '../wire/frame.js';
import { FrameType, type Frame, type FrameFault } from '../wire/frame.js';
import { plain } from '../wire/text.js';
import type { Carrier } from './lane.js';
import { SendCredit, SessionRecvCredit } from './credit.js';
import { Flood } from './flood.js';
import { DRY_BELOW, EARLY_BUDGET, HEADS_MAX, KEPT_FOR_SMALL_PART } from './limits.js';
import { MAX_SESSION_WINDOW, MAX_STREAM_WINDOW, MAX_STREAMS, OLD_MARGIN } from './limits.js';
import type { MuxLimits } from './limits.js';
import { holdsLess, Line } from './line.js';
import { Losses, type Taken } from './losses.js';
import { complete, Openings } from './openings.js';
import { OwnStreams } from './own.js';
import { isWorthACall, share } from './share.js';
import { Stalls, type Unread } from './stalls.js';
import { MuxStream, type Pumped, type StreamLane, type StreamOwner } from './stream.js';
import type { StreamSink, Turn } from './stream.js';
import { tellProgress } from './progress.js';
import { toViolation, Violation } from './violation.js';

/** What a session asks of the house above it. */
export interface MuxHost {
  /** A visitor or a caller came; the host sets `stream.sink` before it returns, or resets. */
  accept(stream: MuxStream, open: StreamOpen): void;
  /** A frame that is not about streams. */
  control(frame: Frame, lane: StreamLane): void;
  /** How many bytes lie unread below local sides. */
  readonly unread: Unread;
}

/** A session's streams. */
export class MuxSession implements StreamOwner {
  /** Credit for everything we send. */
  readonly sendCredit: SendCredit;
  /** Streams with queued bytes that wait for session credit. */
  readonly line = new Line<MuxStream>(holdsLess);
  /** Milliseconds as `sweep` last saw them; good enough to tell a stall. */
  clock: number;
  readonly limits: MuxLimits;
  private readonly recvCredit: SessionRecvCredit;
  private readonly flood: Flood;
  private readonly lanes = new Map<number, StreamLane>();
  private readonly streams = new Map<number, MuxStream>();
  /** Streams that were over while the budget had no room for what their local side still holds. */
  private readonly lingering = new Set<MuxStream>();
  private readonly losses = new Losses();
  /** Lane indexes whose streams are over, and which begin anew when they are joined again. */
  private readonly givenUp = new Set<number>();
  private readonly stalls: Stalls;
  private readonly openings = new Openings<StreamLane>();
  private readonly own = new OwnStreams();
  private highest = 0;
  private headBytes = 0;
  private contended = false;
  private turns = 0;
  /** Sweeps in a row that found hardly any credit left for the peer, and the budget used up. */
  private drySweeps = 0;
  /** A newcomer was refused for that. */
  private hasRefused = false;
  /** Sweeps in a row that found hardly any credit left for us, though streams wait for it. */
  private sendDrySweeps = 0;

  constructor(
    granted: MuxLimits,
    private host: MuxHost,
    now = 0,
  ) {
    this.clock = now;
    this.flood = new Flood(now);
    this.stalls = new Stalls(host.unread);
    this.limits = {
      ...granted,
      streamWindow: Math.min(granted.streamWindow, MAX_STREAM_WINDOW),
      sessionWindow: Math.min(granted.sessionWindow, MAX_SESSION_WINDOW),
      maxStreams: Math.min(granted.maxStreams, MAX_STREAMS),
    };
    this.sendCredit = new SendCredit(this.limits.sessionWindow);
    this.recvCredit = new SessionRecvCredit(this.limits.sessionWindow, EARLY_BUDGET);
  }

  /** How many streams are open. */
  get size(): number {
    return this.streams.size;
  }

  /** The lanes that carry streams. */
  carrying(): Set<StreamLane> {
    return new Set([...this.streams.values()].map(({ lane }) => lane));
  }

  /** The lane that carries the frames of the session itself. */
  get primary(): StreamLane | undefined {
    return this.lanes.get(0);
  }

  /** A lane that has a connection, the primary if it does. */
  get standing(): StreamLane | undefined {
    const { primary } = this;
    if (primary?.isDown === false) return primary;
    return [...this.lanes.values()].find((lane) => !lane.isDown);
  }

  /** The lane of an index, also while it waits for a connection. */
  lane(index: number): StreamLane | undefined {
    return this.lanes.get(index);
  }

  /** A socket has joined, and its counts begin. */
  addLane(lane: StreamLane): void {
    this.lanes.set(lane.index, lane);
    this.givenUp.delete(lane.index);
  }

  /** The connection of a lane is lost: with what counts, its streams wait for another one. */
  suspend(lane: StreamLane, now: number): void {
    if (lane.isDown) return;
    lane.downSince = now;
    const credit = lane.suspend();
    if (credit === 0) return;
    this.losses.gave(lane.index, -credit);
    this.giveCredit(credit);
  }

  /** Others look after its sockets from now on. */
  handTo(host: MuxHost): void {
    this.host = host;
  }

  /**
   * Another connection carries a lane on, and the peer has taken so many frames of the last one. What
   * is measured by the clock stood still. False when the peer cannot have taken so many.
   */
  revive(lane: StreamLane, carrier: Carrier, received: number, now: number): boolean {
    if (!lane.resume(carrier, received)) return false;
    const gap = Math.max(0, now - (lane.downSince ?? now));
    lane.downSince = undefined;
    this.clock = Math.max(this.clock, now);
    for (const stream of this.streams.values()) {
      if (stream.lane === lane) stream.stoodStill(gap);
    }
    this.laneDrained(lane);
    return true;
  }

  /** A socket is gone, and its streams with it. */
  dropLane(lane: StreamLane, reason: string): void {
    lane.close();
    if (this.lanes.get(lane.index) === lane) {
      this.lanes.delete(lane.index);
      this.givenUp.add(lane.index);
      this.losses.laneLost(lane.index);
    }
    for (const stream of [...this.streams.values()]) {
      if (stream.lane === lane) stream.onReset(Code.Cancel, reason);
    }
  }

  /** What to tell with the next JOIN of a lane index; no frames where nothing can go on. */
  joinsWith(index: number): Taken {
    const lane = this.lanes.get(index);
    const begins = this.givenUp.has(index) ? undefined : 0;
    return {
      dataReceived: this.losses.receivedOn(index),
      creditReceived: this.losses.creditReceivedOn(index),
      received: lane === undefined ? begins : lane.replay?.received,
    };
  }

  /**
   * A lane index is joined again and begins anew, and the kit tells what it has received on it, if it
   * does: what did not arrive may be sent anew. Throws `Violation` when that cannot be.
   */
  settleLane(index: number, received: number | undefined, credit?: number): void {
    const again = credit === undefined ? 0 : this.losses.settleCredit(index, credit);
    if (again < 0) throw new Violation(Code.ProtocolError, 'JOIN_OK tells of too much credit');
    if (again > 0) this.giveCredit(again);
    if (received === undefined) return;
    const lost = this.losses.settle(index, received);
    if (lost < 0 || !this.sendCredit.grow(lost)) {
      throw new Violation(Code.ProtocolError, 'JOIN_OK tells of DATA that was not sent');
    }
    this.callLine();
  }

  /** What is left for all, and not for small exchanges only. */
  private get shared(): number {
    const { available, window } = this.sendCredit;
    return Math.max(0, available - Math.floor(window / KEPT_FOR_SMALL_PART));
  }

  /** What a stream may send before it holds its share of the session's credit. */
  allowance(stream: MuxStream): number {
    const { window } = this.sendCredit;
    const own = stream.outstanding;
    return Math.max(0, Math.min(this.shared, share(this.shared, window, own) - own));
  }

  /** Counts DATA that leaves against the session's credit; returns the turn that this was. */
  spend(lane: StreamLane, bytes: number): number {
    this.sendCredit.spend(bytes);
    this.losses.sent(lane.index, bytes, this.clock);
    this.flood.sentData();
    return ++this.turns;
  }

  /** Whether streams wait for credit that went down with a lane, and will not come back. */
  get ranDry(): boolean {
    const waits = this.line.size > 0 && this.sendCredit.available < DRY_BELOW;
    return waits && this.losses.ranDry(this.clock);
  }

  /** The session is gone, or starts over: every stream ends. */
  abandon(reason: string): void {
    for (const lane of [...this.lanes.values()]) this.dropLane(lane, reason);
  }

  /** Takes one message; throws `Violation` when the session cannot go on. */
  receive(lane: StreamLane, message: Buffer): void {
    let frames: Frame[];
    try {
      frames = decodeMessage(message);
    } catch (error) {
      throw toViolation(error);
    }
    lane.receive(message, () => {
      for (const frame of frames) this.dispatch(frame, lane);
    });
  }

  /** The peer of a lane sent a ping of the WebSocket; throws `Violation` at one too many. */
  pinged(): void {
    this.flood.count('ping', this.clock);
  }

  /**
   * Opens a stream of ours, for the sink that it is given. Undefined where none can be opened now: no lane has room, or
   * there are as many streams as there may be.
   */
  open(open: OpenForward, sinkOf: (stream: MuxStream) => StreamSink): MuxStream | undefined {
    if (this.streams.size >= this.limits.maxStreams) return undefined;
    const stream = this.own.open(this, this.lanes.values(), open);
    if (stream === undefined) return undefined;
    this.streams.set(stream.id, stream);
    stream.sink = sinkOf(stream);
    return stream;
  }

  /** The carrier of a lane has room again: those who wait for it send in turns. */
  laneDrained(lane: StreamLane): void {
    if (lane.replay !== undefined) lane.flush();
    for (;;) {
      const { first } = lane.line;
      if (first === undefined || !lane.writable) return;
      lane.line.remove(first);
      // One that has more to send waits again, behind those who sent before it.
      this.send(first, 'no-lane', 'lane');
    }
  }

  /** A stream that has bytes queued got credit of its own back. */
  resume(stream: MuxStream): void {
    if (stream.lane.line.has(stream)) return;
    this.line.add(stream);
    this.callLine();
  }

  /** A stream has bytes that could not leave. */
  park(stream: MuxStream, until: Pumped): void {
    stream.sweepsWaited = 0;
    if (until === 'no-share') this.line.add(stream);
    else if (until === 'no-lane') stream.awaitRoom();
  }

  /** A stream has nothing more to send. */
  unpark(stream: MuxStream): void {
    this.line.remove(stream);
    stream.lane.line.remove(stream);
  }

  /** Forgets a stream that is over. */
  settle(stream: MuxStream): void {
    if (!stream.over) return;
    this.streams.delete(stream.id);
    this.releaseHead(stream);
    // A busy Map leaves old copies of its table behind, and what they hold lives until the next full
    // collection. A stream without its sink is small, and takes no exchange with it.
    stream.sink = undefined;
    // What the local side still holds of a finished stream must not narrow the session.
    this.giveEarly(stream, stream.held);
    if (stream.held > stream.early) this.lingering.add(stream);
  }

  /** The head of a stream's request does not take memory any more. */
  releaseHead(stream: MuxStream): void {
    this.headBytes -= stream.headBytes;
    stream.headBytes = 0;
  }

  /** Whether streams have to share what the peer may still send. */
  get isContended(): boolean {
    return this.contended;
  }

  /** Bytes were passed on: the session's credit for them goes back, but for that of `early` ones. */
  giveBack(bytes: number, early: number): void {
    this.recvCredit.earlyLeft(early);
    this.recvCredit.passedOn(bytes - early);
    this.claim();
  }

  /**
   * Looks after those who wait. Where too little is left for streams that hold little, session credit
   * goes back early, for those first that hold most. Past the budget it is withheld; only then is a
   * stream reset, and only one whose local side has taken nothing for a long time.
   */
  sweep(now: number): void {
    this.clock = now;
    this.helpOldPeers();
    tellProgress(this.streams.values(), now);
    for (const stream of this.lingering) {
      if (stream.held === stream.early) this.lingering.delete(stream);
    }
    this.relieveAll();
    const isDry = this.recvCredit.available < DRY_BELOW;
    this.drySweeps = isDry ? this.drySweeps + 1 : 0;
    const isSendDry = this.sendCredit.available < DRY_BELOW && this.line.size > 0;
    this.sendDrySweeps = isSendDry ? this.sendDrySweeps + 1 : 0;
    // Known before somebody is short: who has stalled for long is not to be waited for then.
    if (this.recvCredit.missing > 0) this.stalls.look(this.judged(), now);
    while (this.recvCredit.missing > 0 && this.isSomebodyShort) {
      const worst = this.stalls.longest(this.judged(), now);
      if (worst === undefined) return;
      worst.fail(Code.EnhanceYourCalm, 'the local side has stalled');
      this.relieveAll();
    }
  }

  /**
   * Lets streams send that wait for session credit, in order, until what is left is for those who
   * hold less. Only the first in line is looked at.
   */
  private callLine(): void {
    for (;;) {
      const { first } = this.line;
      if (first === undefined || !this.mayCall(first)) return;
      this.line.remove(first);
      this.send(first, 'no-share');
    }
  }

  private mayCall(stream: MuxStream): boolean {
    const { available, window } = this.sendCredit;
    if (stream.isSmall) return available > 0;
    return isWorthACall(this.shared, window, stream.outstanding);
  }

  /** Lets a stream send one quantum of what it has queued; `more` is where it waits to go on. */
  private send(stream: MuxStream, more: Pumped, turn: Turn = 'share'): void {
    const pumped = stream.pump(turn);
    if (pumped === 'empty') stream.drained();
    else this.park(stream, pumped === 'sent' ? more : pumped);
  }

  /**
   * An older receiver gives a stream's credit back only when a quarter of its window has gathered,
   * which may be more than its share: it gets a piece now and then, while there is enough.
   */
  private helpOldPeers(): void {
    const { sessionWindow, streamWindow } = this.limits;
    const most = streamWindow / 4 + OLD_MARGIN;
    for (const stream of this.line.inOrder()) {
      if (this.sendCredit.available < sessionWindow / 32) return;
      // Waiting began at any time between two sweeps, and the second one is surely late enough.
      if (++stream.sweepsWaited < 2 || stream.outstanding >= most) continue;
      this.line.remove(stream);
      this.send(stream, 'no-share', 'overdue');
      stream.sweepsWaited = 1;
    }
  }

  /** Sends what of the session's credit may go back. */
  private claim(): void {
    const increment = this.recvCredit.claim();
    if (increment > 0) this.giveCredit(increment);
    if (this.contended) this.contended = this.recvCredit.contended;
    if (this.recvCredit.available >= DRY_BELOW) this.hasRefused = false;
  }

  /** The streams whose lane has a connection: time stands still for the others. */
  private judged(): MuxStream[] {
    return [...this.streams.values()].filter(({ lane }) => !lane.isDown);
  }

  /** Gives session credit, on a lane that has a connection if one does. */
  private giveCredit(increment: number): void {
    const lane = this.standing ?? this.primary;
    if (lane === undefined) return;
    this.losses.gave(lane.index, increment);
    lane.pushCredit(0, increment);
  }

  /** Session credit was used up: when that makes it short, nobody withholds any of a stream's. */
  private used(): void {
    const before = this.contended;
    this.contended = this.recvCredit.contended;
    if (before || !this.contended) return;
    for (const stream of this.streams.values()) stream.giveWithheldBack();
  }

  /** Whether there are some who have nothing to pass on, or would be, had they not been refused. */
  private get isSomebodyShort(): boolean {
    return this.hasRefused || [...this.streams.values()].some((stream) => stream.isHungry);
  }

  /** Has those who hold most make good what is missing, as far as the budget goes. */
  private relieveAll(): void {
    if (this.recvCredit.missing === 0) return;
    const holders = [...this.streams.values(), ...this.lingering]
      .filter((stream) => stream.held > stream.early)
      .sort((a, b) => b.held - b.early - (a.held - a.early));
    for (const stream of holders) {
      if (this.recvCredit.missing === 0 || this.recvCredit.spare === 0) return;
      this.giveEarly(stream, this.recvCredit.missing);
    }
  }

  /** Gives at most `bytes` of credit back early for what a stream holds. */
  private giveEarly(stream: MuxStream, bytes: number): void {
    const part = this.recvCredit.giveEarly(Math.min(bytes, stream.held - stream.early));
    stream.early += part;
    if (part > 0) this.claim();
  }

  private dispatch(frame: Frame, lane: StreamLane): void {
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
        this.flood.count('ping', this.clock);
        // Not queued behind anything but this turn's frames: bulk waits in the streams.
        return lane.push(FrameType.Pong, 0, payload);
      case FrameType.Ack:
        return this.onAck(payload, lane);
      // What was not agreed on is an extension like any other, and nobody's.
      case FrameType.StreamTrailers:
        return this.limits.trailers ? this.find(streamId, lane)?.onTrailers(payload) : undefined;
      case FrameType.HeadPart:
        return this.limits.longHeads ? this.onHeadPart(streamId, payload, lane) : undefined;
      case FrameType.StreamConnected:
        return this.limits.forward ? this.find(streamId, lane)?.onConnected(payload) : undefined;
      case FrameType.Datagram:
        return undefined;
      case FrameType.StreamResponseHead:
        return this.find(streamId, lane)?.fail(Code.ProtocolError, 'a response head from the kit');
      default:
        this.flood.count('asking', this.clock);
        return this.host.control(frame, lane);
    }
  }

  private onAck(payload: Buffer, lane: StreamLane): void {
    this.flood.count('ack', this.clock);
    if (lane.replay?.acknowledge(Number(payload.readBigUInt64BE(0))) === false) {
      throw new Violation(Code.ProtocolError, 'an ACK of frames that were not sent');
    }
    this.laneDrained(lane);
  }

  /** A frame that costs its stream; a RESET is never answered with another. */
  private onFault({ type, streamId }: Frame, fault: FrameFault, lane: StreamLane): void {
    const code = faultCode(fault);
    if (type !== FrameType.Reset) this.find(streamId, lane)?.fail(code, fault);
    else this.streams.get(streamId)?.onReset(code, fault);
  }

  /** Fields ahead of a STREAM_OPEN: a kit answers nothing, so that no other head has any. */
  private onHeadPart(id: number, payload: Buffer, lane: StreamLane): void {
    if (this.openings.add(lane, id, payload)) return;
    this.flood.count('asking', this.clock);
    this.find(id, lane)?.fail(Code.ProtocolError, 'parts of a response head from the kit');
  }

  private onOpen(id: number, payload: Buffer, lane: StreamLane): void {
    const parts = this.openings.take(lane, id);
    if (id % 2 === 1) return this.refuse(id, lane, 'the kit opened an odd stream id');
    if (this.streams.has(id) || id <= lane.lastOpened) {
      throw new Violation(Code.ProtocolError, `stream id ${id} was opened before`);
    }
    lane.lastOpened = id;
    this.highest = Math.max(this.highest, id);
    let open: StreamOpen;
    try {
      open = complete(readStreamOpen(payload), parts);
    } catch (error) {
      return this.refuse(id, lane, error instanceof Error ? error.message : 'malformed');
    }
    const headBytes = payload.length + (parts?.bytes ?? 0);
    const full = this.whyFull(headBytes) ?? this.whyDry(open);
    if (full !== undefined) {
      return lane.push(FrameType.Reset, id, encodeReset(Code.RefusedStream, full));
    }
    const stream = new MuxStream(this, lane, id, this.limits.streamWindow);
    stream.headBytes = headBytes;
    this.headBytes += headBytes;
    this.streams.set(id, stream);
    this.host.accept(stream, open);
  }

  /** Why no stream with a head of so many bytes can be taken, if there is a reason. */
  private whyFull(headBytes: number): string | undefined {
    if (this.streams.size >= this.limits.maxStreams) {
      this.flood.count('open', this.clock);
      return 'too many streams';
    }
    const heads = this.headBytes + headBytes;
    return heads > HEADS_MAX ? 'too many request heads wait for their answers' : undefined;
  }

  /**
   * Newcomers would find no credit where slow ones hold all of it, which a kit that gives nothing
   * back early lets happen: an answer is better than to wait for ever.
   */
  private whyDry(open: StreamOpen): string | undefined {
    if (this.sendDrySweeps >= 2) return 'slow visitors hold all of the credit';
    if (this.drySweeps < 2 || (open.kind === 'http' && open.body === 'none')) return undefined;
    this.hasRefused = true;
    return 'slow uploads hold all of the credit';
  }

  private onData(id: number, payload: Buffer, lane: StreamLane): void {
    if (!this.recvCredit.received(payload.length)) {
      throw new Violation(Code.FlowControlError, 'DATA past the session window');
    }
    if (payload.length === 0) this.flood.count('emptyData', this.clock);
    this.losses.received(lane.index, payload.length);
    this.used();
    const stream = this.find(id, lane);
    if (stream === undefined) return this.giveBack(payload.length, 0);
    stream.onData(payload);
    // What comes shall not take what is kept for others.
    const { missing, keep } = this.recvCredit;
    if (missing > 0 && stream.held > stream.early) this.giveEarly(stream, missing);
    // Looking over all of them is worth it only for much.
    if (Math.min(this.recvCredit.missing, this.recvCredit.spare) > keep / 4) this.relieveAll();
  }

  private onReset(id: number, payload: Buffer): void {
    const { code, reason } = decodeReset(payload);
    this.streams.get(id)?.onReset(code, plain(reason));
  }

  private onWindow(id: number, increment: number, lane: StreamLane): void {
    this.flood.count('window', this.clock);
    if (id !== 0) return this.find(id, lane)?.onWindow(increment);
    if (!this.sendCredit.grow(increment)) {
      throw new Violation(Code.FlowControlError, 'a session WINDOW past its initial size');
    }
    this.losses.refilled(lane.index, increment, this.clock);
    this.callLine();
  }

  /** The stream of an id; one that is over is ignored, one that never was costs itself. */
  private find(id: number, lane: StreamLane): MuxStream | undefined {
    const stream = this.streams.get(id);
    const isNew = id % 2 === 0 ? id > this.highest : this.own.isUnknown(id);
    if (stream === undefined && isNew) {
      this.refuse(id, lane, `stream id ${id} was never opened`);
    }
    return stream;
  }

  private refuse(id: number, lane: StreamLane, reason: string): void {
    this.flood.count('asking', this.clock);
    lane.push(FrameType.Reset, id, encodeReset(Code.ProtocolError, reason));
  }
}
