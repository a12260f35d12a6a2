/**
 * Fields that come ahead of the STREAM_OPEN they belong to (PROTOCOL §4). On one lane nothing comes
 * between them and it, so that a lane holds those of one head at the most.
 */
import { Code } from '../wire/code.js';
import type { StreamOpen } from '../wire/control.js';
import { HeadParts } from '../wire/parts.js';
import { Violation } from './violation.js';

interface Opening {
  id: number;
  parts: HeadParts;
}

/** Of each lane `L`, what came ahead of its next STREAM_OPEN. */
export class Openings<L extends { lastOpened: number }> {
  /** Gone with its lane. */
  private readonly begun = new WeakMap<L, Opening>();

  /**
   * Takes a part; false where its stream was opened before. It ends the session where it is of
   * another stream than the last one, or one too many.
   */
  add(lane: L, id: number, payload: Buffer): boolean {
    if (id % 2 === 1 || id <= lane.lastOpened) return false;
    const opening = this.begun.get(lane) ?? { id, parts: new HeadParts() };
    this.begun.set(lane, opening);
    if (opening.id === id && opening.parts.add(payload)) return true;
    const why = 'HEAD_PARTs that no STREAM_OPEN follows, or too many';
    throw new Violation(Code.ProtocolError, why);
  }

  /** What came ahead of this STREAM_OPEN. */
  take(lane: L, id: number): HeadParts | undefined {
    const opening = this.begun.get(lane);
    if (opening === undefined) return undefined;
    this.begun.delete(lane);
    if (opening.id === id) return opening.parts;
    const why = 'STREAM_OPEN behind the HEAD_PART of another stream';
    throw new Violation(Code.ProtocolError, why);
  }
}

/** Puts the fields that came ahead of it into a STREAM_OPEN. */
export function complete(open: StreamOpen, parts: HeadParts | undefined): StreamOpen {
  if (parts === undefined) return open;
  if (open.kind !== 'http') throw new Error('HEAD_PARTs of a stream that has no head');
  return { ...open, headers: parts.before(open.headers) };
}
