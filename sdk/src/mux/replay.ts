/**
 * What a lane needs so that nothing is lost with its connection (PROTOCOL §9). It knows neither
 * sockets nor clocks.
 *
 * Frames that count are numbered in the order in which they are added, and kept until the peer says
 * that it has them. When the connection is lost they wait, and leave again, first of all and in
 * order, on the next one. By event and phase:
 *
 * | event                  | sending         | down            | resending         |
 * | ---------------------- | --------------- | --------------- | ----------------- |
 * | a frame is added       | leaves in turn  | waits           | waits in turn     |
 * | ... that counts not    | leaves          | dropped         | goes ahead        |
 * | WINDOW is added        | as a frame      | gathered        | gathered          |
 * | DATA wants to be added | within bounds   | no room         | no room           |
 * | a frame was taken      | counted         | -               | counted           |
 * | ACK of what has left   | forgotten       | -               | forgotten         |
 * | ACK of what has not    | violation       | -               | violation         |
 * | connection lost        | down            | -               | down              |
 * | resumed, count met     | -               | resending       | -                 |
 * | ... cannot be met      | -               | down            | -                 |
 * | all has left again     | -               | -               | sending           |
 *
 * `acked <= next <= left <= acked + kept frames` holds at all times, but that `next` may be below
 * `left` only while frames are sent again.
 */
import { FrameType, HEADER_BYTES, MAX_FRAMES, MAX_MESSAGE, encodeFrame } from '../wire/frame.js';
import { ACK_BYTES, ACK_FRAMES } from './limits.js';

/** What a lane may keep. */
export interface ReplayBounds {
  /** Bytes of frames. */
  buffer: number;
  /** Bytes of DATA among them. */
  data: number;
}

/** Whether a frame of a type is counted; also where its receiver does not know what it means. */
export function isCounted(type: number): boolean {
  return COUNTED.has(type);
}

const COUNTED = new Set([
  0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x10, 0x12, 0x13, 0x14, 0x15, 0x16, 0x40, 0x42, 0x44, 0x45,
]);

/** The largest increment of one WINDOW. */
const MAX_INCREMENT = 0xffff_ffff;

/** See the module. */
export class Replay {
  private phase: 'sending' | 'down' | 'resending' = 'sending';
  private kept: Buffer[] = [];
  /** Where the first frame that is still kept stands in `kept`. */
  private head = 0;
  private keptBytes = 0;
  private dataBytes = 0;
  /** The number of the first kept frame: so many has the peer taken. */
  private acked = 0;
  /** The number of the frame that leaves next on this connection. */
  private next = 0;
  /** How many have left, on whichever connection. */
  private left = 0;
  private readonly gathered = new Map<number, number>();
  private taken = 0;
  private untoldFrames = 0;
  private untoldBytes = 0;

  constructor(private readonly bounds: ReplayBounds) {}

  /** How many frames of the peer were taken. */
  get received(): number {
    return this.taken;
  }

  /** Whether more DATA may be added. */
  get hasRoom(): boolean {
    return this.phase === 'sending' && !this.isFull;
  }

  get isDown(): boolean {
    return this.phase === 'down';
  }

  /** Whether frames of an earlier connection are being sent again. */
  get isResending(): boolean {
    return this.phase === 'resending';
  }

  /** Bytes that are kept. */
  get size(): number {
    return this.keptBytes;
  }

  /** Whether there are frames that may leave. */
  get hasMore(): boolean {
    return this.phase !== 'down' && this.next < this.end;
  }

  /** Adds a frame that counts. */
  add(type: number, streamId: number, payload: Uint8Array): void {
    const frame = encodeFrame(type, streamId, payload);
    if (type === FrameType.Window && !this.hasRoom) {
      this.gather(streamId, frame.readUInt32BE(HEADER_BYTES));
    } else this.keep(frame);
  }

  /** The next message, or undefined when nothing may leave. It is not to be changed. */
  take(): Buffer | undefined {
    if (this.phase === 'down') return undefined;
    const from = this.next;
    let bytes = 0;
    while (this.next < this.end && this.next - from < MAX_FRAMES) {
      const { length } = this.at(this.next);
      if (bytes + length > MAX_MESSAGE) break;
      bytes += length;
      this.next += 1;
    }
    const frames = this.kept.slice(this.placeOf(from), this.placeOf(this.next));
    this.left = Math.max(this.left, this.next);
    if (this.phase === 'resending' && this.next === this.end) this.goOn();
    return frames.length < 2 ? frames[0] : Buffer.concat(frames, bytes);
  }

