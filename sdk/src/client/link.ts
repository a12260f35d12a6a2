/**
 * The sockets of a session from one HELLO_OK to the next, or to the end (PROTOCOL §6, §7, §9). It
 * keeps the secondary lanes joined and notices a dead link. Where streams outlive their connections
 * and others stand when the primary is lost, it limps on with those, and the link that comes next
 * gets them. What comes after the end is decided by `TunnelSession`.
 */
import { Code } from '../wire/code.js';
import {
  parseObject,
  readGoaway,
  readTickets,
  type Goaway,
  type HeldLane,
  type JoinOk,
  type Resume,
  type StreamOpen,
} from '../wire/control.js';
import { FrameType, WireError, type Frame } from '../wire/frame.js';
import { plain } from '../wire/text.js';
import type { HelloOk, JoinTicket } from '../wire/terms.js';
import { unreadOf } from '../local/unread.js';
import { Lane } from '../mux/lane.js';
import { MuxSession, type MuxHost } from '../mux/session.js';
import type { MuxStream, StreamLane } from '../mux/stream.js';
import { Violation } from '../mux/violation.js';
import { Backoff, byAny } from './backoff.js';
import type { Around, LinkHost } from './around.js';
import { endOf, isParked, isTakenBy, type LinkEnd } from './ends.js';
import { ResumeExpiredError } from './errors.js';
import { gaveUp, judge } from './failover.js';
import { hear, hold, holds, LOST_AFTER_MS, measure } from './member.js';
import { memberOf, ping, type Member } from './member.js';
import { Memory } from './memory.js';
import type { KitSocket } from './dial.js';
import { grantedBy, JoinRefused, PING_EVERY_MS, sayHello, sayJoin } from './handshake.js';
import type { CheckedSession } from './options.js';
import type { Way, Ways } from './ways.js';

/** How often links are looked after, in milliseconds. */
const TICK_MS = 500;
/** How often lanes are looked closely after, likewise. */
const WATCH_MS = 100;
/** A tick that comes this late means that the machine, or this process, was asleep. */
const JUMP_MS = 3000;
/** How long a socket may stay silent after such a jump. */
const WAKE_MS = 1000;
/** How long the kit may let streams finish after GOAWAY before we close. */
const GOAWAY_MS = 6000;
/** The same of a kit that drains and says how long. */
const DRAIN_MS = 3_600_000;
/** How long a close may take before the connection is dropped. */
const CLOSE_MS = 1000;
/** How long streams wait for a connection, in milliseconds; a kit keeps them for its grace. */
export const KEEP_MS = 600_000;

/** The sockets of a session. */
export class Link implements MuxHost {
  readonly mux: MuxSession;
  /** What the next connection has to know to go on with the streams of this one. */
  memory: Memory | undefined;
  /** Whether this one goes on with the streams of the last one. */
  readonly isRevived: boolean;
  readonly unread = unreadOf;
  private readonly members = new Map<number, Member>();
  private readonly joining = new Map<number, { way: Way }>();
  /** The tickets that were used last, by index. */
  private readonly used = new Map<number, string>();
  private readonly backoff: Backoff;
  private readonly ways: Ways;
  private readonly abort = new AbortController();
  private readonly ticker: NodeJS.Timeout;
  private reissue: NodeJS.Timeout | undefined;
  private lastTick = Date.now();
  /** Looks closely after lanes that carry streams. */
  private watcher: NodeJS.Timeout | undefined;
  private lastWatch = 0;
  private goaway: Goaway | undefined;
  private goawayAt = 0;
  private over = false;
  /** Until when the kit may take the session away for another object of this process. */
  private yieldsUntil = 0;
  private whenClosed: (() => void) | undefined;

