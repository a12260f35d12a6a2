/**
 * One socket of a session: frames in, messages out (PROTOCOL §1.1, §7).
 *
 * Small frames of one turn of the event loop leave in one message. Bulk that lies behind room for a
 * frame header leaves at once and is not copied here. A lane never waits: who has bulk to send asks
 * `writable` first and is called back through the session when the carrier has drained.
 */
import { Batch } from '../wire/batch.js';
import { FrameType, HEADER_BYTES, writeHeader } from '../wire/frame.js';
import { ACK_WITHIN_MS, LANE_BULK_MAX, LANE_QUEUE_END, LANE_QUEUE_MAX } from './limits.js';
import { isCounted, type Replay } from './replay.js';
import { isDueEarlier, Line, type Waiter } from './line.js';

/** What carries messages: a WebSocket, or a test. */
export interface Carrier {
  /** Sends one binary message. The bytes are not touched again after it returns. */
  send(message: Buffer): void;
  /** Bytes taken that the runtime has not written yet. */
  readonly backlog: number;
}

/** Payloads from this size on are sent where they lie instead of being gathered. */
const BULK_BYTES = 16 * 1024;

/** A socket that carries a session's frames, those of streams `S` among them. */
export class Lane<S extends Waiter> {
  /** The highest stream id that the peer opened on this lane; ids only grow. */
  lastOpened = 0;
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

  /** The connection is lost, and another one may come: what counts waits for it. */
  suspend(): void {
    this.replay?.lost();
    this.batch.take();
    clearTimeout(this.ackTimer);
    this.ackTimer = undefined;
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
    if (replay?.tellsBefore(message) === true) this.tell(replay);
    take();
    if (replay === undefined || replay.isDown || this.closed) return;
    if (replay.took(message)) this.tell(replay);
    else if (replay.isUntold) this.ackTimer ??= setTimeout(() => this.tell(replay), ACK_WITHIN_MS);
  }

  /** Whether bulk may be sent now, in its turn: others may wait. */
  get writable(): boolean {
    // What gathers here leaves by itself, and nobody would say when.
    const { replay } = this;
    if (this.closed || (replay !== undefined && !replay.hasRoom)) return false;
    return this.carrier.backlog < LANE_BULK_MAX;
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
    if (this.keeps(type, streamId, payload) || !this.room(payload.length)) return;
    this.batch.push(type, streamId, payload);
    this.schedule();
  }

  /** Queues a frame whose payload is one number. */
  pushNumber(type: number, streamId: number, value: number): void {
    if (this.replay !== undefined) {
      const payload = Buffer.alloc(4);
      payload.writeUInt32BE(value);
      return this.push(type, streamId, payload);
    }
    if (!this.room(4)) return;
    this.batch.pushNumber(type, streamId, value);
    this.schedule();
  }

  /** Queues a frame of JSON; `length` is its size in bytes. */
  pushText(type: number, streamId: number, text: string, length: number): void {
    if (this.replay !== undefined) return this.push(type, streamId, Buffer.from(text));
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
    if (length < BULK_BYTES || this.replay !== undefined) {
      this.push(FrameType.Data, streamId, buffer.subarray(start, end));
      if (length >= BULK_BYTES) this.flush();
      return;
    }
    this.flush();
    if (this.closed) return;
    writeHeader(buffer, start - HEADER_BYTES, FrameType.Data, streamId, length);
    this.carrier.send(buffer.subarray(start - HEADER_BYTES, end));
  }

  /** Sends what has gathered, now. */
  flush(): void {
    if (this.closed) return;
    // Nothing that counts goes ahead of what leaves again, but all else may.
    if (this.replay?.isResending === true) this.flushBatch();
    this.flushKept();
    this.flushBatch();
  }

  private flushBatch(): void {
    if (this.batch.bytes === 0) return;
    const message = this.batch.take();
    if (this.replay?.isDown !== true) this.carrier.send(message);
  }

  private flushKept(): void {
    const { replay, carrier } = this;
    while (replay?.hasMore === true) {
      // What was lost waits for room: it may be much.
      if (replay.isResending && carrier.backlog >= LANE_BULK_MAX) return;
      const message = replay.take();
      if (message !== undefined) carrier.send(message);
    }
  }

  private keeps(type: number, streamId: number, payload: Uint8Array): boolean {
    const { replay } = this;
    if (replay === undefined || this.closed || !isCounted(type)) return false;
    replay.add(type, streamId, payload);
    this.schedule();
    return true;
  }

  private tell(replay: Replay): void {
    clearTimeout(this.ackTimer);
    this.ackTimer = undefined;
    if (!this.closed && !replay.isDown) this.push(FrameType.Ack, 0, replay.tell());
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
