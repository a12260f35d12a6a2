/**
 * Places that visitors take one of each: connections to local servers, and handlers that run.
 *
 * While plenty is free anybody may take. The last eighth is kept for those addresses that hold less
 * than their share, so that whoever holds most is the first to be told no. Where there is no place
 * newcomers wait in a line, those first whose address holds least, and nobody for longer than
 * `WAIT_MS`: then they are turned away.
 */
import type { Shortage } from './terms.js';

/** Who asks for a place. */
export interface SlotUser {
  /** It has one, until `leave`. Told again where the system was short and is not any more. */
  seated(): void;
  /** There was none for as long as it may wait. */
  turnedAway(why: Shortage): void;
}

/** How long somebody may wait for a place, in milliseconds. */
const WAIT_MS = 800;
/** The most that wait; others are turned away at once. */
const MAX_WAITING = 1024;
/** One part in so many is kept for those who hold little. */
const KEPT = 8;
/** Descriptors that are left to the connections to the kit, where the system ran short. */
const SPARE = 8;
/** How long a shortage of the system is believed before a few more are tried, in milliseconds. */
const SHORT_MS = 1000;

/** See the module. */
export class Slots {
  private readonly held = new Map<string, number>();
  private readonly waiting = new Set<Ticket>();
  private taken = 0;
  private short: { most: number; moreAt: number } | undefined;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly most: number,
    private readonly kind: Shortage,
  ) {}

  /** How many places are taken. */
  get total(): number {
    return this.taken;
  }

  /** How many wait for one. */
  get line(): number {
    return this.waiting.size;
  }

  /** Asks for a place on behalf of an address; `user` may be told at once. */
  ask(origin: string, user: SlotUser): Ticket {
    const ticket = new Ticket(this, origin, user, Date.now() + WAIT_MS);
    this.seatOrWait(ticket);
    return ticket;
  }

  /** @internal The system had nothing for the place of a ticket: what is taken is all there is. */
  ranShort(ticket: Ticket): void {
    if (!ticket.isSeated) return;
    const most = Math.max(1, this.taken - 1 - SPARE);
    const moreAt = Date.now() + SHORT_MS;
    this.short = { most: Math.min(most, this.short?.most ?? most), moreAt };
    this.giveBack(ticket);
    if (Date.now() < ticket.until) this.wait(ticket);
    else this.turnAway(ticket);
  }

  /** @internal */
  leave(ticket: Ticket): void {
    if (this.waiting.delete(ticket) || !ticket.isSeated) return;
    this.giveBack(ticket);
    if (this.waiting.size === 0) return;
    // Whoever leaves has an idle connection to give back first.
    queueMicrotask(() => {
      this.serveLine();
    });
  }

  private seatOrWait(ticket: Ticket): void {
    this.recover(Date.now());
    if (this.mayTake(ticket.origin)) this.seat(ticket);
    else this.wait(ticket);
  }

  private wait(ticket: Ticket): void {
    if (this.waiting.size >= MAX_WAITING) return this.turnAway(ticket);
    this.waiting.add(ticket);
    this.watch();
  }

  private seat(ticket: Ticket): void {
    this.held.set(ticket.origin, this.of(ticket.origin) + 1);
    this.taken += 1;
    ticket.isSeated = true;
    ticket.user.seated();
  }

  private giveBack(ticket: Ticket): void {
    ticket.isSeated = false;
    this.taken -= 1;
    const left = this.of(ticket.origin) - 1;
    if (left > 0) this.held.set(ticket.origin, left);
    else this.held.delete(ticket.origin);
  }

  private of(origin: string): number {
    return this.held.get(origin) ?? 0;
  }

  private get cap(): number {
    return Math.min(this.most, this.short?.most ?? this.most);
  }

  private mayTake(origin: string): boolean {
    const { cap } = this;
    const left = cap - this.taken - 1;
    if (left < 0) return false;
    const own = this.of(origin);
    // There is always one more to come, for whom the last part is kept.
    const others = this.held.size - (own > 0 ? 1 : 0);
    const share = Math.max(1, Math.floor(cap / (others + 2)));
    return left >= cap / KEPT || own + 1 <= share;
  }

  /** Gives free places to those whose address holds least, and of those to who came first. */
  private serveLine(): void {
    for (;;) {
      let next: Ticket | undefined;
      for (const ticket of this.waiting) {
        const isLess = next === undefined || this.of(ticket.origin) < this.of(next.origin);
        if (isLess && this.mayTake(ticket.origin)) next = ticket;
      }
      if (next === undefined) return;
      this.waiting.delete(next);
      this.seat(next);
    }
  }

  /** Looks at the line from time to time, as long as there is one. */
  private watch(): void {
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      const now = Date.now();
      this.recover(now);
      this.serveLine();
      for (const ticket of this.waiting) {
        if (now < ticket.until) continue;
        this.waiting.delete(ticket);
        this.turnAway(ticket);
      }
      if (this.waiting.size > 0) this.watch();
    }, WAIT_MS / 8);
  }

  private turnAway(ticket: Ticket): void {
    ticket.user.turnedAway(this.short === undefined ? this.kind : 'descriptors');
  }

  private recover(now: number): void {
    const { short } = this;
    if (short === undefined || now < short.moreAt) return;
    short.most += SPARE + Math.floor(short.most / 8);
    short.moreAt = now + SHORT_MS;
    if (short.most >= this.most) this.short = undefined;
  }
}

/** A place that somebody asked for. */
export class Ticket {
  /** @internal */
  isSeated = false;

  constructor(
    private readonly slots: Slots,
    readonly origin: string,
    readonly user: SlotUser,
    readonly until: number,
  ) {}

  /** The place is not needed any more, or not wanted. */
  leave(): void {
    this.slots.leave(this);
  }

  /** The system had no descriptor for it: it waits for another try, as long as it may. */
  ranShort(): void {
    this.slots.ranShort(this);
  }
}