  private constructor(
    private config: CheckedSession,
    private host: LinkHost,
    /** What the kit answered. */
    readonly hello: HelloOk,
    socket: KitSocket,
    way: Way,
    { ways, memory, before }: Around,
  ) {
    const lane = memory?.revive(hello, this, socket, this.lastTick);
    this.isRevived = lane !== undefined;
    this.mux =
      lane !== undefined && memory !== undefined
        ? memory.mux
        : new MuxSession(grantedBy(hello), this, this.lastTick);
    this.memory = lane === undefined ? Memory.of(config, hello, this.mux, memory) : memory;
    this.backoff = new Backoff(config.connectUrl.hostname);
    this.ways = ways;
    ways.begin();
    this.addMember(0, socket, way, lane);
    this.takeOver(before, this.isRevived ? (hello.lanes ?? []) : []);
    this.ticker = setInterval(() => {
      this.tick(Date.now());
    }, TICK_MS).unref();
  }

  /** Dials, says HELLO, and tells the host before anything else can arrive. */
  static open(
    config: CheckedSession,
    resumeId: string | undefined,
    timeoutMs: number,
    signal: AbortSignal,
    host: LinkHost,
    around: Around,
  ): Promise<void> {
    const { memory, before, ways, wants } = around;
    const known = (): Resume | undefined => {
      if (resumeId === undefined) return undefined;
      const resume = memory?.resume(before?.held() ?? []) ?? { sessionId: resumeId };
      // What comes by the socket of before is not taken once it was said what was.
      if ('received' in resume) before?.holdPrimary(true);
      return wants === 'any' ? resume : { ...resume, only: true };
    };
    const offer = { ...config, ...memory?.offer };
    return byAny(ways, timeoutMs, signal, async (way, ms, took) => {
      const accepted = (socket: KitSocket, hello: HelloOk, rest: Buffer): void => {
        // An older kit does not know what `only` means.
        if (wants === 'before alone' && !hello.resumed) throw new ResumeExpiredError();
        ways.stands(way, took());
        const link = new Link(config, host, hello, socket, way, around);
        host.online(link);
        const primary = link.members.get(0);
        if (rest.length > 0 && primary !== undefined) link.receive(primary, rest);
        link.joinAll(hello.joinTickets);
        // One that the kit keeps may be gone by now.
        if (link.missing().length > 0) link.askForTickets();
      };
      try {
        await sayHello(offer, way.url, known, ms, signal, accepted);
      } catch (error) {
        before?.holdPrimary(false);
        throw error;
      }
    });
  }

  /** Sends a session frame. */
  send(type: number, json: object): void {
    const text = JSON.stringify(json);
    this.mux.primary?.pushText(type, 0, text, Buffer.byteLength(text));
  }

  /** Ends the session for good: the kit does not park it. */
  close(): Promise<void> {
    const goodbye = { code: Code.NoError, message: 'closed', lastStreamId: 0, graceMs: 0 };
    return this.shut(1000, goodbye);
  }

  /** Whether a session of such options would have reached the same kit in the same way. */
  serves(config: CheckedSession): boolean {
    const mine = this.config;
    const headers = JSON.stringify(config.kitHeaders) === JSON.stringify(mine.kitHeaders);
    const way = String(config.urls) === String(mine.urls) && headers;
    const proof = config.token === mine.token && String(config.ca) === String(mine.ca);
    return way && proof && !this.over && !this.isLimping && this.goaway === undefined;
  }

  /** Whether its sockets are still there. */
  get isUp(): boolean {
    return !this.over;
  }

  /** How many sockets there are. */
  get connections(): number {
    return this.members.size;
  }

  /** Whether it goes on without the primary. */
  get isLimping(): boolean {
    return !this.over && !this.members.has(0);
  }

  /** Another session takes it over as it is. */
  handTo(host: LinkHost, config: CheckedSession): void {
    this.host = host;
    this.config = config;
    this.yieldsUntil = 0;
  }

