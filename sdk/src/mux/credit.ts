/**
 * Credit: how many DATA bytes may still be sent (PROTOCOL §5).
 *
 * Two classes, so that the two directions cannot be swapped. For a receiver
 * `available + held + unclaimed === window` holds at all times, where `held` are the bytes that the
 * local side has not taken yet.
 */

/** What the peer lets us send. */
export class SendCredit {
  private free: number;

  constructor(private readonly window: number) {
    this.free = window;
  }

  /** Bytes that may be sent now. */
  get available(): number {
    return this.free;
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
export class RecvCredit {
  private free: number;
  private unclaimed = 0;
  private readonly threshold: number;

  constructor(private readonly window: number) {
    this.free = window;
    // An eighth is gathered before it is given back: never more than the quarter that the protocol
    // allows, and large enough that a bulk transfer is not answered frame by frame.
    this.threshold = Math.max(1, Math.floor(window / 8));
  }

  /** Whether the peer has so little left that its streams wait, or soon will. */
  get scarce(): boolean {
    return this.free < this.window / 4;
  }

  /** Counts bytes that arrived; false when the peer had no credit for them. */
  received(bytes: number): boolean {
    if (bytes > this.free) return false;
    this.free -= bytes;
    return true;
  }

  /** Counts bytes that were passed on; returns the increment to send now, or 0. */
  passedOn(bytes: number): number {
    this.unclaimed += bytes;
    if (this.unclaimed < this.threshold) return 0;
    const increment = this.unclaimed;
    this.unclaimed = 0;
    this.free += increment;
    return increment;
  }
}
