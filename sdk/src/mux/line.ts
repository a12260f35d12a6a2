/**
 * Streams that wait for session credit: who holds least comes first, and of those that hold the
 * same, who sent longest ago. A binary heap, in which everybody knows the own place, so that a
 * thousand who wait cost nothing until it is their turn.
 */

/** Who can wait. Its rank must not change while it waits, but right before `moved`. */
export interface Waiter {
  /** Where it stands, kept by the line; -1 when it does not wait. */
  place: number;
  /** What it holds, or less than nothing for one who comes before all that hold something. */
  readonly rank: number;
  /** When it sent last: a number that grows. */
  readonly turn: number;
}

/** See the module. */
export class Line<W extends Waiter> {
  private readonly heap: W[] = [];

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
    return [...this.heap].sort((a, b) => (isBefore(a, b) ? -1 : 1));
  }

  /** Lets somebody wait who does not yet. */
  add(waiter: W): void {
    if (waiter.place >= 0) return this.moved(waiter);
    this.heap.push(waiter);
    this.rise(waiter, this.heap.length - 1);
  }

  /** Somebody's rank has changed. */
  moved(waiter: W): void {
    if (waiter.place < 0) return;
    this.rise(waiter, waiter.place);
    this.sink(waiter, waiter.place);
  }

  /** Somebody waits no more. */
  remove(waiter: W): void {
    const { place } = waiter;
    if (place < 0) return;
    waiter.place = -1;
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
      if (other === undefined || !isBefore(waiter, other)) break;
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
      if (right !== undefined && isBefore(right, other)) {
        other = right;
        below += 1;
      }
      if (!isBefore(other, waiter)) break;
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

function isBefore(a: Waiter, b: Waiter): boolean {
  return a.rank < b.rank || (a.rank === b.rank && a.turn < b.turn);
}
