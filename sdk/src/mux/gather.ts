/**
 * What a stream has received on its way to a local side that is slow. A piece that is held costs some
 * hundred bytes beside its own, and would keep the whole message that brought it, so that credit
 * alone does not bound the memory of many small ones.
 */
import { GATHER_ABOVE, GATHER_BYTES } from './limits.js';

/** See the module. */
export class Gather {
  /** Bytes that have gathered. */
  bytes = 0;
  private room = NOTHING;

  /** Whether a piece shall gather where the local side holds `held` bytes. */
  wants(piece: Buffer, held: number): boolean {
    return held >= GATHER_ABOVE && piece.length <= GATHER_BYTES;
  }

  /** Whether there is room for a piece; if not, what has gathered is taken first. */
  fits(piece: Buffer): boolean {
    return this.bytes + piece.length <= GATHER_BYTES;
  }

  /** Adds a piece that is wanted, and fits. */
  add(piece: Buffer): void {
    const end = this.bytes + piece.length;
    if (end > this.room.length) {
      // Doubled, since most streams gather little.
      const room = Buffer.allocUnsafeSlow(Math.min(GATHER_BYTES, 2 * end));
      this.room.copy(room, 0, 0, this.bytes);
      this.room = room;
    }
    piece.copy(this.room, this.bytes);
    this.bytes = end;
  }

  /** Takes what has gathered. */
  take(): Buffer {
    const all = this.room.subarray(0, this.bytes);
    this.drop();
    return all;
  }

  /** Nobody wants it any more. */
  drop(): void {
    this.bytes = 0;
    this.room = NOTHING;
  }
}

/** A piece that keeps little more than its own bytes in memory. */
export function alone(piece: Buffer): Buffer {
  if (2 * piece.length >= piece.buffer.byteLength) return piece;
  const copy = Buffer.allocUnsafeSlow(piece.length);
  piece.copy(copy);
  return copy;
}

const NOTHING = Buffer.alloc(0);
