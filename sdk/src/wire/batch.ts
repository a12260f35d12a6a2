/**
 * Many frames gathered into one message (PROTOCOL §1.1).
 *
 * A batch cannot hold an illegal message: a frame that does not fit is not taken. It is one buffer
 * for the life of its lane; whoever sends the message must have copied it before the next frame.
 */
import {
  FrameType,
  HEADER_BYTES,
  isCounted,
  MAX_FRAMES,
  MAX_MESSAGE,
  MAX_PAYLOAD,
  writeHeader,
} from './frame.js';

/** A message in the making. */
export class Batch {
  /** How many of its frames count (PROTOCOL §9). */
  counted = 0;
  /** Bytes of DATA in it. */
  data = 0;
  private readonly buffer = Buffer.allocUnsafeSlow(MAX_MESSAGE);
  private used = 0;
  private frames = 0;

  /** How many bytes the message has so far. */
  get bytes(): number {
    return this.used;
  }

  /** Whether a frame with a payload of `length` bytes still fits. */
  fits(length: number): boolean {
    return this.frames < MAX_FRAMES && this.used + HEADER_BYTES + length <= MAX_MESSAGE;
  }

  /** Appends a frame; the caller has asked `fits`. */
  push(type: number, streamId: number, payload: Uint8Array): void {
    this.open(type, streamId, payload.length);
    this.buffer.set(payload, this.used);
    this.used += payload.length;
  }

  /** Appends a frame whose payload is one big-endian number. */
  pushNumber(type: number, streamId: number, value: number): void {
    this.open(type, streamId, 4);
    this.buffer.writeUInt32BE(value, this.used);
    this.used += 4;
  }

  /** Appends a frame whose payload is text that is known to be short enough. */
  pushText(type: number, streamId: number, text: string, length: number): void {
    this.open(type, streamId, length);
    this.buffer.write(text, this.used, 'utf8');
    this.used += length;
  }

  /** Takes the message: a view that is valid until the next frame is pushed. */
  take(): Buffer {
    const message = this.buffer.subarray(0, this.used);
    this.used = 0;
    this.frames = 0;
    this.counted = 0;
    this.data = 0;
    return message;
  }

  private open(type: number, streamId: number, length: number): void {
    if (!this.fits(length) || length > MAX_PAYLOAD) {
      throw new RangeError(`a frame of ${length} bytes does not fit the message`);
    }
    writeHeader(this.buffer, this.used, type, streamId, length);
    this.used += HEADER_BYTES;
    this.frames += 1;
    if (isCounted(type)) this.counted += 1;
    if (type === FrameType.Data) this.data += length;
  }
}
