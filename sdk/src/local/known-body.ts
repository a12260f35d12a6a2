/**
 * The body of a handler's response, looked at before its head goes: what is all there at once has a
 * known length, which no property of a `Response` tells.
 */
import { types } from 'node:util';

type Reader = ReadableStreamDefaultReader<Uint8Array>;
type Read = Awaited<ReturnType<Reader['read']>>;

/** Bytes past which a body is not looked into any further. */
const LOOK_BYTES = 512 * 1024;

/** The beginning of a body. */
export interface Beginning {
  /** What came at once, in order. */
  chunks: Uint8Array[];
  /** The bytes of `chunks`. */
  length: number;
  /** That is all of it. */
  whole: boolean;
  /** The read that has not come to anything yet. */
  next: Promise<Read> | undefined;
}

/** Reads what a body has at once. A stream that makes its first chunk later is not waited for. */
export async function beginningOf(reader: Reader | undefined): Promise<Beginning> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  // One chunk may be as long as it is: it lies in memory anyway, and may be all.
  while (reader !== undefined && (length <= LOOK_BYTES || chunks.length === 1)) {
    const next = reader.read();
    const read = await Promise.race([next, nextTurn()]);
    if (read === undefined) {
      // Whoever goes on hears of it; a failure until then is nobody's to handle.
      next.catch(ignore);
      return { chunks, length, whole: false, next };
    }
    if (read.done) return { chunks, length, whole: true, next: undefined };
    const bytes = bytesOf(read.value);
    chunks.push(bytes);
    length += bytes.length;
  }
  return { chunks, length, whole: reader === undefined, next: undefined };
}

/**
 * The octets of a body's chunk. A stream hands on whatever its source enqueued, and anything but
 * octets would be counted wrongly all the way down.
 */
export function bytesOf(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  if (ArrayBuffer.isView(chunk)) {
    return new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength);
  }
  if (types.isAnyArrayBuffer(chunk)) return new Uint8Array(chunk);
  throw new TypeError(`a body's chunk must be octets, not ${describe(chunk)}: encode it first`);
}

function describe(value: unknown): string {
  return value === null ? 'null' : typeof value;
}

/** What is ready now comes before it. */
function nextTurn(): Promise<undefined> {
  return new Promise((resolve) => setImmediate(resolve, undefined));
}

function ignore(): void {
  // See where it is used.
}
