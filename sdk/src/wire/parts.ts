/**
 * Heads that do not fit one frame (PROTOCOL §4): their fields come ahead of them, in HEAD_PART
 * frames. What of a value does not fit an element of the list goes on in the next one, under an empty
 * name, which no field has.
 */
import { readHeadPart, type Headers, type ResponseHead } from './control.js';
import { FrameType, MAX_PAYLOAD } from './frame.js';

/** The most fields of one frame: a visitor's 128, and those that a kit adds. */
export const MAX_FRAME_FIELDS = 136;
/** Bytes and fields of the largest head that a local server may answer with. */
export const LONGEST_HEAD = 256 * 1024;
export const MOST_FIELDS = 1000;
/** The most frames ahead of one head, the most bytes of them, and the most fields of all of it. */
const MAX_PARTS = 64;
const MAX_PARTS_BYTES = LONGEST_HEAD + 16 * MOST_FIELDS;
const MAX_PARTS_FIELDS = MOST_FIELDS + 8;
/** Octets of a value in one element: with each of them escaped, a frame still has room for it. */
const PIECE = 10 * 1024;
const BEGIN = '{"headers":[';
const END = ']}';

/** How heads travel to a kit. */
export interface HeadTerms {
  /** Field names travel as they were written, else in lower case. */
  readonly headerCase?: boolean;
  /** A head may have frames ahead of its own. */
  readonly longHeads?: boolean;
}

/** One frame of a head. */
export interface HeadFrame {
  type: number;
  text: string;
  /** The bytes of `text`. */
  length: number;
}

/** The fields of one head that came ahead of it. */
export class HeadParts {
  /** Bytes of all of them. */
  bytes = 0;
  private readonly payloads: Buffer[] = [];

  /** Keeps one more; false where those of one head would be too many. */
  add(payload: Buffer): boolean {
    if (this.payloads.length === MAX_PARTS) return false;
    if (this.bytes + payload.length > MAX_PARTS_BYTES) return false;
    this.bytes += payload.length;
    // The message that brought it may be much larger.
    this.payloads.push(Buffer.from(payload));
    return true;
  }

  /** All fields of the head whose own are `rest`. */
  before(rest: Headers): Headers {
    const all: Headers = [];
    const values: string[][] = [];
    for (const [name, value] of [...this.payloads.flatMap(readHeadPart), ...rest]) {
      if (name !== '') {
        all.push([name, '']);
        values.push([value]);
      } else if (values.length > 0) {
        values.at(-1)?.push(value);
      } else {
        throw new Error('HEAD_PART goes on with nothing');
      }
    }
    if (all.length > MAX_PARTS_FIELDS) throw new Error('a head with too many fields');
    all.forEach((field, at) => (field[1] = values[at]?.join('') ?? ''));
    return all;
  }
}

/** The frames of a head, in their order; undefined where it is too large for them. */
export function headFrames(head: ResponseHead, terms: HeadTerms): HeadFrame[] | undefined {
  const headers = terms.headerCase === true ? head.headers : namesInLowerCase(head.headers);
  const isShort = headers.length <= MAX_FRAME_FIELDS;
  const whole = frameOf(FrameType.StreamResponseHead, JSON.stringify({ ...head, headers }));
  if (isShort && whole.length <= MAX_PAYLOAD) return [whole];
  if (terms.longHeads !== true || headers.length > MAX_PARTS_FIELDS) return undefined;
  const parts = partsOf(headers);
  const bytes = parts.reduce((sum, { length }) => sum + length, 0);
  const fits = bytes <= MAX_PARTS_BYTES && parts.every(({ length }) => length <= MAX_PAYLOAD);
  if (!fits) return undefined;
  const last = JSON.stringify({ ...head, headers: [] });
  return [...parts, frameOf(FrameType.StreamResponseHead, last)];
}

/** Fields for a peer that knows names in lower case alone. */
export function namesInLowerCase(headers: Headers): Headers {
  return headers.map(([name, value]) => [name.toLowerCase(), value]);
}

function partsOf(headers: Headers): HeadFrame[] {
  const parts: HeadFrame[] = [];
  let elements: string[] = [];
  let used = BEGIN.length + END.length;
  const close = (): void => {
    parts.push(frameOf(FrameType.HeadPart, BEGIN + elements.join(',') + END));
    elements = [];
    used = BEGIN.length + END.length;
  };
  for (const [name, value] of headers) {
    for (let at = 0; at === 0 || at < value.length; at += PIECE) {
      const element = JSON.stringify([at === 0 ? name : '', value.slice(at, at + PIECE)]);
      const length = Buffer.byteLength(element) + 1;
      if (used + length > MAX_PAYLOAD && elements.length > 0) close();
      elements.push(element);
      used += length;
    }
  }
  close();
  return parts;
}

function frameOf(type: number, text: string): HeadFrame {
  return { type, text, length: Buffer.byteLength(text) };
}
