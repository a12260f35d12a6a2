/**
 * One socket of a session: frames in, messages out (PROTOCOL §1.1, §7).
 *
 * Small frames of one turn of the event loop leave in one message. Bulk that lies behind room for a
 * frame header leaves at once and is not copied here. A lane never waits: who has bulk to send asks
 * `writable` first and is called back through the session when the carrier has drained.
 */
import { Batch } from '../wire/batch.js';
import { FrameType, HEADER_BYTES, isCounted, writeHeader } from '../wire/frame.js';
import { ACK_WITHIN_MS, LANE_BULK_MAX, LANE_QUEUE_END, LANE_QUEUE_MAX } from './limits.js';
import { countIn, type KeptMessage, type Replay } from './replay.js';
import { isDueEarlier, Line, type Waiter } from './line.js';

/** What carries messages: a WebSocket, or a test. */
export interface Carrier {
  /** Sends one binary message. The bytes are not touched again after it returns. */
  send(message: Buffer): void;
  /** As `send`, and keeps what it wrote, where that is no copy more. */
  keep?(message: Buffer): KeptMessage;
  /** Bytes taken that the runtime has not written yet. */
  readonly backlog: number;
}

/** Payloads from this size on are sent where they lie instead of being gathered. */
const BULK_BYTES = 16 * 1024;

/** A socket that carries a session's frames, those of streams `S` among them. */
export class Lane<S extends Waiter> {
  /** The highest stream id that the peer opened on this lane; ids only grow. */
  lastOpened = 0;
  /** Since when it has no connection, where another one may come. */
  downSince: number | undefined;
  /** Streams with queued bytes that wait until bulk may be sent. */
  readonly line = new Line<S>(isDueEarlier);
  /**
   * How far those have come who wait for room, in bytes of each. It is what makes turns fair by bytes
   * and not by streams: whoever sends little does not wait for a round of all who send much.
   */
  private progress = 0;
  private readonly batch = new Batch();
  private scheduled = false;
  private closed = false;
  private ackTimer: NodeJS.Timeout | undefined;

  constructor(
    readonly index: number,
    private carrier: Carrier,
    /** Keeps what was not acknowledged, where the kit granted that. */
    readonly replay?: Replay,
  ) {}

  /**
   * The connection is lost, and another one may come: what counts waits for it. Returns the session's
   * credit that has not left, which may leave on any lane.
   */
  suspend(): number {
    const { replay } = this;
    if (replay === undefined) return 0;
    replay.lost(this.batch.take());
    clearTimeout(this.ackTimer);
    this.ackTimer = undefined;
    return replay.ungather(0)[0]?.[1] ?? 0;
  }

  /** How many frames the peer has taken. */
  get acknowledged(): number {
    return this.replay?.acknowledged ?? 0;
  }

  /** Whether it waits for another connection. */
  get isDown(): boolean {
    return this.replay?.isDown === true;
  }

  /** Another connection stands, and the peer has taken so many frames; false when it cannot have. */
  resume(carrier: Carrier, received: number): boolean {
    if (this.closed || this.replay?.resumed(received) !== true) return false;
    this.carrier = carrier;
    this.flush();
    return true;
  }

  /** A message came; `take` hands its frames on. */
  receive(message: Buffer, take: () => void): void {
    const { replay } = this;
    if (replay === undefined) return take();
    const counted = countIn(message);
    if (replay.tellsBefore(counted, message.length)) this.tell(replay);
    take();
    if (replay.isDown || this.closed) return;
    replay.took(counted, message.length);
    if (replay.isUntold) this.ackTimer ??= setTimeout(() => this.tellLate(replay), ACK_WITHIN_MS);
  }

  /** Whether bulk may be sent now, in its turn: others may wait. */
  get writable(): boolean {
    // What gathers here leaves by itself, and nobody would say when.
    if (this.closed || this.replay?.hasRoom(this.batch) === false) return false;
    return this.carrier.backlog < LANE_BULK_MAX;
  }

  /** Whether a stream may be opened on it now: what the peer has not taken leaves room for that. */
  get mayOpen(): boolean {
    return !this.closed && this.replay?.hasRoom(this.batch) !== false;
  }

  /** Whether bulk may be sent now by somebody who has not waited. */
  get isFree(): boolean {
    // They wait until half of what may wait has left, and would do so for ever behind one that uses
    // whatever room there is.
    return this.line.size === 0 && this.writable;
  }

  /** Where a stream begins that has come to `share` bytes: what it left unused does not count. */
  begin(share: number): number {
    return Math.max(share, this.progress);
  }

  /** A stream that began at `start` has sent `bytes`; returns where it has come to. */
  advance(start: number, bytes: number): number {
    const end = start + bytes;
    this.progress = Math.max(this.progress, this.line.size === 0 ? end : start);
    return end;
  }

