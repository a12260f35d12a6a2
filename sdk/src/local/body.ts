/**
 * Where a response's body ends (PROTOCOL §4), by length, by chunks, or with its connection.
 *
 * A decoder is fed reads and hands on the parts of them that are body, where they lie.
 */
import {
  allOf,
  contentLength,
  firstOf,
  HttpFault,
  isNamed,
  listOf,
  nameIn,
  trim,
  type Head,
} from './head.js';
import type { Headers } from '../wire/control.js';
import { MAX_TRAILER_FIELDS, MAX_TRAILERS, trailersOf } from './trailers.js';

/** Gets the parts of a read that are body. */
export type Emit = (buffer: Buffer, start: number, end: number) => void;

/** Finds the end of one body. */
export interface BodyDecoder {
  /** Whether the body is complete. */
  readonly done: boolean;
  /** Whether the end of the connection completes it. */
  readonly endsWithConnection: boolean;
  /** Whether its end could be read in two ways: then nothing else comes over its connection. */
  readonly isAmbiguous: boolean;
  /**
   * Whether it answers a HEAD and a body is declared, which some servers then send although nobody
   * asked for it: when that comes, the next answer is expected, whoever's it is by then.
   */
  readonly temptsToSendMore?: boolean;
  /** Takes a read; returns where in it the body ended, or `end`. */
  feed(buffer: Buffer, start: number, end: number, emit: Emit): number;
  /** The fields behind a body that is complete. */
  readonly trailers?: Headers;
}

/**
 * Chooses the decoder that a response's head asks for, and leaves one length in the head, or none
 * beside chunks: lengths that are equal are one, and chunks go before any (RFC 9112 §6.3).
 */
export function bodyOf(head: Head, method: string): BodyDecoder {
  // A field without a value is one all the same: another reader may see a coding in it.
  const coded = firstOf(head.headers, 'transfer-encoding') !== undefined;
  const lengths = allOf(head.headers, 'content-length').flatMap((value) => value.split(','));
  const length = lengths[0] === undefined ? undefined : trim(lengths[0]);
  if (lengths.some((other) => trim(other) !== length)) {
    throw new HttpFault('more than one Content-Length');
  }
  if (length !== undefined) {
    const name = nameIn(head.headers, 'Content-Length');
    head.headers = head.headers.filter((field) => !isNamed(field[0], 'content-length'));
    if (!coded) head.headers.push([name, length]);
  }
  if (coded) {
    const codings = listOf(head.headers, 'transfer-encoding');
    if (codings.length !== 1 || codings[0] !== 'chunked' || head.minor === 0) {
      throw new HttpFault('a Transfer-Encoding other than chunked');
    }
  }
  const count = contentLength(head.headers);
  if (method === 'HEAD' || head.status < 200 || head.status === 204 || head.status === 304) {
    const declares = coded || (count ?? 0) > 0;
    // Some servers send the body that they declare with a 204, although there is none.
    const isAmbiguous = lengths.length > (coded ? 0 : 1) || (head.status === 204 && declares);
    return new LengthBody(0, isAmbiguous, method === 'HEAD' && declares);
  }
  if (coded) return new ChunkedBody(lengths.length > 0);
  return count === undefined ? new CloseBody() : new LengthBody(count, lengths.length > 1);
}

/** A body of a known length. */
class LengthBody implements BodyDecoder {
  readonly endsWithConnection = false;

  constructor(
    private left: number,
    readonly isAmbiguous: boolean,
    readonly temptsToSendMore = false,
  ) {}

  get done(): boolean {
    return this.left === 0;
  }

  feed(buffer: Buffer, start: number, end: number, emit: Emit): number {
    const stop = Math.min(end, start + this.left);
    if (stop > start) {
      this.left -= stop - start;
      emit(buffer, start, stop);
    }
    return stop;
  }
}

/** A body that ends with its connection. */
class CloseBody implements BodyDecoder {
  readonly done = false;
  readonly endsWithConnection = true;
  readonly isAmbiguous = false;

  feed(buffer: Buffer, start: number, end: number, emit: Emit): number {
    if (end > start) emit(buffer, start, end);
    return end;
  }
}

/** The longest line of chunk framing, in bytes: size, extensions, or a trailer field. */
const MAX_LINE = 4096;
/** Octets of a trailer's line that would end it for somebody else, or go on with the one before. */
const NO_LINE = /^[ \t]|[^\t\x20-\x7e\x80-\xff]/;

/** A chunk's size of at most 64 bits, with its extensions. Blanks mean nothing. */
const SIZE = /^([0-9a-fA-F]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?$/;

/** A chunked body. Extensions are read over. */
class ChunkedBody implements BodyDecoder {
  readonly endsWithConnection = false;
  done = false;
  private state: 'size' | 'data' | 'data-end' | 'trailers' = 'size';
  private left = 0;
  private line = '';
  private trailerBytes = 0;
  private readonly lines: string[] = [];

  constructor(readonly isAmbiguous: boolean) {}

  get trailers(): Headers {
    return trailersOf(this.lines);
  }

  feed(buffer: Buffer, start: number, end: number, emit: Emit): number {
    let at = start;
    while (at < end && !this.done) {
      at = this.state === 'data' ? this.data(buffer, at, end, emit) : this.text(buffer, at, end);
    }
    return at;
  }

  private data(buffer: Buffer, at: number, end: number, emit: Emit): number {
    const stop = Math.min(end, at + this.left);
    this.left -= stop - at;
    if (this.left === 0) this.state = 'data-end';
    emit(buffer, at, stop);
    return stop;
  }

  private text(buffer: Buffer, at: number, end: number): number {
    const newline = buffer.subarray(at, end).indexOf(0x0a);
    const stop = newline < 0 ? end : at + newline + 1;
    this.line += buffer.toString('latin1', at, stop);
    if (this.line.length > MAX_LINE) throw new HttpFault('a chunk line that is too long');
    if (newline < 0) {
      // What can become no line is no reason to wait for its end.
      const line = this.line.endsWith('\r') ? this.line.slice(0, -1) : this.line;
      if (line !== '' || this.state === 'size') this.judge(line);
      return stop;
    }
    const line = this.line;
    this.line = '';
    // Nobody reads it as we got it, so a LF may end it alone, as to all who read answers.
    this.onLine(line.slice(0, line.endsWith('\r\n') ? -2 : -1));
    return stop;
  }

  private onLine(line: string): void {
    if (this.state === 'trailers' && line === '') {
      this.done = true;
      return;
    }
    const size = this.judge(line);
    if (this.state === 'data-end') {
      this.state = 'size';
    } else if (this.state === 'size') {
      this.left = size;
      this.state = size === 0 ? 'trailers' : 'data';
    } else {
      this.trailerBytes += line.length;
      this.lines.push(line);
      if (this.trailerBytes > MAX_TRAILERS || this.lines.length > MAX_TRAILER_FIELDS) {
        throw new HttpFault('too many trailer fields');
      }
    }
  }

  /** Whether a line, or what there is of it, can stand here; gives the size that it says. */
  private judge(line: string): number {
    if (this.state === 'data-end') {
      if (line !== '') throw new HttpFault('a chunk that is longer than its size');
    } else if (this.state === 'size') {
      const size = parseInt(SIZE.exec(line)?.[1] ?? '', 16);
      if (!Number.isSafeInteger(size)) throw new HttpFault('a malformed chunk size');
      return size;
    } else if (NO_LINE.test(line)) {
      throw new HttpFault('a malformed trailer');
    }
    return 0;
  }
}
