/**
 * A socket of a session, with what is known of whether it lives.
 */
import { FrameType } from '../wire/frame.js';
import { MAX_SESSION_WINDOW } from '../mux/limits.js';
import type { StreamLane } from '../mux/stream.js';
import type { KitSocket } from './dial.js';
import type { Pulse } from './failover.js';
import type { Way } from './ways.js';

/** Silence after which a socket is given up (PROTOCOL §6). */
export const LOST_AFTER_MS = 5000;

/** The most that is held: what a window lets a kit send, and frames without DATA. */
const HELD_MAX = 2 * MAX_SESSION_WINDOW;

/** See the module. Times are milliseconds. */
export interface Member extends Pulse {
  socket: KitSocket;
  lane: StreamLane;
  way: Way;
  bytes: number;
  pingedAt: number;
  /** Not read from, because what we said before still waits; of that, so much when last looked at. */
  paused: boolean;
  backlog: number;
  /** What came, and is not taken while another object asks the kit for the session. */
  held: Buffer[] | undefined;
}

/** A socket that stands since `now`. */
export function memberOf(socket: KitSocket, way: Way, lane: StreamLane, now: number): Member {
  return {
    socket,
    lane,
    way,
    bytes: socket.received(),
    heardAt: now,
    askedAt: undefined,
    roundTrip: undefined,
    pingedAt: now,
    paused: false,
    backlog: 0,
    held: undefined,
  };
}

/** Something was heard on a socket. */
export function hear(member: Member, bytes: number, now: number): void {
  member.bytes = bytes;
  member.heardAt = now;
  member.askedAt = undefined;
}

/** Takes nothing of a socket until `held` is undefined again. */
export function hold(member: Member): void {
  member.held ??= [];
  member.paused ||= member.socket.pause();
}

/** Keeps what is not taken yet, for not every runtime can stop reading; false when it is too much. */
export function holds({ held = [] }: Member, message: Buffer): boolean {
  held.push(message);
  return held.reduce((sum, { length }) => sum + length, 0) <= HELD_MAX;
}

/** Asks for a sign of life; the answer brings back when that was. */
export function ping(member: Member, now: number): void {
  const payload = Buffer.alloc(8);
  payload.writeBigUInt64BE(BigInt(now));
  member.pingedAt = now;
  member.lane.push(FrameType.Ping, 0, payload);
}

/** The answer to a PING came. */
export function measure(member: Member, payload: Buffer): void {
  const took = Date.now() - Number(payload.readBigUInt64BE(0));
  if (took < 0 || took > LOST_AFTER_MS) return;
  const { roundTrip = took } = member;
  member.roundTrip = roundTrip + (took - roundTrip) / 4;
}
