/**
 * A response's head as it comes, each octet looked at once (PROTOCOL §4, §11).
 *
 * A line is judged as soon as it is there, and an octet that no line may have at once: a server that
 * speaks something else mostly waits then, and so would its visitor.
 */
import { LONGEST_HEAD, MOST_FIELDS } from '../wire/parts.js';
import {
  HeadTooLarge,
  HttpFault,
  isFieldValue,
  parseField,
  parseResponseHead,
  parseStatusLine,
} from './head.js';
import type { Head } from './head.js';
import type { HeadLimits } from './terms.js';

const LARGEST: HeadLimits = { bytes: LONGEST_HEAD, fields: MOST_FIELDS };
const END = '\r\n\r\n';
const BARE_LF = /(?:^|[^\r])\n/;
/** What every first line starts with. */
const START = 'HTTP/1.';

/** Reads one head. */
export class HeadReader {
  /** The head, once it is complete. */
  head: Head | undefined;
  /** The head as far as whole lines of it have come. */
  private partial: Head | undefined;
  /** What has come of the line that is not complete, and whether the CR of its end has. */
  private line = '';
  private isCut = false;
  private bytes = 0;

  constructor(private readonly most: HeadLimits = LARGEST) {}

  /** Whether nothing of a head has come. */
  get isUntouched(): boolean {
    return this.bytes === 0;
  }

  /** Takes a read; returns where in it the head ended, or `end`. Throws `HttpFault`. */
  feed(buffer: Buffer, start: number, end: number): number {
    if (this.bytes === 0) {
      // Mostly it comes in one piece.
      const most = Math.min(end, start + this.most.bytes + END.length);
      const length = buffer.subarray(start, most).indexOf(END);
      const text = length < 0 ? '' : buffer.toString('latin1', start, start + length);
      // One with a bare LF may have ended before, and is read line by line.
      if (length >= 0 && !BARE_LF.test(text)) {
        this.head = parseResponseHead(text);
        if (this.head.headers.length > this.most.fields) throw new HeadTooLarge();
        return start + length + END.length;
      }
    }
    let at = start;
    while (at < end && this.head === undefined) at = this.piece(buffer, at, end);
    return at;
  }

  /** Takes what a read has of one line; returns where that ends. */
  private piece(buffer: Buffer, start: number, end: number): number {
    const most = Math.min(end, start + this.most.bytes + END.length - this.bytes);
    const newline = buffer.subarray(start, most).indexOf(0x0a);
    const stop = newline < 0 ? most : start + newline + 1;
    this.bytes += stop - start;
    const text = (this.isCut ? '\r' : '') + buffer.toString('latin1', start, stop);
    this.isCut = newline < 0 && text.endsWith('\r');
    if (newline >= 0) this.onLine(text);
    else this.onPart(this.isCut ? text.slice(0, -1) : text);
    if (this.head === undefined && stop === most && most < end) {
      throw new HeadTooLarge();
    }
    return stop;
  }

  /** Refuses what no line may have, and a first line that never will be one. */
  private onPart(text: string): void {
    if (!isFieldValue(text)) throw new HttpFault('a head with a control character');
    const before = this.line.length;
    this.line += text;
    if (this.partial !== undefined) {
      if (before === 0 && /^[ \t]/.test(text)) throw new HttpFault('a field over several lines');
      return;
    }
    if (before >= START.length) return;
    const begun = this.line.slice(0, START.length);
    if (!START.startsWith(begun)) throw new HttpFault('no HTTP/1.1 status line');
  }

  /** The line is complete; `text` is its end. */
  private onLine(text: string): void {
    // An answer is written anew, so a bare LF may end a line as it does for other readers.
    const line = this.line + text.slice(0, text.endsWith('\r\n') ? -2 : -1);
    this.line = '';
    if (this.partial === undefined) this.partial = parseStatusLine(line);
    else if (line === '') this.head = this.partial;
    else if (this.partial.headers.length === this.most.fields) throw new HeadTooLarge();
    else this.partial.headers.push(parseField(line));
  }
}
