/**
 * Bytes to frames and back (PROTOCOL §1.1, §1.2).
 *
 * A message is decoded whole or refused: nothing of it is delivered before all of it was checked.
 * Payloads are views into the message, never copies.
 */
import { Code } from './code.js';

/** Frame types by name. */
export const FrameType = {
  Hello: 0x01,
  HelloOk: 0x02,
  Bind: 0x03,
  BindOk: 0x04,
  BindErr: 0x05,
  Unbind: 0x06,
  UnbindOk: 0x07,
  UnbindErr: 0x08,
  Join: 0x09,
  JoinOk: 0x0a,
  JoinErr: 0x0b,
  ShardMap: 0x0c,
  ReissueJoinTickets: 0x0d,
  StreamOpen: 0x10,
  Data: 0x12,
  Eof: 0x13,
  Reset: 0x14,
  Window: 0x15,
  StreamResponseHead: 0x16,
  Ping: 0x20,
  Pong: 0x21,
  Goaway: 0x30,
  BindRevoked: 0x40,
  Ack: 0x41,
  StreamTrailers: 0x42,
  Datagram: 0x43,
  StreamConnected: 0x44,
  HeadPart: 0x45,
} as const;

/** Bytes before a payload. */
export const HEADER_BYTES = 9;
/** The largest payload of one frame, in bytes. */
export const MAX_PAYLOAD = 65_536;
/** The largest message, in bytes. */
export const MAX_MESSAGE = 262_144;
/** The most frames in one message, skipped extension frames counted. */
export const MAX_FRAMES = 64;

/** What is wrong with one frame where it costs only its stream. */
export type FrameFault = 'EOF_NOT_EMPTY' | 'RESET_TOO_SHORT' | 'WINDOW_SIZE' | 'ZERO_INCREMENT';

/** One frame; `payload` is a view into the message that brought it. */
export interface Frame {
  readonly type: number;
  readonly streamId: number;
  readonly payload: Buffer;
  /** Set when the payload is bad, which costs the stream. */
  readonly fault: FrameFault | undefined;
}

/** What a message, or the payload of a session frame, was refused for. */
export type WireFault =
  | 'EMPTY'
  | 'TOO_LARGE'
  | 'TOO_MANY_FRAMES'
  | 'HEADER_CUT_SHORT'
  | 'PAYLOAD_TOO_LONG'
  | 'PAYLOAD_CUT_SHORT'
  | 'UNKNOWN_TYPE'
  | 'SESSION_FRAME_ON_STREAM'
  | 'STREAM_FRAME_ON_ZERO'
  | 'PAYLOAD_SIZE'
  | 'ZERO_SESSION_INCREMENT'
  | 'BAD_JSON';

/** The peer sent bytes that are no message of this protocol. */
export class WireError extends Error {
  override readonly name = 'WireError';
  constructor(
    readonly fault: WireFault,
    message: string,
  ) {
    super(message);
  }

  /** The code for GOAWAY. */
  get code(): number {
    return this.fault === 'PAYLOAD_SIZE' ? Code.FrameSizeError : Code.ProtocolError;
  }
}

/** The code of a fault that costs only its stream. */
export function faultCode(fault: FrameFault): number {
  return fault === 'ZERO_INCREMENT' ? Code.ProtocolError : Code.FrameSizeError;
}

/**
 * Whether frames of a type are counted where lanes outlive their connections (PROTOCOL §9); also
 * where the receiver does not know what they mean.
 */
export function isCounted(type: number): boolean {
  return COUNTED[type] === 1;
}

const COUNTED = new Uint8Array(256);
for (const type of [3, 4, 5, 6, 7, 8, 16, 18, 19, 20, 21, 22, 64, 66, 68, 69]) COUNTED[type] = 1;

/** What a type needs of its stream id: 0, anything but 0, or either. */
type IdRule = 'zero' | 'some' | 'any';

const RULES: readonly (IdRule | undefined)[] = buildRules();

function buildRules(): (IdRule | undefined)[] {
  const rules = new Array<IdRule | undefined>(256).fill(undefined);
  for (const type of Object.values(FrameType)) rules[type] = 'zero';
  for (const type of [0x10, 0x12, 0x13, 0x14, 0x16, 0x42, 0x43, 0x44, 0x45]) rules[type] = 'some';
  rules[FrameType.Window] = 'any';
  return rules;
}

const EMPTY = Buffer.alloc(0);

/** Extension types are skipped by whoever does not know them. */
function isExtension(type: number): boolean {
  return type >= 0x40 && type <= 0x7f;
}

/**
 * Decodes one whole message. Extension frames that this side does not know are counted against the
 * limit and left out of the result; an unknown type outside that range refuses the message.
 */
