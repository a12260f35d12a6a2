/**
 * A kit in virtual time, whose visitors read as slowly as a test says, and whose callers upload.
 *
 * The newer kind gives credit back as the SDK does. The older kind withholds a quarter of every
 * window, gives nothing back early, and sends as long as there is credit, 64 KiB at a time.
 */
import { SendCredit, SessionRecvCredit, StreamRecvCredit } from '../../src/mux/credit.js';
import { FrameType, type Frame } from '../../src/wire/frame.js';
import { decodeReset } from '../../src/wire/frame.js';
import { Rig } from './rig.js';

export const STREAM_WINDOW = 1024 * 1024;
export const SESSION_WINDOW = 16 * 1024 * 1024;

/** One visitor, as the kit knows it. */
interface Visitor {
  id: number;
  /** Bytes a millisecond that it takes. */
  rate: number;
  credit: StreamRecvCredit;
  withheld: number;
  held: number;
  early: number;
  taken: number;
  reset: string | undefined;
  /** For uploads: what is left to send, and what credit there is for it. */
  toSend: number;
  sendCredit: SendCredit;
}

export class SlowKit {
  readonly rig: Rig;
  readonly visitors = new Map<number, Visitor>();
  now = 0;
  private readonly recv = new SessionRecvCredit(SESSION_WINDOW, 32 * 1024 * 1024);
  private readonly sendCredit = new SendCredit(SESSION_WINDOW);
  private withheld = 0;
  private nextId = 2;
  private swept = 0;

  constructor(private readonly isOld: boolean) {
    this.rig = new Rig({
      streamWindow: STREAM_WINDOW,
      sessionWindow: SESSION_WINDOW,
      maxStreams: 4096,
    });
  }

  /** Somebody comes, who takes `rate` bytes a millisecond, or uploads `toSend` bytes. */
  open(rate: number, toSend = 0): Visitor {
    const id = this.nextId;
    this.nextId += 2;
    this.rig.open(id);
    const visitor: Visitor = {
      id,
      rate,
      credit: new StreamRecvCredit(STREAM_WINDOW),
      withheld: 0,
      held: 0,
      early: 0,
      taken: 0,
      reset: undefined,
      toSend,
      sendCredit: new SendCredit(STREAM_WINDOW),
    };
    this.visitors.set(id, visitor);
    return visitor;
  }

  leave(visitor: Visitor): void {
    this.rig.receive(FrameType.Reset, visitor.id, Buffer.from([0, 7]));
    this.visitors.delete(visitor.id);
    this.passOn(visitor, visitor.held);
  }

  /** Time passes: visitors take, uploads go on, and what the laptop said arrives. */
  step(ms: number): void {
    this.now += ms;
    this.arrive();
    for (const visitor of this.visitors.values()) {
      this.passOn(visitor, Math.min(visitor.held, Math.floor(visitor.rate * ms)));
      this.upload(visitor);
    }
    this.arrive();
    if (this.now - this.swept < 500) return;
    this.swept = this.now;
    this.rig.mux.sweep(this.now);
  }

  /** Takes what was sent, which may give credit back, so that more is sent. */
  private arrive(): void {
    for (;;) {
      this.rig.lane.flush();
      const frames = this.rig.sent.splice(0);
      if (frames.length === 0) return;
      for (const frame of frames) this.take(frame);
    }
  }

  private take({ type, streamId, payload }: Frame): void {
    const visitor = this.visitors.get(streamId);
    if (type === FrameType.Window) {
      const credit = streamId === 0 ? this.sendCredit : visitor?.sendCredit;
      if (credit?.grow(payload.readUInt32BE(0)) === false)
        throw new Error('WINDOW past the window');
    } else if (type === FrameType.Reset && visitor !== undefined) {
      visitor.reset = decodeReset(payload).reason;
      visitor.toSend = 0;
    } else if (type === FrameType.Data) this.data(visitor, payload.length);
  }

  private data(visitor: Visitor | undefined, bytes: number): void {
    if (!this.recv.received(bytes)) throw new Error('DATA past the session window');
    if (visitor === undefined) return this.giveBack(bytes, 0);
    if (!visitor.credit.received(bytes)) throw new Error('DATA past the stream window');
    visitor.held += bytes;
    if (this.isOld || this.recv.missing === 0) return;
    visitor.early += this.recv.giveEarly(Math.min(this.recv.missing, visitor.held - visitor.early));
    this.claim();
  }

  private passOn(visitor: Visitor, bytes: number): void {
    if (bytes === 0) return;
    visitor.held -= bytes;
    visitor.taken += bytes;
    const early = Math.min(bytes, visitor.early);
    visitor.early -= early;
    visitor.credit.passedOn(bytes);
    visitor.withheld += bytes;
    this.giveBack(bytes, early);
    if (this.isOld && visitor.withheld < STREAM_WINDOW / 4) return;
    visitor.withheld = 0;
    const increment = this.isOld
      ? visitor.credit.claimAll()
      : visitor.credit.claim(visitor.held, this.recv.contended);
    if (increment > 0) this.rig.window(visitor.id, increment);
  }

  private giveBack(bytes: number, early: number): void {
    this.recv.earlyLeft(early);
    this.recv.passedOn(bytes - early);
    this.withheld += bytes;
    if (this.isOld && this.withheld < SESSION_WINDOW / 4) return;
    this.withheld = 0;
    this.claim();
  }

  private claim(): void {
    const increment = this.isOld ? this.recv.claimAll() : this.recv.claim();
    if (increment > 0) this.rig.window(0, increment);
  }

  private upload(visitor: Visitor): void {
    while (visitor.toSend > 0) {
      const free = Math.min(visitor.sendCredit.available, this.sendCredit.available);
      const piece = Math.min(65_536, visitor.toSend);
      if (free < piece) return;
      visitor.toSend -= piece;
      visitor.sendCredit.spend(piece);
      this.sendCredit.spend(piece);
      this.rig.receive(FrameType.Data, visitor.id, Buffer.alloc(piece));
    }
  }
}
