/**
 * Which local sides have stalled, and which are only slow. The system takes bytes for a connection in
 * lumps: a part of a buffer of megabytes, which a slow server needs minutes for. So before anybody is
 * said to have moved nothing, it is looked up what lies unread below, and less of that is movement.
 */
import { CUT_AFTER_MS, CUT_BLIND_AFTER_MS, LOOK_EVERY_MS } from './limits.js';
import type { MuxStream } from './stream.js';

/** Bytes that were written to a connection, and that the other end has not read. */
export interface Below {
  /** Those that wait on this side. */
  unsent: number;
  /** Those that wait on the other, where that can be told. */
  unread: number | undefined;
}

/**
 * Tells what lies below connections, by what `StreamSink.connection` calls them. Those of which that
 * cannot be told are left out. Never rejects.
 */
export type Unread = (connections: ReadonlySet<string>) => Promise<ReadonlyMap<string, Below>>;

/** What was found below a local side. */
interface Seen {
  /** When it was looked at last. */
  at: number;
  /** What lay there; undefined where that was never told. */
  below: Below | undefined;
}

/** See the module. */
export class Stalls {
  private readonly seen = new WeakMap<MuxStream, Seen>();
  private lookedAt = -Infinity;
  private isLooking = false;

  constructor(private readonly unread: Unread) {}

  /** Looks below those who seem not to move; what is found counts from a later sweep on. */
  look(streams: Iterable<MuxStream>, now: number): void {
    if (this.isLooking || now - this.lookedAt < LOOK_EVERY_MS) return;
    const suspects = new Map<MuxStream, string>();
    for (const stream of streams) {
      if (stream.held === 0 || now - stream.movedAt < LOOK_EVERY_MS) continue;
      const connection = stream.sink?.connection?.();
      if (connection !== undefined) suspects.set(stream, connection);
    }
    if (suspects.size === 0) return;
    this.lookedAt = now;
    this.isLooking = true;
    void this.unread(new Set(suspects.values())).then((found) => {
      this.isLooking = false;
      for (const [stream, connection] of suspects) this.note(stream, found.get(connection), now);
    });
  }

  /** Of the streams that may be reset, the one that has stalled for the longest time. */
  longest(streams: Iterable<MuxStream>, now: number): MuxStream | undefined {
    let worst: MuxStream | undefined;
    for (const stream of streams) {
      if (stream.held === 0 || now - stream.movedAt < CUT_AFTER_MS) continue;
      if (!this.hasStalled(stream, now)) continue;
      if (worst === undefined || stream.movedAt < worst.movedAt) worst = stream;
    }
    return worst;
  }

  /** Whether one that seems to have stalled has, as far as can be told. */
  private hasStalled(stream: MuxStream, now: number): boolean {
    // Nothing lies below a local side without a connection.
    if (stream.sink?.connection?.() === undefined) return true;
    const seen = this.seen.get(stream);
    // Nobody looks as long as there is plenty, and much may have moved meanwhile.
    if (seen === undefined || now - seen.at >= 2 * LOOK_EVERY_MS) return false;
    const most = seen.below === undefined ? CUT_BLIND_AFTER_MS : CUT_AFTER_MS;
    return seen.at - stream.movedAt >= most;
  }

  private note(stream: MuxStream, found: Below | undefined, at: number): void {
    const before = this.seen.get(stream)?.below;
    // One that was told of once may be missed at another time.
    const unread = found?.unread ?? before?.unread;
    const below = found === undefined ? before : { unsent: found.unsent, unread };
    this.seen.set(stream, { at, below });
    if (found !== undefined && hasMoved(before, found)) {
      stream.movedAt = Math.max(stream.movedAt, at);
    }
  }
}

/** Whether bytes have moved. More of them lie there where the system has just taken a lump. */
function hasMoved(before: Below | undefined, now: Below): boolean {
  // What is seen first may have moved a moment ago.
  if (before === undefined || before.unsent !== now.unsent) return true;
  const bothTold = before.unread !== undefined && now.unread !== undefined;
  return bothTold && before.unread !== now.unread;
}
