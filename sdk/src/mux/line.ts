/**
 * Streams that wait for session credit, or for room in their lane. A binary heap, in which everybody
 * knows the own place, so that a thousand who wait cost nothing until it is their turn.
 */

/** Who can wait, in one line at a time. */
export interface Waiter {
  /** Where it stands, kept by the line. */
  place: number;
  /**
   * What it holds, or less than nothing for one who comes before all that hold something. It must not
   * change while it waits for credit, but right before `moved`.
   */
  readonly rank: number;
  /** When it sent last: a number that grows. It does not change while it waits. */
  readonly turn: number;
  /** When its next piece would have left if all had the same part of the lane, in bytes of each. */
  readonly due: number;
  /** Tells in which order they came. */
  readonly id: number;
}

/** Who holds least comes first, and of those that hold the same, who sent longest ago. */
export function holdsLess(a: Waiter, b: Waiter): boolean {
  return a.rank < b.rank || (a.rank === b.rank && cameEarlier(a, b, a.turn - b.turn));
}

/** Whose piece is due first comes first. */
export function isDueEarlier(a: Waiter, b: Waiter): boolean {
  return cameEarlier(a, b, a.due - b.due);
}

function cameEarlier(a: Waiter, b: Waiter, difference: number): boolean {
  return difference < 0 || (difference === 0 && a.id < b.id);
}

/** See the module. */
export class Line<W extends Waiter> {
  private heap: W[] = [];

  constructor(private readonly isBefore: (a: W, b: W) => boolean) {}

  /** How many wait. */
  get size(): number {
    return this.heap.length;
  }

  /** Whoever comes next. */
  get first(): W | undefined {
    return this.heap[0];
  }

  /** Everybody, in order. */
  inOrder(): W[] {
    return [...this.heap].sort((a, b) => (this.isBefore(a, b) ? -1 : 1));
  }

  /** Whether somebody waits here. */
  has(waiter: W): boolean {
    return this.heap[waiter.place] === waiter;
  }

  /** Nobody waits any more. */
  clear(): void {
    this.heap = [];
  }

  /** Lets somebody wait who does not yet. */
  add(waiter: W): void {
    if (this.has(waiter)) return this.moved(waiter);
    this.heap.push(waiter);
    this.rise(waiter, this.heap.length - 1);
  }

  /** What decides about somebody's place has changed. */
  moved(waiter: W): void {
    if (!this.has(waiter)) return;
    this.rise(waiter, waiter.place);
    this.sink(waiter, waiter.place);
  }

  /** Somebody waits no more. */
  remove(waiter: W): void {
    if (!this.has(waiter)) return;
    const { place } = waiter;
    const last = this.heap.pop();
    if (last === undefined || last === waiter) return;
    this.heap[place] = last;
    last.place = place;
    this.moved(last);
  }

  private rise(waiter: W, from: number): void {
    let at = from;
    while (at > 0) {
      const above = (at - 1) >> 1;
      const other = this.heap[above];
      if (other === undefined || !this.isBefore(waiter, other)) break;
      this.put(other, at);
      at = above;
    }
    this.put(waiter, at);
  }

  private sink(waiter: W, from: number): void {
    let at = from;
    for (;;) {
      let below = 2 * at + 1;
      let other = this.heap[below];
      const right = this.heap[below + 1];
      if (other === undefined) break;
      if (right !== undefined && this.isBefore(right, other)) {
        other = right;
        below += 1;
      }
      if (!this.isBefore(other, waiter)) break;
      this.put(other, at);
      at = below;
    }
    this.put(waiter, at);
  }

  private put(waiter: W, at: number): void {
    this.heap[at] = waiter;
    waiter.place = at;
  }
}
