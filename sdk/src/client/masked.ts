/**
 * A client's WebSocket frames (RFC 6455 §5.2): one unfragmented binary message, masked.
 *
 * `ws` masks octet by octet, which costs more than everything else that a bulk transfer does; here
 * it is done by words, in buffers that are used again once they were written.
 */
import { randomFillSync } from 'node:crypto';
import { HEADER_BYTES, MAX_PAYLOAD } from '../wire/frame.js';

/** Where the message starts in a buffer: room for the longest header, and aligned for words. */
const START = 16;
/** The size of the buffers that are kept: one frame with the largest payload. */
const KEPT_BYTES = (START + HEADER_BYTES + MAX_PAYLOAD + 7) & ~3;
/** How many buffers are kept: what one lane may have on its way. */
const MAX_KEPT = 64;
/** Messages up to this size get a small buffer of their own. */
const SMALL_BYTES = 8 * 1024;
/** FIN and the opcode of a binary message. */
const BINARY = 0x82;

const kept: MaskedFrame[] = [];
const masks = Buffer.allocUnsafeSlow(8192);
let maskAt = masks.length;

/**
 * A frame that is ready to be written. Its memory is used again once as many as have to do with it
 * have released it.
 */
export class MaskedFrame {
  /** What to write. */
  bytes: Buffer;
  /** The size of the message. */
  length = 0;
  private readonly words: Uint32Array;
  private users = 0;

  constructor(private readonly buffer: Buffer) {
    // The memory before `START` stays as it is; the octets of the key are in memory order.
    this.words = new Uint32Array(buffer.buffer, buffer.byteOffset, buffer.length >>> 2);
    this.bytes = buffer;
  }

  /** The frame of a message, for so many users; the message may be changed afterwards. */
  static of(message: Uint8Array, users: number): MaskedFrame {
    const { length } = message;
    const big = length > SMALL_BYTES && START + length <= KEPT_BYTES;
    const size = big ? KEPT_BYTES : (START + length + 3) & ~3;
    const frame = (big ? kept.pop() : undefined) ?? new MaskedFrame(Buffer.allocUnsafeSlow(size));
    frame.fill(message);
    frame.users = users;
    return frame;
  }

  /** The message, as it was; the frame may still be on its way. */
  read(): Buffer {
    const copy = new MaskedFrame(Buffer.allocUnsafeSlow(this.buffer.length));
    this.buffer.copy(copy.buffer);
    copy.mask(START + this.length);
    return copy.buffer.subarray(START, START + this.length);
  }

  /** One of its users does not need it any more. */
  release(): void {
    this.users -= 1;
    const isKept = this.buffer.length === KEPT_BYTES && kept.length < MAX_KEPT;
    if (this.users === 0 && isKept) kept.push(this);
  }

  private fill(message: Uint8Array): void {
    const { buffer } = this;
    const { length } = message;
    const start = writeHeader(buffer, length);
    if (maskAt === masks.length) {
      randomFillSync(masks);
      maskAt = 0;
    }
    masks.copy(buffer, START - 4, maskAt, maskAt + 4);
    maskAt += 4;
    buffer.set(message, START);
    this.mask(START + length);
    // Bulk comes in pieces of one size.
    if (length !== this.length || this.bytes === buffer) {
      this.bytes = buffer.subarray(start, START + length);
      this.length = length;
    }
  }

  /** Masks, or unmasks, what lies between the mask and `end`. */
  private mask(end: number): void {
    const { buffer, words } = this;
    const key = words[START / 4 - 1] ?? 0;
    const whole = end >>> 2;
    for (let at = START / 4; at < whole; at += 1) words[at] = (words[at] ?? 0) ^ key;
    for (let at = whole * 4; at < end; at += 1) {
      buffer[at] = (buffer[at] ?? 0) ^ (buffer[START - 4 + (at & 3)] ?? 0);
    }
  }
}

/** Writes the header, but for the mask, so that it ends where the mask starts. */
function writeHeader(buffer: Buffer, length: number): number {
  if (length < 126) {
    buffer[START - 6] = BINARY;
    buffer[START - 5] = 0x80 | length;
    return START - 6;
  }
  if (length < 65_536) {
    buffer[START - 8] = BINARY;
    buffer[START - 7] = 0x80 | 126;
    buffer.writeUInt16BE(length, START - 6);
    return START - 8;
  }
  buffer[START - 14] = BINARY;
  buffer[START - 13] = 0x80 | 127;
  buffer.writeUInt32BE(0, START - 12);
  buffer.writeUInt32BE(length, START - 8);
  return START - 14;
}