  /** Whether so much waits that nothing more should be asked of us before it has left. */
  get choked(): boolean {
    return this.backlog > LANE_QUEUE_MAX;
  }

  /** Whether more waits than a peer can mean to read. */
  get drowned(): boolean {
    return this.backlog > LANE_QUEUE_END;
  }

  /** Bytes that wait in this lane and below it. */
  get backlog(): number {
    // What leaves again waits for room in the carrier, and does not keep us from reading.
    return this.carrier.backlog + this.batch.bytes;
  }

  /** Queues a frame; it leaves at the end of this turn of the event loop. */
  push(type: number, streamId: number, payload: Uint8Array): void {
    if (this.waits(type)) return this.wait(type, streamId, payload);
    if (!this.room(payload.length)) return;
    this.batch.push(type, streamId, payload);
    this.schedule();
  }

  /** Queues credit for the peer. */
  pushCredit(streamId: number, increment: number): void {
    const { replay } = this;
    const gathers = !this.closed && replay?.hasRoom(this.batch) === false;
    if (gathers && replay.gather(streamId, increment)) return;
    if (this.waits(FrameType.Window)) {
      const payload = Buffer.alloc(4);
      payload.writeUInt32BE(increment);
      return this.wait(FrameType.Window, streamId, payload);
    }
    if (!this.room(4)) return;
    this.batch.pushNumber(FrameType.Window, streamId, increment);
    this.schedule();
  }

  /** Queues a frame of JSON; `length` is its size in bytes. */
  pushText(type: number, streamId: number, text: string, length: number): void {
    if (this.waits(type)) return this.wait(type, streamId, Buffer.from(text));
    if (!this.room(length)) return;
    this.batch.pushText(type, streamId, text, length);
    this.schedule();
  }

  /**
   * Sends `buffer[start..end]` as DATA. The nine bytes before `start` are free for the header. The
   * buffer may be reused as soon as this returns.
   */
  pushInPlace(streamId: number, buffer: Buffer, start: number, end: number): void {
    const length = end - start;
    if (length < BULK_BYTES || this.waits(FrameType.Data)) {
      return this.push(FrameType.Data, streamId, buffer.subarray(start, end));
    }
    this.flush();
    if (this.closed) return;
    writeHeader(buffer, start - HEADER_BYTES, FrameType.Data, streamId, length);
    const message = buffer.subarray(start - HEADER_BYTES, end);
    this.leave(message, 1, length);
  }

  /** Sends what has gathered, now. */
  flush(): void {
    if (this.closed) return;
    this.flushBatch();
    if (this.replay === undefined) return;
    this.sendAgain(this.replay);
    this.letCreditGo(this.replay);
    this.flushBatch();
  }

  private flushBatch(): void {
    const { bytes, counted, data } = this.batch;
    if (bytes > 0) this.leave(this.batch.take(), counted, data);
  }

  private leave(message: Buffer, counted: number, data: number): void {
    const { carrier, replay } = this;
    if (replay === undefined || counted === 0) return carrier.send(message);
    const kept = carrier.keep?.(message) ?? sendCopy(carrier, message);
    replay.leaves(kept, message.length, counted, data);
  }

  /** Sends what the last connection lost, as far as there is room: it may be much. */
  private sendAgain(replay: Replay): void {
    while (replay.isResending && this.carrier.backlog < LANE_BULK_MAX) {
      const again = replay.again();
      if (again !== undefined) this.leave(again.message, again.counted, again.data);
    }
  }

  private letCreditGo(replay: Replay): void {
    if (!replay.hasRoom(this.batch)) return;
    for (const [streamId, increment] of replay.ungather()) this.pushCredit(streamId, increment);
  }

  /** Whether a frame of a type cannot leave in turn. */
  private waits(type: number): boolean {
    const { replay } = this;
    if (replay === undefined || replay.isSending) return false;
    return replay.isDown || isCounted(type);
  }

  private wait(type: number, streamId: number, payload: Uint8Array): void {
    if (!this.closed && isCounted(type)) this.replay?.wait(type, streamId, payload);
  }

  private tell(replay: Replay): void {
    if (!this.closed && !replay.isDown) this.push(FrameType.Ack, 0, replay.tell());
  }

  private tellLate(replay: Replay): void {
    this.ackTimer = undefined;
    if (replay.isUntold) this.tell(replay);
  }

  /** From here on nothing is sent; what was queued is dropped. */
  close(): void {
    this.closed = true;
    clearTimeout(this.ackTimer);
    this.line.clear();
  }

  private room(length: number): boolean {
    if (this.closed) return false;
    if (!this.batch.fits(length)) this.flushBatch();
    return true;
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.flush();
    });
  }
}

function sendCopy(carrier: Carrier, message: Buffer): KeptMessage {
  const copy = Buffer.from(message);
  carrier.send(message);
  return { read: () => copy, release: () => undefined };
}
