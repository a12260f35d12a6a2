/**
 * One exchange of a session (PROTOCOL §4): two directions that end on their own, or both at once
 * by RESET. It holds at most what its user wrote after being told to wait.
 */
import { Code } from '../wire/code.js';
import { encodeReset, FrameType, MAX_PAYLOAD } from '../wire/frame.js';
import { readConnected, readTrailers, type Headers, type ResponseHead } from '../wire/control.js';
import { headFrames, namesInLowerCase, type HeadTerms } from '../wire/parts.js';
import { SendCredit, StreamRecvCredit } from './credit.js';
import { alone, Gather } from './gather.js';
import type { Lane } from './lane.js';
import { BREAKS_WITHIN_MS, GATHER_ABOVE, PROGRESS_UNSAID_MS, SMALL_BYTES } from './limits.js';
import type { Line, Waiter } from './line.js';

/** The local side of a stream: what it is told. */
export interface StreamSink {
  /** Bytes arrived. The sink says `stream.consumed` once it has passed them on. */
  data(chunk: Buffer): void;
  /** Fields behind a chunked body; `end` follows. */
  trailers?(fields: Headers): void;
  /** The peer sends no more. */
  end(): void;
  /** The stream is over in both directions. Told once, and never after both sides ended. */
  reset(code: number, reason: string): void;
  /** There is room again after `write` returned false. */
  drain(): void;
  /** A stream that we opened has reached what it is for, whose address is `peer` if that is told. */
  reached?(peer: string): void;
  /** What the system calls the connection that takes the bytes, while there is one (see `Unread`). */
  connection?(): string | undefined;
}

/** What became of an attempt to send queued bytes. */
export type Pumped = 'empty' | 'sent' | 'no-credit' | 'no-share' | 'no-lane';

/**
 * Why it is a stream's turn: its share of the session's credit has grown, there is room in its lane,
 * or it has waited for too long for credit that an older peer withholds.
 */
export type Turn = 'share' | 'lane' | 'overdue';

/** The most queued bytes one stream sends before the next one has its turn. */
const QUANTUM = MAX_PAYLOAD;
/** The same of one that is overdue, whatever its share is. */
const OVERDUE_BYTES = 16 * 1024;

/** A lane that streams use. */
export type StreamLane = Lane<MuxStream>;

/** What a stream knows of its session: what all streams share, and whom to tell of itself. */
export interface StreamOwner {
  /** What the session may send. */
  readonly sendCredit: SendCredit;
  /** What was agreed on. */
  readonly limits: HeadTerms & { readonly trailers?: boolean; readonly streamWindow: number };
  /** Streams that wait for their share of it. */
  readonly line: Line<MuxStream>;
  /** The time of the last sweep. */
  readonly clock: number;
  /** Whether others are short of what this end may still receive. */
  readonly isContended: boolean;
  /** What a stream may send before it holds its share of the session's credit. */
  allowance(stream: MuxStream): number;
  /** Counts DATA that leaves against the session's credit; returns the turn that this was. */
  spend(lane: StreamLane, bytes: number): number;
  /** Returns credit of received bytes to the peer. */
  giveBack(bytes: number, early: number): void;
  /** The head of a request is not kept any more. */
  releaseHead(stream: MuxStream): void;
  /** A stream has bytes that could not leave. */
  park(stream: MuxStream, until: Pumped): void;
  /** A stream has nothing more to send. */
  unpark(stream: MuxStream): void;
  /** A stream that has bytes queued got credit of its own back. */
  resume(stream: MuxStream): void;
  /** Forgets a stream that is over. */
  settle(stream: MuxStream): void;
}

