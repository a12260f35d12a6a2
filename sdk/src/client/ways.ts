/**
 * The addresses of a kit, and by which of them a lost connection is dialled next.
 *
 * For a primary the best one first: one that did not fail lately, and among those the one by which a
 * connection came about in the least time; then those that failed, the longest ago first. Further
 * lanes are spread over those that did not fail.
 */

/** One of them. */
export interface Way {
  readonly url: URL;
  /** When a connection by it failed that was the last one, in milliseconds. */
  failedAt: number;
  /** How long the last connection took until it carried the session. */
  tookMs: number;
  /** It leads to a kit that does not know the session. */
  isForeign: boolean;
}

/** For so long a failure counts, in milliseconds. */
const FORGIVEN_AFTER_MS = 60_000;

/** See the module. */
export class Ways {
  private readonly all: Way[];

  constructor(urls: readonly URL[]) {
    this.all = urls.map((url) => ({ url, failedAt: -Infinity, tookMs: 0, isForeign: false }));
  }

  /** All of them, the best one first. */
  inOrder(now: number): Way[] {
    return [...this.all].sort((a, b) => failure(a, now) - failure(b, now) || a.tookMs - b.tookMs);
  }

  /** By which one more lane is dialled, where each connection that stands came by one of `used`. */
  beside(used: readonly Way[], now: number): Way {
    const lanes = (way: Way): number => used.filter((other) => other === way).length;
    const [best] = this.inOrder(now).sort(
      (a, b) => failure(a, now) - failure(b, now) || lanes(a) - lanes(b),
    );
    if (best === undefined) throw new RangeError('a kit without an address');
    return best;
  }

  /** A connection that took so long carries the session; what was thought of the kit is over. */
  stands(way: Way, tookMs: number): void {
    way.failedAt = -Infinity;
    way.tookMs = tookMs;
    way.isForeign = false;
  }

  /** A connection, or an attempt to make one, failed. */
  failed(way: Way, now: number): void {
    way.failedAt = now;
  }

  /** A session begins, which any of them may lead to. */
  begin(): void {
    for (const way of this.all) way.isForeign = false;
  }
}

/** The greater the worse; 0 where nothing is to be said against it. */
function failure(way: Way, now: number): number {
  if (way.isForeign) return Infinity;
  const left = FORGIVEN_AFTER_MS - (now - way.failedAt);
  return Math.max(0, left);
}
