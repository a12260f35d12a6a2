/**
 * Credit: how many DATA bytes may still be sent (PROTOCOL §5). How the streams of a session share it
 * is in `share.ts`.
 *
 * Two directions, two kinds of class, so that they cannot be swapped. For a receiver's session
 * `available + held - early + unclaimed === window` holds at all times, where `held` are the bytes
 * that local sides have not taken yet and `early` those of them whose credit went back all the same.
 */

import { CLAIM_LEAST, CLAIM_LEAST_OF_STREAM, EARLY_KEEPS_PIECES_OF } from './limits.js';
import { leave } from './share.js';

const KIB = 1024;

/** What the peer lets us send. */
export class SendCredit {
  private free: number;

  constructor(readonly window: number) {
    this.free = window;
  }

  /** Bytes that may be sent now. */
  get available(): number {
    return this.free;
  }

  /** Bytes that were sent and not given back. */
  get outstanding(): number {
    return this.window - this.free;
  }

  /** Spends credit; the caller has looked at `available`. */
  spend(bytes: number): void {
    // A single NaN would stop every stream for good, so that its cause must show here.
    if (!Number.isInteger(bytes)) throw new TypeError(`credit for ${bytes} bytes`);
    this.free -= bytes;
  }

  /** Takes an increment from the peer; false when it would raise the window above its size. */
  grow(bytes: number): boolean {
    if (this.free + bytes > this.window) return false;
    this.free += bytes;
    return true;
  }
}

/** What we let the peer send. */
abstract class RecvCredit {
  protected free: number;
  protected unclaimed = 0;

  constructor(readonly window: number) {
    this.free = window;
  }

  /** Bytes that the peer may still send. */
  get available(): number {
    return this.free;
  }

  /** Bytes whose credit may go back and has not. */
  get withheld(): number {
    return this.unclaimed;
  }

  /** Counts bytes that arrived; false when the peer had no credit for them. */
  received(bytes: number): boolean {
    if (bytes > this.free) return false;
    this.free -= bytes;
    return true;
  }

  /** Counts bytes whose credit may go back. */
  passedOn(bytes: number): void {
    this.unclaimed += bytes;
  }

  /** Takes all that may go back: the increment to send now, or 0. */
  claimAll(): number {
    const increment = this.unclaimed;
    this.unclaimed = 0;
    this.free += increment;
    return increment;
  }

  protected claimFrom(threshold: number): number {
    return this.unclaimed < threshold ? 0 : this.claimAll();
  }
}

/** An eighth is gathered before it is given back where nobody is short: a bulk transfer is then not
 * answered frame by frame, and it is less than the quarter that the protocol allows. */
const GATHERED = 8;
/** Some senders send nothing before so much is free. */
const OLD_PIECE = 64 * KIB;

/** The receiving end of one stream. */
export class StreamRecvCredit extends RecvCredit {
  /** The increment to send now, or 0, where `held` bytes wait for the local side. */
  claim(held: number, contended: boolean): number {
    const gathered = Math.max(1, Math.floor(this.window / GATHERED));
    const plenty = this.free < OLD_PIECE ? Math.min(gathered, OLD_PIECE) : gathered;
    // The sender may allow the stream no more than it has outstanding: half of it goes back at once.
    const shared = Math.max(CLAIM_LEAST_OF_STREAM, held);
    return this.claimFrom(contended ? Math.min(plenty, shared) : plenty);
  }

  /** The increment to send where nobody shall withhold any, or 0 where it is not worth a WINDOW. */
  claimWithheld(): number {
    return this.claimFrom(CLAIM_LEAST_OF_STREAM);
  }
}

/** The receiving end of a session. */
export class SessionRecvCredit extends RecvCredit {
  /**
   * What the peer is to find left, if the early budget has it: enough that a sender which shares
   * gives each stream a good piece, and any sender a newcomer its first ones.
   */
  readonly keep: number;
  private short = false;
  private given = 0;

  constructor(
    window: number,
    /** Bytes whose credit may be given back before they are passed on. */
    private readonly budget: number,
  ) {
    super(window);
    this.keep = leave(EARLY_KEEPS_PIECES_OF, window);
  }

  /** Bytes whose credit went back early, and that local sides still hold. */
  get early(): number {
    return this.given;
  }

  /** Bytes that are missing from what is to be kept free. */
  get missing(): number {
    return Math.max(0, this.keep - this.free - this.unclaimed);
  }

  /** What is left of the budget. */
  get spare(): number {
    return this.budget - this.given;
  }

  /**
   * Whether streams have to share what is left. They begin below a half, and stop only at three
   * quarters, so that it does not change with every frame.
   */
  get contended(): boolean {
    const { free, window } = this;
    this.short = free < (this.short ? 3 * Math.floor(window / 4) : Math.floor(window / 2));
    return this.short;
  }

  /** The increment to send now, or 0: the less is left, the smaller the lumps. */
  claim(): number {
    const gathered = Math.max(1, Math.floor(this.window / GATHERED));
    return this.claimFrom(Math.min(gathered, Math.max(Math.floor(this.free / 4), CLAIM_LEAST)));
  }

  /** Of `bytes` that a local side holds, gives back early what the budget allows; returns that. */
  giveEarly(bytes: number): number {
    const part = Math.max(0, Math.min(bytes, this.spare));
    this.given += part;
    this.passedOn(part);
    return part;
  }

  /** Bytes whose credit was given back early have left. */
  earlyLeft(bytes: number): void {
    this.given -= bytes;
  }
}