/** A stream that the kit opened, or we. */
export class MuxStream implements Waiter {
  /**
   * Told what arrives; set by whoever accepted the stream, before anything can arrive. The session
   * lets go of it when the stream is over.
   */
  sink: StreamSink | undefined;
  /** Bytes that arrived and were not passed on yet. */
  held = 0;
  /** Of those, the bytes whose session credit was given back early (see `MuxSession.sweep`). */
  early = 0;
  /** When the local side last took bytes, by the clock of `MuxSession.sweep`. */
  movedAt = 0;
  /** Since when credit of it is withheld, as the sweeps saw it. */
  unsaidSince: number | undefined;
  /** Bytes of the request's head that the session still counts. */
  headBytes = 0;
  /** Where it stands in the line in which it waits, kept by the line; means nothing outside of one. */
  place = -1;
  /** When it sent last: a number that grows over the streams of a session. */
  turn = 0;
  /** When its next piece is due while it waits for room in its lane (see `Lane.begin`). */
  due = 0;
  /** How far it has come in its lane. */
  private share = 0;
  /** Sweeps that have passed since it began to wait. */
  sweepsWaited = 0;
  private readonly sendCredit: SendCredit;
  private readonly recvCredit: StreamRecvCredit;
  /** What is held and was not handed to the local side yet. */
  private readonly gathered = new Gather();
  private queue: Uint8Array[] = [];
  /** The bytes in `queue`. */
  private queued = 0;
  private endQueued = false;
  /** The payload of what leaves ahead of our EOF. */
  private trailing: string | undefined;
  private localEnded = false;
  private remoteEnded = false;
  private wasReset = false;
  /** Says that it broke, once what is queued has left or has waited for too long. */
  private breaking: { say: () => void; timer: NodeJS.Timeout } | undefined;

  constructor(
    private readonly session: StreamOwner,
    readonly lane: StreamLane,
    readonly id: number,
    window: number,
  ) {
    this.sendCredit = new SendCredit(window);
    this.recvCredit = new StreamRecvCredit(window);
  }

  /** Whether nothing can happen on this stream any more. */
  get over(): boolean {
    return this.wasReset || (this.localEnded && this.remoteEnded);
  }

  /** Bytes that were sent, and that the peer has not given back. */
  get outstanding(): number {
    return this.sendCredit.outstanding;
  }

  /** Whether all that it holds, and has to send, is so little that it may use the last credit. */
  get isSmall(): boolean {
    return this.outstanding + this.queued <= SMALL_BYTES;
  }

  /** Its place among those who wait for session credit. */
  get rank(): number {
    return this.isSmall ? -1 : this.outstanding;
  }

  /** Whether the local side has passed on all that came, and waits for more. */
  get isHungry(): boolean {
    return this.held === 0 && !this.remoteEnded && !this.wasReset;
  }

  /** Whether our side may still send. */
  get sendable(): boolean {
    return !this.wasReset && !this.localEnded && !this.endQueued;
  }

  /** Sends the head of a response; false where it is too large for the kit. */
  head(head: ResponseHead): boolean {
    if (!this.sendable) return true;
    const frames = headFrames(head, this.session.limits);
    if (frames === undefined) return false;
    for (const { type, text, length } of frames) this.lane.pushText(type, this.id, text, length);
    return true;
  }

  /** Sends bytes that are not changed afterwards. False: wait for `drain` before the next. */
  write(chunk: Uint8Array): boolean {
    if (!this.sendable || chunk.length === 0) return true;
    this.queue.push(chunk);
    this.queued += chunk.length;
    if (this.queue.length > 1) {
      this.session.line.moved(this);
      return false;
    }
    let pumped = this.pump();
    while (pumped === 'sent') pumped = this.pump();
    if (pumped === 'empty') return true;
    this.session.park(this, pumped);
    return false;
  }

  /**
   * Sends `buffer[start..end]`, where the nine bytes before `start` are free. The buffer may be
   * reused at once: what cannot leave now is copied. False: wait for `drain` before the next.
   */
  writeInPlace(buffer: Buffer, start: number, end: number): boolean {
    if (!this.sendable || start === end) return true;
    const length = end - start;
    const isFirst = this.queue.length === 0 && this.lane.isFree;
    const now = isFirst ? Math.min(length, this.allowed(length)) : 0;
    if (now > 0) {
      this.spend(now);
      this.lane.pushInPlace(this.id, buffer, start, start + now);
    }
    return now === length || this.write(Buffer.from(buffer.subarray(start + now, end)));
  }

  /** Whether the kit takes trailers. */
  get carriesTrailers(): boolean {
    return this.session.limits.trailers === true;
  }

  /** Our side is done, once what is queued has left, with these fields behind it. */
  end(trailers: Headers = []): void {
    if (!this.sendable) return;
    this.endQueued = true;
    if (trailers.length > 0 && this.carriesTrailers) {
      const headers = this.session.limits.headerCase ? trailers : namesInLowerCase(trailers);
      this.trailing = JSON.stringify({ headers });
    }
    if (this.queue.length === 0) this.sendEof();
  }

