/**
 * What the kit hears of slow exchanges: it has clocks, which should run only while nothing moves.
 */
import { PROGRESS_AT_ONCE } from './limits.js';
import type { MuxStream } from './stream.js';

/**
 * Gives credit back that was withheld for a while. A slow local side may take minutes for as much as
 * is gathered otherwise.
 */
export function tellProgress(streams: Iterable<MuxStream>, now: number): void {
  const unsaid = [...streams].filter((stream) => stream.isUnsaid(now));
  unsaid.sort((a, b) => (a.unsaidSince ?? 0) - (b.unsaidSince ?? 0));
  for (const stream of unsaid.slice(0, PROGRESS_AT_ONCE)) stream.tellProgress();
}
