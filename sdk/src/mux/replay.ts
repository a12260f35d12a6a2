/**
 * What a lane needs so that nothing is lost with its connection (PROTOCOL §9). It knows neither
 * sockets nor clocks.
 *
 * Frames that count are numbered as they leave. The messages that carried them are kept, by whoever
 * carried them, until the peer says that it has them. When the connection is lost they are taken
 * apart again, and their frames leave first of all and in order on the next one. By event and phase:
 *
 * | event                  | sending         | down            | resending         |
 * | ---------------------- | --------------- | --------------- | ----------------- |
 * | a frame is added       | leaves in turn  | waits           | waits in turn     |
 * | ... that counts not    | leaves          | dropped         | goes ahead        |
 * | WINDOW is added        | within bounds   | gathered        | gathered          |
 * | DATA wants to be added | within bounds   | no room         | no room           |
 * | a message has left     | numbered, kept  | -               | numbered, kept    |
 * | a frame was taken      | counted         | -               | counted           |
 * | ACK of what has left   | forgotten       | -               | forgotten         |
 * | ACK of what has not    | violation       | -               | violation         |
 * | connection lost        | down            | -               | down              |
 * | resumed, count met     | -               | resending       | -                 |
 * | ... cannot be met      | -               | down            | -                 |
 * | all has left again     | -               | -               | sending           |
 *
 * `acked <= next`, and `next <= left` while frames are sent again; the kept messages hold the frames
 * up to `next`, and those that wait are the ones from `next` on.
 */
import {
  encodeFrame,
  FrameType,
  HEADER_BYTES,
  isCounted,
  MAX_FRAMES,
  MAX_MESSAGE,
} from '../wire/frame.js';
import { ACK_BYTES, ACK_FRAMES } from './limits.js';

/** What a lane may keep. */
export interface ReplayBounds {
  /** Bytes of frames. */
  buffer: number;
  /** Bytes of DATA among them. */
  data: number;
}

/** A message that has left and may have to leave again. */
export interface KeptMessage {
  /** Its bytes, as they were given; they stay as they are. */
  read(): Buffer;
  /** Nobody needs it any more. */
  release(): void;
}

/** Frames of one or more kinds, and what of them counts. */
export interface Load {
  bytes: number;
  /** Frames that count. */
  counted: number;
  /** Bytes of DATA. */
  data: number;
}

/** A message of frames that leave again. */
export interface Again extends Load {
  message: Buffer;
}

/** The largest increment of one WINDOW. */
const MAX_INCREMENT = 0xffff_ffff;

/** What has left in one message, up to the frame before number `end`. */
interface Piece extends Load {
  kept: KeptMessage;
  end: number;
}

/** See the module. */
export class Replay {
  private phase: 'sending' | 'down' | 'resending' = 'sending';
  private pieces: Piece[] = [];
  /** Where the first piece that is still kept stands in `pieces`. */
  private head = 0;
  /** Frames that wait to leave, for the first time or again. */
  private waiting: Buffer[] = [];
  /** Bytes of what is kept and of what waits, and of the DATA in it. */
  private bytes = 0;
  private data = 0;
  /** So many has the peer taken. */
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

  /** How many of ours the peer has taken, as far as it told. */
  get acknowledged(): number {
    return this.acked;
  }

  /** Whether what is added leaves in turn. */
  get isSending(): boolean {
    return this.phase === 'sending';
  }

  get isDown(): boolean {
    return this.phase === 'down';
  }

  /** Whether frames of an earlier connection are being sent again. */
  get isResending(): boolean {
    return this.phase === 'resending';
  }

  /** Bytes that are kept, and that wait. */
  get size(): number {
    return this.bytes;
  }

  /** Whether more DATA may be added where so much is about to leave. */
  hasRoom(queued: Load): boolean {
    const { buffer, data } = this.bounds;
    const full = this.bytes + queued.bytes >= buffer || this.data + queued.data >= data;
    return this.phase === 'sending' && !full;
  }

  /** Adds a frame that counts where it cannot leave in turn. */
  wait(type: number, streamId: number, payload: Uint8Array): void {
    this.put(encodeFrame(type, streamId, payload));
  }

  /** Adds credit to what leaves when there is room; false when it would not fit into one WINDOW. */
  gather(streamId: number, increment: number): boolean {
    const sum = (this.gathered.get(streamId) ?? 0) + increment;
    if (sum > MAX_INCREMENT) return false;
    this.gathered.set(streamId, sum);
    return true;
  }

  /** Takes the credit that has gathered, of one stream or of all. */
  ungather(streamId?: number): [streamId: number, increment: number][] {
    if (this.gathered.size === 0) return [];
    const all = [...this.gathered].filter(([id]) => streamId === undefined || id === streamId);
    for (const [id] of all) this.gathered.delete(id);
    return all;
  }