  /** Ends both directions. */
  reset(code: number, reason: string): void {
    if (this.over) return;
    this.lane.push(FrameType.Reset, this.id, encodeReset(code, reason));
    this.finishReset();
  }

  /** Ends both directions behind what is queued: that was said before our side broke. */
  break(code: number, reason: string): void {
    if (this.over || this.breaking !== undefined) return;
    if (this.queue.length === 0) return this.reset(code, reason);
    const say = (): void => this.reset(code, reason);
    this.breaking = { say, timer: setTimeout(say, BREAKS_WITHIN_MS).unref() };
    this.endQueued = true;
  }

  /** The local side has passed `bytes` on: credit goes back. */
  consumed(bytes: number): void {
    if (this.wasReset || bytes === 0) return;
    this.held -= bytes;
    this.movedAt = this.session.clock;
    const early = Math.min(bytes, this.early);
    this.early -= early;
    this.recvCredit.passedOn(bytes);
    this.session.giveBack(bytes, early);
    // The kit sends no more behind its EOF; that it moves is told by the sweeps.
    if (this.remoteEnded) return;
    this.grant(this.recvCredit.claim(this.held, this.session.isContended));
    if (this.held - this.gathered.bytes < GATHER_ABOVE) this.handGathered();
  }

  /** For so long there was no connection, which says nothing about its local side. */
  stoodStill(ms: number): void {
    this.movedAt += ms;
    if (this.unsaidSince !== undefined) this.unsaidSince += ms;
  }

  /** Gives back what is withheld of this stream's credit. */
  giveWithheldBack(): void {
    if (!this.remoteEnded) this.grant(this.recvCredit.claimWithheld());
  }

  /** Whether credit of it has been withheld for so long that the kit should hear of it. */
  isUnsaid(now: number): boolean {
    if (this.over || this.recvCredit.withheld === 0) {
      this.unsaidSince = undefined;
      return false;
    }
    this.unsaidSince ??= now;
    return now - this.unsaidSince >= PROGRESS_UNSAID_MS;
  }

  /** Tells what the local side took, also behind the kit's EOF. */
  tellProgress(): void {
    this.unsaidSince = undefined;
    this.grant(this.recvCredit.claimAll());
  }

  /** The request has been handed on, and its head is not kept any more. */
  releaseHead(): void {
    this.session.releaseHead(this);
  }

  /** Sends one quantum of what is queued. */
  pump(turn: Turn = 'share'): Pumped {
    const chunk = this.queue[0];
    if (chunk === undefined) return 'empty';
    if (this.sendCredit.available === 0) return 'no-credit';
    if (chunk.length === 0) return this.emptied();
    if (!(turn === 'lane' ? this.lane.writable : this.lane.isFree)) return 'no-lane';
    const most =
      turn === 'overdue' ? Math.min(OVERDUE_BYTES, this.credit()) : this.allowed(this.queued);
    const length = Math.min(chunk.length, QUANTUM, most);
    if (length === 0) return 'no-share';
    const part = chunk.subarray(0, length);
    this.queued -= length;
    this.spend(part.length, turn);
    this.lane.push(FrameType.Data, this.id, part);
    if (length < chunk.length) {
      this.queue[0] = chunk.subarray(length);
      return 'sent';
    }
    this.queue.shift();
    return this.queue.length > 0 ? 'sent' : 'empty';
  }

  /** Called by the session after `pump` emptied the queue. */
  drained(): void {
    if (this.breaking !== undefined) this.breaking.say();
    else if (this.endQueued) this.sendEof();
    else if (this.sendable) this.sink?.drain();
  }

  /** DATA arrived; the session has counted it already. */
  onData(payload: Buffer): void {
    if (this.remoteEnded) {
      this.session.giveBack(payload.length, 0);
      this.reset(Code.StreamClosed, 'DATA after EOF');
      return;
    }
    if (!this.recvCredit.received(payload.length)) {
      this.session.giveBack(payload.length, 0);
      this.fail(Code.FlowControlError, 'DATA past the stream window');
      return;
    }
    if (this.held === 0) this.movedAt = this.session.clock;
    const behind = this.held - this.gathered.bytes;
    this.held += payload.length;
    const gathers = this.gathered.wants(payload, behind);
    if (!gathers || !this.gathered.fits(payload)) this.handGathered();
    // What it was handed may have ended it.
    if (this.wasReset) return;
    if (gathers) this.gathered.add(payload);
    else this.sink?.data(alone(payload));
  }