  /** Another object asks for the session: when the kit takes it from here, it is not lost for good. */
  yields(isAsked: boolean): void {
    // What the kit did for one that gave up may still be on its way.
    this.yieldsUntil = isAsked ? Infinity : Date.now() + LOST_AFTER_MS;
  }

  /** Takes nothing of the primary socket until it is told to, and then all of it. */
  private holdPrimary(isHeld: boolean): void {
    const member = this.members.get(0);
    if (member === undefined) return;
    if (isHeld) return hold(member);
    const { held = [] } = member;
    member.held = undefined;
    for (const message of held) this.receive(member, message);
    this.readOn(member);
  }

  /** The other lanes that stand. */
  private held(): HeldLane[] {
    const indexes = this.over ? [] : [...this.members.keys()].filter((index) => index > 0);
    return indexes.map((index) => ({ index, nonce: this.used.get(index) ?? '' }));
  }

  /** Goes on with those lanes of the link before that the kit keeps, and lets go of the others. */
  private takeOver(before: Link | undefined, kept: number[]): void {
    if (before === undefined || before.over) return;
    before.settle();
    for (const [index, nonce] of before.used) this.used.set(index, nonce);
    for (const [index, { lane, socket, way }] of before.members) {
      if (index > 0 && kept.includes(index)) {
        this.addMember(index, socket, way, lane);
      } else {
        if (this.isRevived && index > 0) this.mux.suspend(lane, this.lastTick);
        socket.terminate();
      }
    }
    before.members.clear();
    if (!this.isRevived) before.mux.abandon('the session was resumed without its streams');
  }

  /** Drops the sockets without a word; the kit parks the session. */
  drop(): void {
    this.memory = undefined;
    this.settle();
    for (const { socket } of this.members.values()) socket.terminate();
    this.mux.abandon('the session is gone');
  }

  // What the mux asks.

  accept(stream: MuxStream, open: StreamOpen): void {
    this.watchOver();
    if (this.goaway?.final !== false) return this.host.accept(stream, open);
    // Its bindings are those of the connection that comes after it.
    stream.reset(Code.RefusedStream, 'the kit restarts');
  }

  control(frame: Frame, { index }: StreamLane): void {
    const member = this.members.get(index);
    if (frame.type === FrameType.Pong && member !== undefined) measure(member, frame.payload);
    if (frame.type === FrameType.Goaway) this.onGoaway(readGoaway(frame.payload));
    else if (this.goaway?.final === false) return;
    else if (frame.type === FrameType.ReissueJoinTickets) {
      this.joinAll(readTickets(parseObject(frame.payload, 'REISSUE_JOIN_TICKETS')));
    } else this.host.control(frame);
  }

  private receive(member: Member, message: Buffer): void {
    const { lane } = member;
    // What a socket brings that was given up is not taken: the kit was told so.
    if (this.over || this.members.get(lane.index) !== member) return;
    if (member.held !== undefined) {
      if (holds(member, message)) return;
      return this.giveUp(member, 'too much came while another object asked the kit');
    }
    this.orEnd(() => {
      this.mux.receive(lane, message);
    });
  }

  private giveUp(member: Member, reason: string): void {
    member.socket.terminate();
    this.onClosed(member.lane.index, member, { kind: 'lost', reason });
  }

  /** Does what may show that the kit broke the protocol, which ends the session. */
  private orEnd(act: () => void): void {
    try {
      act();
    } catch (error) {
      if (!(error instanceof Violation || error instanceof WireError)) throw error;
      this.violated(1002, error.code, error.message);
    }
  }

  private violated(closeCode: number, code: number, message: string): void {
    if (this.over) return;
    void this.shut(closeCode, { code, message: plain(message), lastStreamId: 0, graceMs: 0 });
    this.host.ended(this, { kind: 'violation', reason: message });
  }