export function decodeMessage(message: Buffer): Frame[] {
  const size = message.length;
  if (size === 0) throw new WireError('EMPTY', 'a message without a frame');
  if (size > MAX_MESSAGE) {
    throw new WireError('TOO_LARGE', `a message of ${size} bytes, over ${MAX_MESSAGE}`);
  }
  const frames: Frame[] = [];
  let at = 0;
  for (let count = 1; at < size; count += 1) {
    if (count > MAX_FRAMES) {
      throw new WireError('TOO_MANY_FRAMES', `more than ${MAX_FRAMES} frames in a message`);
    }
    if (size - at < HEADER_BYTES) {
      throw new WireError('HEADER_CUT_SHORT', `a frame header cut short at byte ${at}`);
    }
    const type = message.readUInt8(at);
    const streamId = message.readUInt32BE(at + 1);
    const length = message.readUInt32BE(at + 5);
    if (length > MAX_PAYLOAD) {
      throw new WireError('PAYLOAD_TOO_LONG', `a payload of ${length} bytes, over ${MAX_PAYLOAD}`);
    }
    const start = at + HEADER_BYTES;
    at = start + length;
    if (at > size) {
      throw new WireError('PAYLOAD_CUT_SHORT', `a payload of ${length} bytes cut short`);
    }
    const rule = RULES[type];
    if (rule === undefined) {
      if (isExtension(type)) continue;
      throw new WireError('UNKNOWN_TYPE', `a frame of unknown type 0x${type.toString(16)}`);
    }
    checkId(type, rule, streamId);
    const payload = length === 0 ? EMPTY : message.subarray(start, at);
    const fault = streamId === 0 ? checkSession(type, payload) : checkStream(type, payload);
    frames.push({ type, streamId, payload, fault });
  }
  return frames;
}

function checkId(type: number, rule: IdRule, streamId: number): void {
  if (rule === 'any' || (streamId === 0) === (rule === 'zero')) return;
  throw new WireError(
    rule === 'zero' ? 'SESSION_FRAME_ON_STREAM' : 'STREAM_FRAME_ON_ZERO',
    `a frame of type 0x${type.toString(16)} on stream id ${streamId}`,
  );
}

/** Payloads of a fixed size in frames of the session: a wrong one costs the session. */
function checkSession(type: number, payload: Buffer): undefined {
  const size = SESSION_SIZES[type];
  if (size !== undefined && payload.length !== size) {
    const what = `0x${type.toString(16)} with ${payload.length} bytes instead of ${size}`;
    throw new WireError('PAYLOAD_SIZE', `a frame of type ${what}`);
  }
  if (type === FrameType.Window && payload.readUInt32BE(0) === 0) {
    throw new WireError('ZERO_SESSION_INCREMENT', 'a session WINDOW of 0');
  }
}

const SESSION_SIZES: Record<number, number> = {
  [FrameType.Window]: 4,
  [FrameType.Ping]: 8,
  [FrameType.Pong]: 8,
  [FrameType.Ack]: 8,
};

/** Payloads in frames of a stream: a wrong one costs the stream. */
function checkStream(type: number, payload: Buffer): FrameFault | undefined {
  switch (type) {
    case FrameType.Eof:
      return payload.length === 0 ? undefined : 'EOF_NOT_EMPTY';
    case FrameType.Reset:
      return payload.length >= 2 ? undefined : 'RESET_TOO_SHORT';
    case FrameType.Window:
      if (payload.length !== 4) return 'WINDOW_SIZE';
      return payload.readUInt32BE(0) === 0 ? 'ZERO_INCREMENT' : undefined;
    default:
      return undefined;
  }
}

/** Writes a frame header at `at`. */
export function writeHeader(
  into: Buffer,
  at: number,
  type: number,
  streamId: number,
  length: number,
): void {
  into[at] = type;
  into.writeUInt32BE(streamId, at + 1);
  into.writeUInt32BE(length, at + 5);
}

/** One frame as bytes of its own; for handshakes and tests, where speed does not matter. */
export function encodeFrame(type: number, streamId: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  writeHeader(frame, 0, type, streamId, payload.length);
  frame.set(payload, HEADER_BYTES);
  return frame;
}

/** The payload of a RESET. The reason is cut so that it stays one small frame. */
export function encodeReset(code: number, reason: string): Buffer {
  const text = Buffer.from(reason.slice(0, 256), 'utf8');
  const payload = Buffer.allocUnsafe(2 + text.length);
  payload.writeUInt16BE(code, 0);
  payload.set(text, 2);
  return payload;
}

/** Reads the payload of a RESET; the decoder has seen that it holds a code. */
export function decodeReset(payload: Buffer): { code: number; reason: string } {
  return { code: payload.readUInt16BE(0), reason: payload.toString('utf8', 2) };
}
