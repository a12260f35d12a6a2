/**
 * A client's WebSocket frames (RFC 6455 §5.2): one unfragmented binary message, masked.
 *
 * `ws` masks octet by octet, which costs more than everything else that a bulk transfer does; here
 * it is done by words, in buffers that are used again once they were written.
 */
import { randomFillSync } from 'node:crypto';
import { HEADER_BYTES, MAX_PAYLOAD } from '../wire/frame.js';

/** A frame that is ready to be written. */
export interface MaskedFrame {
  bytes: Buffer;
  /** Where it was made: the message begins at `START`, and its mask lies before it. */
  buffer: Buffer;
  /** The size of the message. */
  length: number;
  /** The whole buffer, to be given back; undefined when it is not one that is kept. */
  whole: Buffer | undefined;
}

/** Where the message starts in a buffer: room for the longest header, and aligned for words. */
const START = 16;
/** The size of the buffers that are kept: one frame with the largest payload. */
const KEPT_BYTES = START + HEADER_BYTES + MAX_PAYLOAD + 7;
/** How many buffers are kept: what one lane may have on its way. */
const MAX_KEPT = 64;
/** Messages up to this size get a small buffer of their own. */
const SMALL_BYTES = 8 * 1024;
/** FIN and the opcode of a binary message. */
const BINARY = 0x82;

const kept: Buffer[] = [];
const masks = Buffer.allocUnsafeSlow(8192);
let maskAt = masks.length;

/** Makes the frame of a message; the message may be changed afterwards. */
export function maskedFrame(message: Uint8Array): MaskedFrame {
  const { length } = message;
  const big = length > SMALL_BYTES && START + length <= KEPT_BYTES;
  const whole = big ? (kept.pop() ?? Buffer.allocUnsafeSlow(KEPT_BYTES)) : undefined;
  const buffer = whole ?? Buffer.allocUnsafeSlow(START + length);
  const start = writeHeader(buffer, length);
  if (maskAt === masks.length) {
    randomFillSync(masks);
    maskAt = 0;
  }
  masks.copy(buffer, START - 4, maskAt, maskAt + 4);
  maskAt += 4;
  buffer.set(message, START);
  mask(buffer, START + length);
  return { bytes: buffer.subarray(start, START + length), buffer, length, whole };
}

/** The message of a frame, as it was; the frame may still be on its way. */
export function unmasked({ buffer, length }: MaskedFrame): Buffer {
  const copy = Buffer.allocUnsafeSlow(START + length);
  buffer.copy(copy, START - 4, START - 4, START + length);
  mask(copy, START + length);
  return copy.subarray(START);
}

/** Gives a written frame's buffer back. */
export function recycle(frame: MaskedFrame): void {
  if (frame.whole !== undefined && kept.length < MAX_KEPT) kept.push(frame.whole);
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

/** Masks what lies between the mask and `end`. The buffer starts at a word of its memory. */
function mask(buffer: Buffer, end: number): void {
  const words = new Uint32Array(buffer.buffer, buffer.byteOffset, end >>> 2);
  const key = words[START / 4 - 1] ?? 0;
  // The memory before `START` stays as it is; the octets of `key` are in memory order.
  for (let at = START / 4; at < words.length; at += 1) words[at] = (words[at] ?? 0) ^ key;
  for (let at = words.length * 4; at < end; at += 1) {
    buffer[at] = (buffer[at] ?? 0) ^ (buffer[START - 4 + (at & 3)] ?? 0);
  }
}