  /** The peer has taken so many; false when it cannot have. */
  acknowledge(count: number): boolean {
    // What has to leave again was not there when the peer told its count.
    if (count > (this.phase === 'down' ? this.left : this.next)) return false;
    // One that was overtaken by another says nothing new.
    while (this.acked < count) this.forget();
    this.next = Math.max(this.next, this.acked);
    if (this.hasRoom) this.letGo();
    return true;
  }

  /** The connection is lost. */
  lost(): void {
    this.phase = 'down';
  }

  /** A new connection stands, and the peer has taken so many; false when that cannot be. */
  resumed(count: number): boolean {
    if (count < this.acked || !this.acknowledge(count)) return false;
    this.next = this.acked;
    this.phase = 'resending';
    if (this.next === this.end) this.goOn();
    return true;
  }

  /** Whether what was taken has to be told before such a message is. */
  tellsBefore(message: Buffer): boolean {
    const frames = countIn(message);
    const many = this.untoldFrames + frames > ACK_FRAMES;
    return this.untoldFrames > 0 && (many || this.untoldBytes + message.length > ACK_BYTES);
  }

  /** All frames of a message were handed on. True: tell it now, else within `ACK_WITHIN_MS`. */
  took(message: Buffer): boolean {
    const frames = countIn(message);
    this.taken += frames;
    this.untoldFrames += frames;
    if (this.untoldFrames > 0) this.untoldBytes += message.length;
    return this.untoldFrames >= ACK_FRAMES / 2 || this.untoldBytes >= ACK_BYTES / 2;
  }

  /** Whether there is something that the peer was not told. */
  get isUntold(): boolean {
    return this.untoldFrames > 0;
  }

  /** The payload of the ACK to send. */
  tell(): Buffer {
    this.untoldFrames = 0;
    this.untoldBytes = 0;
    const payload = Buffer.alloc(8);
    payload.writeBigUInt64BE(BigInt(this.taken));
    return payload;
  }

  private get isFull(): boolean {
    return this.keptBytes >= this.bounds.buffer || this.dataBytes >= this.bounds.data;
  }

  /** The number behind the last kept frame. */
  private get end(): number {
    return this.acked + this.kept.length - this.head;
  }

  private placeOf(number: number): number {
    return this.head + number - this.acked;
  }

  private at(number: number): Buffer {
    const frame = this.kept[this.placeOf(number)];
    if (frame === undefined) throw new RangeError(`frame ${number} is not kept`);
    return frame;
  }

  private keep(frame: Buffer): void {
    this.kept.push(frame);
    this.keptBytes += frame.length;
    if (frame[0] === FrameType.Data) this.dataBytes += frame.length - HEADER_BYTES;
  }

  private forget(): void {
    const frame = this.at(this.acked);
    this.keptBytes -= frame.length;
    if (frame[0] === FrameType.Data) this.dataBytes -= frame.length - HEADER_BYTES;
    this.kept[this.head] = NOTHING;
    this.head += 1;
    this.acked += 1;
    if (this.head < 64 || this.head * 2 < this.kept.length) return;
    this.kept = this.kept.slice(this.head);
    this.head = 0;
  }

  private gather(streamId: number, increment: number): void {
    const sum = (this.gathered.get(streamId) ?? 0) + increment;
    if (sum > MAX_INCREMENT) this.keep(windowOf(streamId, increment));
    else this.gathered.set(streamId, sum);
  }

  /** All that was lost has left again. */
  private goOn(): void {
    this.phase = 'sending';
    if (!this.isFull) this.letGo();
  }

  private letGo(): void {
    for (const [streamId, increment] of this.gathered) this.keep(windowOf(streamId, increment));
    this.gathered.clear();
  }
}

const NOTHING = Buffer.alloc(0);

function windowOf(streamId: number, increment: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(increment);
  return encodeFrame(FrameType.Window, streamId, payload);
}

/** The counted frames of a message that was decoded. */
function countIn(message: Buffer): number {
  let count = 0;
  for (let at = 0; at < message.length;) {
    if (COUNTED.has(message.readUInt8(at))) count += 1;
    at += HEADER_BYTES + message.readUInt32BE(at + 5);
  }
  return count;
}
