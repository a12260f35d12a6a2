/**
 * Session credit that went down with a lane (PROTOCOL §5, §7).
 *
 * DATA that was on its way when a secondary lane was lost never arrives, so no WINDOW gives its
 * credit back. Both ends count the DATA bytes of each lane index from the session's beginning; with
 * the next JOIN of the index each tells what it has received (`dataReceived`), and the other takes
 * the difference back.
 *
 * Where streams outlive their connections (PROTOCOL §9) nothing is lost with one, unless an index
 * begins anew: then session credit that it carried may be lost as well, and each tells the sum that
 * came on it (`creditReceived`); the other gives the rest again.
 *
 * A kit that does not tell leaves the difference unknown. When such a session has run dry, only a
 * new connection helps, for it starts with full windows.
 */

/** What was taken on a lane index: DATA, session credit, and frames that count. */
export interface Taken {
  dataReceived: number;
  creditReceived: number;
  received: number | undefined;
}

/** Milliseconds that streams wait for session credit before it counts as lost. */
const LOST_AFTER_MS = 30_000;

interface Carried {
  sent: number;
  received: number;
  creditGiven: number;
  creditReceived: number;
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

  /** The kit gave session credit back on a lane. */
  refilled(lane: number, bytes: number, now: number): void {
    this.of(lane).creditReceived += bytes;
    this.movedAt = now;
  }

  /** Session credit goes to the kit on a lane; less than nothing where it goes on another after all. */
  gave(lane: number, bytes: number): void {
    this.of(lane).creditGiven += bytes;
  }

  /** The session credit that has come on a lane index so far. */
  creditReceivedOn(lane: number): number {
    return this.of(lane).creditReceived;
  }

  /** The kit tells what credit it received on a lane index: the bytes to give again. */
  settleCredit(lane: number, received: number): number {
    const carried = this.of(lane);
    const lost = carried.creditGiven - received;
    carried.creditGiven = received;
    return lost;
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
      const nothing = { sent: 0, received: 0, creditGiven: 0, creditReceived: 0 };
      carried = { ...nothing, unsettled: false };
      this.byLane.set(lane, carried);
    }
    return carried;
  }
}
