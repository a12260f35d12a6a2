/**
 * Session credit that went down with a lane (PROTOCOL §5, §7).
 *
 * DATA that was on its way when a secondary lane was lost never arrives, so no WINDOW gives its
 * credit back. Both ends count the DATA bytes of each lane index from the session's beginning; with
 * the next JOIN of the index each tells what it has received (`dataReceived`), and the other takes
 * the difference back.
 *
 * A kit that does not tell leaves the difference unknown. When such a session has run dry, only a
 * new connection helps, for it starts with full windows.
 */

/** Milliseconds that streams wait for session credit before it counts as lost. */
const LOST_AFTER_MS = 30_000;

interface Carried {
  sent: number;
  received: number;
  unsettled: boolean;
}

/** What each lane index carried. */
export class Losses {
  private readonly byLane = new Map<number, Carried>();
  private movedAt = 0;

  /** DATA left on a lane, at `now` milliseconds. */
  sent(lane: number, bytes: number, now: number): void {
    this.of(lane).sent += bytes;
    this.movedAt = now;
  }

  /** DATA came on a lane. */
  received(lane: number, bytes: number): void {
    this.of(lane).received += bytes;
  }

  /** The kit gave session credit back. */
  refilled(now: number): void {
    this.movedAt = now;
  }

  /** Bytes that have come on a lane index so far. */
  receivedOn(lane: number): number {
    return this.of(lane).received;
  }

  /** A lane is gone, and with it perhaps what was on its way. */
  laneLost(lane: number): void {
    const carried = this.of(lane);
    carried.unsettled = carried.sent > 0;
  }

  /** The kit tells what it received on a lane index: the bytes to take back. */
  settle(lane: number, received: number): number {
    const carried = this.of(lane);
    const lost = carried.sent - received;
    carried.sent = received;
    carried.unsettled = false;
    return lost;
  }

  /** Whether credit must have been lost, for streams that have waited for it since it last moved. */
  ranDry(now: number): boolean {
    const unsettled = [...this.byLane.values()].some((carried) => carried.unsettled);
    return unsettled && now - this.movedAt >= LOST_AFTER_MS;
  }

  private of(lane: number): Carried {
    let carried = this.byLane.get(lane);
    if (carried === undefined) {
      carried = { sent: 0, received: 0, unsettled: false };
      this.byLane.set(lane, carried);
    }
    return carried;
  }
}