  private shut(closeCode: number, goodbye: object): Promise<void> {
    if (this.over) return Promise.resolve();
    this.memory = undefined;
    const { standing } = this.mux;
    standing?.flush();
    standing?.push(FrameType.Goaway, 0, Buffer.from(JSON.stringify(goodbye)));
    this.settle();
    for (const { lane, socket } of this.members.values()) {
      lane.flush();
      socket.close(closeCode, '');
    }
    this.mux.abandon('the session is closed');
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        for (const { socket } of this.members.values()) socket.terminate();
        resolve();
      }, CLOSE_MS);
      this.whenClosed = () => {
        clearTimeout(timer);
        resolve();
      };
      if (this.members.size === 0) this.whenClosed();
    });
  }

  private addMember(index: number, socket: KitSocket, way: Way, known?: StreamLane): void {
    const lane: StreamLane = known ?? new Lane(index, socket, this.memory?.newReplay());
    const member = memberOf(socket, way, lane, Date.now());
    this.members.set(index, member);
    if (known === undefined) this.mux.addLane(lane);
    socket.user = {
      message: (message) => {
        this.receive(member, message);
        this.holdBack(member);
      },
      drain: () => {
        this.mux.laneDrained(lane);
        this.readOn(member);
      },
      pinged: () => {
        this.orEnd(() => {
          this.mux.pinged();
        });
      },
      text: () => {
        this.violated(1003, Code.ProtocolError, 'a text message');
      },
      closed: (code, reason) => {
        const why = `closed with ${code}${reason === '' ? '' : `: ${reason}`}`;
        const taken = isTakenBy(code, reason) && Date.now() >= this.yieldsUntil;
        this.onClosed(index, member, { kind: taken ? 'taken' : 'lost', reason: why });
      },
    };
  }

  /** Stops reading from a kit that asks and does not read the answers. */
  private holdBack(member: Member): void {
    const { lane, socket } = member;
    if (lane.drowned) {
      this.violated(1008, Code.EnhanceYourCalm, 'what was said to you is not read');
    } else if (lane.choked && !member.paused) {
      member.paused = socket.pause();
      member.backlog = lane.backlog;
    }
  }

  private readOn(member: Member): void {
    if (!member.paused || member.lane.choked || member.held !== undefined) return;
    member.paused = false;
    member.socket.resume();
  }

  private onClosed(index: number, member: Member, end: LinkEnd): void {
    if (this.members.get(index) !== member) return;
    this.members.delete(index);
    if (this.over) {
      if (this.members.size === 0) this.whenClosed?.();
      return;
    }
    if (end.kind === 'lost') this.ways.failed(member.way, Date.now());
    const { goaway } = this;
    const waits = this.memory !== undefined && end.kind === 'lost' && isParked(goaway);
    if (waits) this.mux.suspend(member.lane, Date.now());
    if (index !== 0) {
      if (!waits) this.mux.dropLane(member.lane, 'the lane is gone');
      if (this.members.size > 0 || !waits) return this.askForTickets();
    } else if (waits && this.members.size > 0) return this.host.limps(this);
    if (waits) this.settle();
    else this.drop();
    this.host.ended(this, goaway === undefined ? end : endOf(goaway));
  }

  private onGoaway(goaway: Goaway): void {
    if (this.goaway !== undefined || this.over) return;
    // What is kept waits for the other object, or for the next connection.
    if (Date.now() < this.yieldsUntil && endOf(goaway).kind === 'taken') return;
    this.goaway = goaway;
    this.goawayAt = Date.now();
    // A kit that restarts is dialled while what runs here comes to its end.
    if (goaway.final === false && this.config.reconnect) this.host.ended(this, endOf(goaway));
    this.finishGoaway(this.goawayAt);
  }

  /** After GOAWAY the kit lets streams finish; with none left there is nothing to wait for. */
  private finishGoaway(now: number): void {
    const { goaway } = this;
    if (goaway === undefined || this.over) return;
    const most = goaway.final === false ? Math.min(DRAIN_MS, goaway.graceMs) : 0;
    if (this.memory !== undefined && isParked(goaway)) return;
    this.memory = undefined;
    if (this.mux.size > 0 && now - this.goawayAt < Math.max(most, GOAWAY_MS)) return;
    this.settle();
    for (const { socket } of this.members.values()) socket.close(1000, '');
    this.mux.abandon(goaway.message);
    const sockets = [...this.members.values()].map(({ socket }) => socket);
    setTimeout(() => {
      for (const socket of sockets) socket.terminate();
    }, CLOSE_MS).unref();
    this.host.ended(this, endOf(goaway));
  }

  private settle(): void {
    this.over = true;
    clearInterval(this.ticker);
    clearInterval(this.watcher);
    clearTimeout(this.reissue);
    this.abort.abort();
  }

  private tick(now: number): void {
    const jumped = now - this.lastTick > JUMP_MS;
    this.lastTick = now;
    if (this.mux.size > 0) this.watchOver();
    this.mux.sweep(now);
    const primary = this.members.get(0);
    if (this.mux.ranDry && primary !== undefined) {
      return this.giveUp(primary, 'credit was lost with a connection');
    }
    for (const index of this.used.keys()) {
      const lane = this.mux.lane(index);
      const isOverdue = now - (lane?.downSince ?? now) > KEEP_MS;
      if (isOverdue && lane !== undefined) this.mux.dropLane(lane, 'the lane did not come back');
    }
    for (const member of [...this.members.values()]) {
      if (this.over) return;
      this.look(member, now, jumped);
    }
    this.finishGoaway(now);
  }

  private look(member: Member, now: number, jumped: boolean): void {
    const bytes = member.socket.received();
    this.holdBack(member);
    if (this.over) return;
    const { backlog } = member.lane;
    this.readOn(member);
    // One that we do not read from shows that it lives by reading.
    const reads = member.paused && backlog < member.backlog;
    member.backlog = backlog;
    const isHeld = member.held !== undefined;
    if (reads || isHeld || bytes !== member.bytes || member.heardAt > now) hear(member, bytes, now);
    else if (jumped) {
      // Asleep: what arrived in the meantime is read right after this; without it the link is dead.
      member.heardAt = now - (LOST_AFTER_MS - WAKE_MS);
      member.pingedAt = 0;
    }
    const silence = now - member.heardAt;
    if (silence >= LOST_AFTER_MS) {
      this.giveUp(member, `no sign of life for ${LOST_AFTER_MS} ms`);
    } else if (now - member.pingedAt >= PING_EVERY_MS - TICK_MS) {
      // Also while much is heard: the kit was told how often it hears something of us.
      ping(member, now);
    }
  }

  /** Looks closely after lanes as long as they carry streams, and there are others to go to. */
  private watchOver(): void {
    if (this.watcher !== undefined || this.memory === undefined || this.members.size < 2) return;
    this.lastWatch = Date.now();
    this.watcher = setInterval(() => {
      this.watch(Date.now());
    }, WATCH_MS).unref();
  }

  private watch(now: number): void {
    const late = now - this.lastWatch > 5 * WATCH_MS;
    this.lastWatch = now;
    const carrying = this.mux.carrying();
    if (carrying.size === 0 || this.members.size < 2) {
      clearInterval(this.watcher);
      this.watcher = undefined;
    }
    for (const member of this.members.values()) {
      const bytes = member.socket.received();
      // Where we were kept from looking, nothing is known of how long it took.
      if (late || bytes !== member.bytes || member.paused) hear(member, bytes, now);
    }
    for (const member of [...this.members.values()]) {
      if (this.over) return;
      const others = [...this.members.values()].filter((other) => other !== member);
      const verdict = judge(member.lane, member, carrying.has(member.lane), others, now);
      if (verdict === 'ask') {
        member.askedAt = now;
        ping(member, now);
      } else if (verdict === 'give up') {
        gaveUp(member.lane);
        this.giveUp(member, 'no answer to PING');
      }
    }
  }

  private joinAll(tickets: JoinTicket[]): void {
    for (const ticket of tickets) {
      if (ticket.index < 1 || ticket.index > 15 || this.over) continue;
      if (this.members.has(ticket.index) || this.joining.has(ticket.index)) continue;
      this.used.set(ticket.index, ticket.nonce);
      void this.join(ticket);
    }
  }

  private async join(ticket: JoinTicket): Promise<void> {
    const { index, nonce } = ticket;
    const known = this.mux.joinsWith(index);
    const taken = this.memory === undefined ? { dataReceived: known.dataReceived } : known;
    const join = { sessionId: this.hello.sessionId, index, nonce, ...taken };
    const timeout = Math.min(ticket.expiresMs, 10_000);
    const startedAt = Date.now();
    const way = this.ways.beside(
      [...this.members.values(), ...this.joining.values()].map((it) => it.way),
      startedAt,
    );
    this.joining.set(index, { way });
    const { config, abort } = this;
    try {
      await sayJoin(config, way.url, join, timeout, abort.signal, (socket, ok, rest) => {
        this.joining.delete(index);
        this.ways.stands(way, Date.now() - startedAt);
        if (this.over) {
          socket.terminate();
          return;
        }
        this.joined(index, socket, way, ok, rest);
      });
    } catch (error) {
      this.joining.delete(index);
      const isUnknown = error instanceof JoinRefused && error.kitCode === 'UNKNOWN_SESSION';
      if (isUnknown && this.config.urls.length === 1) return;
      // Another kit, where there are several ways.
      if (isUnknown) way.isForeign = true;
      else if (!(error instanceof JoinRefused)) this.ways.failed(way, Date.now());
      this.askForTickets();
    }
  }

  private joined(index: number, socket: KitSocket, way: Way, ok: JoinOk, rest: Buffer): void {
    this.backoff.reset();
    this.orEnd(() => {
      const known = this.memory === undefined ? undefined : this.goesOn(index, ok);
      if (known === undefined) this.mux.settleLane(index, ok.dataReceived, ok.creditReceived);
      this.addMember(index, socket, way, known);
      if (known === undefined || ok.received === undefined) return;
      if (this.mux.revive(known, socket, ok.received, Date.now())) return;
      throw new Violation(Code.ProtocolError, 'JOIN_OK tells of frames that were not sent');
    });
    const member = this.members.get(index);
    if (rest.length > 0 && member !== undefined) this.receive(member, rest);
  }

  /** The lane that goes on where an index is joined again; undefined where it begins. */
  private goesOn(index: number, { received }: JoinOk): StreamLane | undefined {
    const lane = this.mux.lane(index);
    if (received === undefined) {
      if (lane !== undefined)
        this.mux.dropLane(lane, 'its connection came back without its streams');
    } else if (lane === undefined && (received > 0 || this.mux.joinsWith(index).received !== 0)) {
      throw new Violation(Code.ProtocolError, 'JOIN_OK tells of frames that were not sent');
    } else return lane;
    return undefined;
  }

  private askForTickets(): void {
    // The kit gives tickets with its answer to HELLO where there is no primary to ask on.
    if (this.over || this.reissue !== undefined || this.isLimping) return;
    this.reissue = setTimeout(() => {
      this.reissue = undefined;
      if (this.isLimping) return;
      // The kit may still believe in a socket that died in silence. The ticket says which one, for
      // another may have joined in its place by the time the kit reads this.
      this.send(FrameType.ReissueJoinTickets, { missing: this.missing() });
    }, this.backoff.next());
  }

  /** The lanes that are neither there nor on their way. */
  private missing(): HeldLane[] {
    const all = [...this.used].map(([index, nonce]) => ({ index, nonce }));
    return all.filter(({ index }) => !this.members.has(index) && !this.joining.has(index));
  }
}