  /** A message has left whose frames count. */
  leaves(kept: KeptMessage, bytes: number, counted: number, data: number): void {
    this.next += counted;
    this.left = Math.max(this.left, this.next);
    this.bytes += bytes;
    this.data += data;
    this.pieces.push({ kept, bytes, counted, data, end: this.next });
  }

  /** Takes the next message that leaves again; to be followed by `leaves`. */
  again(): Again | undefined {
    if (this.phase !== 'resending') return undefined;
    const again: Again = { message: NOTHING, bytes: 0, counted: 0, data: 0 };
    for (const frame of this.waiting) {
      if (again.counted === MAX_FRAMES || again.bytes + frame.length > MAX_MESSAGE) break;
      again.counted += 1;
      again.bytes += frame.length;
      again.data += dataOf(frame);
    }
    const frames = this.waiting.splice(0, again.counted);
    this.bytes -= again.bytes;
    this.data -= again.data;
    if (this.waiting.length === 0) this.phase = 'sending';
    again.message = (frames.length === 1 ? frames[0] : undefined) ?? Buffer.concat(frames);
    return again;
  }

  /** The peer has taken so many; false when it cannot have. */
  acknowledge(count: number): boolean {
    // What has to leave again was not there when the peer told its count.
    if (count > (this.phase === 'down' ? this.left : this.next)) return false;
    // One that was overtaken by another says nothing new.
    this.acked = Math.max(this.acked, count);
    for (let piece = this.pieces[this.head]; piece !== undefined && piece.end <= this.acked;) {
      this.bytes -= piece.bytes;
      this.data -= piece.data;
      piece.kept.release();
      this.head += 1;
      piece = this.pieces[this.head];
    }
    if (this.head >= 64 && this.head * 2 >= this.pieces.length) {
      this.pieces = this.pieces.slice(this.head);
      this.head = 0;
    }
    return true;
  }

  /** The connection is lost, and with it a message that was about to leave. */
  lost(unsent: Buffer): void {
    if (this.phase === 'down') return;
    const frames = this.pieces.slice(this.head).flatMap(({ kept, end, counted }) => {
      const all = countedIn(kept.read());
      kept.release();
      return all.slice(Math.max(0, this.acked - (end - counted)));
    });
    const behind = this.waiting;
    this.waiting = [];
    this.pieces = [];
    this.head = this.bytes = this.data = 0;
    for (const frame of frames) this.put(frame);
    this.phase = 'down';
    // It is in memory that is used again; and its credit has no number yet.
    for (const frame of countedIn(Buffer.from(unsent))) {
      const isCredit = frame[0] === FrameType.Window;
      const increment = isCredit ? frame.readUInt32BE(HEADER_BYTES) : 0;
      if (!isCredit || !this.gather(frame.readUInt32BE(1), increment)) this.put(frame);
    }
    for (const frame of behind) this.put(frame);
  }

  /** Whether a new connection can go on where the peer has taken so many. */
  canResume(count: number): boolean {
    return this.phase === 'down' && count >= this.acked && count <= this.left;
  }

  /** A new connection stands, and the peer has taken so many; false when that cannot be. */
  resumed(count: number): boolean {
    if (!this.canResume(count)) return false;
    for (const frame of this.waiting.splice(0, count - this.acked)) {
      this.bytes -= frame.length;
      this.data -= dataOf(frame);
    }
    this.acked = this.next = count;
    this.phase = this.waiting.length === 0 ? 'sending' : 'resending';
    return true;
  }

  /** Whether what was taken has to be told before so many frames and bytes are. */
  tellsBefore(frames: number, bytes: number): boolean {
    const many = this.untoldFrames + frames > ACK_FRAMES;
    return this.untoldFrames > 0 && (many || this.untoldBytes + bytes > ACK_BYTES);
  }

  /** So many frames were handed on, in a message of so many bytes. */
  took(frames: number, bytes: number): void {
    this.taken += frames;
    this.untoldFrames += frames;
    if (this.untoldFrames > 0) this.untoldBytes += bytes;
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

  private put(frame: Buffer): void {
    this.waiting.push(frame);
    this.bytes += frame.length;
    this.data += dataOf(frame);
  }
}

const NOTHING = Buffer.alloc(0);

function dataOf(frame: Buffer): number {
  return frame[0] === FrameType.Data ? frame.length - HEADER_BYTES : 0;
}

/** The frames of a message that count. */
function countedIn(message: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 0; at < message.length;) {
    const end = at + HEADER_BYTES + message.readUInt32BE(at + 5);
    if (isCounted(message.readUInt8(at))) frames.push(message.subarray(at, end));
    at = end;
  }
  return frames;
}

/** How many frames of a message that was decoded count. */
export function countIn(message: Buffer): number {
  let count = 0;
  for (let at = 0; at < message.length;) {
    if (isCounted(message.readUInt8(at))) count += 1;
    at += HEADER_BYTES + message.readUInt32BE(at + 5);
  }
  return count;
}