  private handGathered(): void {
    if (this.gathered.bytes > 0) this.sink?.data(this.gathered.take());
  }

  /** STREAM_TRAILERS arrived. */
  onTrailers(payload: Buffer): void {
    if (this.remoteEnded) return;
    this.handGathered();
    // What it was handed may have ended it.
    if (this.wasReset) return;
    try {
      this.sink?.trailers?.(readTrailers(payload));
    } catch (error) {
      this.fail(Code.ProtocolError, error instanceof Error ? error.message : 'malformed trailers');
    }
  }

  /** STREAM_CONNECTED arrived. */
  onConnected(payload: Buffer): void {
    try {
      this.sink?.reached?.(readConnected(payload));
    } catch (error) {
      this.fail(Code.ProtocolError, error instanceof Error ? error.message : 'malformed');
    }
  }

  /** EOF arrived. */
  onEof(): void {
    if (this.remoteEnded) return;
    this.handGathered();
    // What it was handed may have ended it.
    if (this.wasReset) return;
    this.remoteEnded = true;
    this.sink?.end();
    this.session.settle(this);
  }

  /** RESET arrived, or the lane of this stream is gone. */
  onReset(code: number, reason: string): void {
    if (this.over) return;
    const { sink } = this;
    this.finishReset();
    sink?.reset(code, reason);
  }

  /** The peer gave credit back. */
  onWindow(increment: number): void {
    if (!this.sendCredit.grow(increment)) {
      this.fail(Code.FlowControlError, 'a WINDOW past the initial size');
    } else if (this.queue.length > 0) this.session.resume(this);
  }

  /** RESETs the stream for what the peer did, and tells the local side. */
  fail(code: number, reason: string): void {
    if (this.over) return;
    const { sink } = this;
    this.reset(code, reason);
    sink?.reset(code, reason);
  }

  /** Of `waiting` bytes, those that both windows, and its share of the session's, allow now. */
  private allowed(waiting: number): number {
    const isSmall = this.outstanding + waiting <= SMALL_BYTES;
    return isSmall ? this.credit() : Math.min(this.credit(), this.session.allowance(this));
  }

  /** Bytes that both windows allow. */
  private credit(): number {
    return Math.min(this.sendCredit.available, this.session.sendCredit.available);
  }

  /** Stands in line for room in its lane. */
  awaitRoom(): void {
    this.share = this.lane.begin(this.share);
    this.due = this.share + Math.min(QUANTUM, this.queue[0]?.length ?? 0);
    this.lane.line.add(this);
  }

  private spend(bytes: number, turn: Turn = 'share'): void {
    // Whoever waited began when it came.
    const start = turn === 'lane' ? this.share : this.lane.begin(this.share);
    this.share = this.lane.advance(start, bytes);
    this.sendCredit.spend(bytes);
    this.turn = this.session.spend(this.lane, bytes);
  }

  private grant(increment: number): void {
    if (increment === 0 || this.wasReset) return;
    this.lane.pushCredit(this.id, increment);
  }

  /** What was queued had bytes once: whoever wrote it has given its memory away meanwhile. */
  private emptied(): Pumped {
    this.fail(Code.InternalError, 'bytes to be sent were taken away');
    return 'no-credit';
  }

  private sendEof(): void {
    this.localEnded = true;
    const { trailing } = this;
    if (trailing !== undefined) {
      this.trailing = undefined;
      this.lane.pushText(FrameType.StreamTrailers, this.id, trailing, Buffer.byteLength(trailing));
    }
    this.lane.push(FrameType.Eof, this.id, EMPTY);
    this.session.settle(this);
  }

  private finishReset(): void {
    this.wasReset = true;
    clearTimeout(this.breaking?.timer);
    this.queue = [];
    this.queued = 0;
    this.session.unpark(this);
    const { held, early } = this;
    this.held = 0;
    this.early = 0;
    this.gathered.drop();
    this.session.giveBack(held, early);
    this.session.settle(this);
  }
}

const EMPTY = new Uint8Array(0);
