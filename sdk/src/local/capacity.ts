/**
 * What the bindings of one session share on this machine, and the word to its user when there is
 * not enough of it.
 */
import { descriptorsForConnections } from './descriptors.js';
import type { Pool } from './pool.js';
import { Slots } from './slots.js';
import type { Overload, Shortage } from './terms.js';

/** The most connections to local servers, where nobody says how many. */
const MAX_CONNECTIONS = 4096;
/** How often an overload is told, in milliseconds. */
const TELL_MS = 1000;

const SENTENCES: Record<Shortage, string> = {
  connections: 'all connections to local servers are in use: raise maxLocalConnections',
  descriptors: 'this process has no more file descriptors for them: raise its limit (ulimit -n)',
  handlers: 'all handlers are busy: answer sooner, or raise maxHandlers',
};

/** See the module. */
export class Capacity {
  readonly connections: Slots;
  readonly handlers: Slots;
  /** Whose idle connections make room when descriptors run out. */
  readonly pools = new Set<Pool>();
  private readonly refused = new Map<Shortage, number>();
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(
    maxConnections: number | undefined,
    maxHandlers: number,
    private readonly tell: (overload: Overload) => void,
  ) {
    const asked = maxConnections ?? MAX_CONNECTIONS;
    const possible = descriptorsForConnections();
    this.connections =
      asked <= possible ? new Slots(asked, 'connections') : new Slots(possible, 'descriptors');
    this.handlers = new Slots(maxHandlers, 'handlers');
  }

  /** Closes every idle connection. */
  shed(): void {
    for (const pool of this.pools) pool.shed();
  }

  /** A visitor was turned away. The first one is told at once, others are summed. */
  turnedAway(why: Shortage): void {
    this.refused.set(why, (this.refused.get(why) ?? 0) + 1);
    if (this.timer === undefined && !this.closed) this.say();
  }

  /** The session is over: what is still to be told is told now, and nothing later. */
  close(): void {
    clearTimeout(this.timer);
    this.closed = true;
    this.say();
  }

  private say(): void {
    this.timer = undefined;
    if (this.refused.size === 0) return;
    const all = [...this.refused];
    this.refused.clear();
    if (!this.closed) {
      this.timer = setTimeout(() => {
        this.say();
      }, TELL_MS).unref();
    }
    for (const [reason, refused] of all) {
      const visitors = refused === 1 ? 'A visitor was' : `${refused} visitors were`;
      this.tell({ reason, refused, message: `${visitors} turned away: ${SENTENCES[reason]}` });
    }
  }
}

/** What a visitor is told. */
export function busyPage(why: Shortage): string {
  const what = why === 'handlers' ? 'handlers are busy' : 'connections are in use';
  return `503 Service Unavailable\n\nAll ${what} at the other end of the tunnel. Try again.\n`;
}
