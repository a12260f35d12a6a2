/**
 * A visitor's request handed to a function instead of a local server: a standard `Request` in, a
 * `Response` out, both streaming.
 */
import { Code } from '../wire/code.js';
import type { Headers as FieldList, OpenHttp } from '../wire/control.js';
import type { MuxStream, StreamSink } from '../mux/stream.js';
import {
  allOf,
  checkHeaders,
  contentLength,
  firstOf,
  isNamed,
  isTarget,
  isToken,
  listOf,
  withoutHopByHop,
} from './head.js';
import { busyPage, type Capacity } from './capacity.js';
import { decoded } from './decoded.js';
import { beginningOf, bytesOf, type Beginning } from './known-body.js';
import { answerPlain, SOON, Tally, type Report } from './report.js';
import type { SlotUser, Ticket } from './slots.js';
import type { ErrorHandler, FetchHandler, HandlerBinding, Shortage } from './terms.js';
import { plain } from '../wire/text.js';
import { originOf } from './visitor.js';

/** What a visitor gets when the handler failed, and when it answered with no status of an answer. */
const INTERNAL_ERROR = [500, 'Internal Server Error'] as const;
const BAD_GATEWAY = [502, 'Bad Gateway'] as const;

/** Methods that a `Request` cannot have. */
const FORBIDDEN = new Set(['CONNECT', 'TRACE', 'TRACK']);

/** The functions that answer at a binding. */
export interface Handlers {
  fetch: FetchHandler;
  onError: ErrorHandler | undefined;
  binding: HandlerBinding;
}

/** Starts to answer a stream that was just opened. */
export function serveFromHandler(
  stream: MuxStream,
  open: OpenHttp,
  handlers: Handlers,
  capacity: Capacity,
  report: Report,
): void {
  const tally = new Tally(open, report);
  const exchange = new FetchExchange(stream, open, handlers, capacity, tally);
  stream.sink = exchange;
  if (open.isUpgrade) {
    exchange.refuse(501, '501 Not Implemented\n\nThis server does not take WebSockets.\n');
  } else if (FORBIDDEN.has(open.method.toUpperCase())) {
    exchange.refuse(501, `501 Not Implemented\n\n${open.method} is not supported here.\n`);
  } else {
    exchange.start();
  }
}

class FetchExchange implements StreamSink, SlotUser {
  private readonly abort = new AbortController();
  private body: ReadableStreamDefaultController<Uint8Array> | undefined;
  /** What came of the body and was not asked for yet, oldest first. */
  private chunks: Uint8Array[] = [];
  /** Whoever reads the body waits for a chunk. */
  private wanted = false;
  /** The body has come whole. */
  private ended = false;
  private reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  private wake: (() => void) | undefined;
  private answered = false;
  private headSent = false;
  /** The visitor keeps the body back until it is asked for. */
  private expectsContinue = false;
  private gone = false;
  /** The place that its handler takes while it runs. */
  private ticket: Ticket | undefined;
  private hasRun = false;

  constructor(
    private readonly stream: MuxStream,
    private readonly open: OpenHttp,
    private readonly handlers: Handlers,
    private readonly capacity: Capacity,
    private readonly tally: Tally,
  ) {}

  refuse(status: number, text: string): void {
    this.answered = true;
    answerPlain(this.stream, this.tally, status, text);
    this.tally.done();
  }

  start(): void {
    const ticket = this.capacity.handlers.ask(originOf(this.open.remoteAddr), this);
    this.ticket = ticket;
    if (this.hasRun || this.gone) ticket.leave();
  }

  seated(): void {
    void this.run();
  }

  turnedAway(why: Shortage): void {
    this.capacity.turnedAway(why);
    this.tally.done(`no ${why} left`);
    this.answered = true;
    answerPlain(this.stream, this.tally, 503, busyPage(why), SOON);
  }

  /** The handler does not run any more, or never will. */
  private leave(): void {
    this.hasRun = true;
    this.ticket?.leave();
  }

  private async run(): Promise<void> {
    let request: Request;
    try {
      request = this.request();
    } catch (error) {
      const why = messageOf(error);
      this.leave();
      this.stream.reset(Code.ProtocolError, why);
      this.tally.done(why);
      return;
    }
    // The request has all of it now.
    this.stream.releaseHead();
    const { fetch, binding } = this.handlers;
    const { remoteAddr } = this.open;
    try {
      const response: unknown = await fetch(request, { remoteAddr, binding });
      if (!isResponse(response)) throw new TypeError('the handler returned no Response');
      this.leave();
      await this.respond(response);
    } catch (error) {
      const instead = await this.answerTo(error, request);
      this.leave();
      if (instead === undefined) return this.fail(error);
      try {
        await this.respond(instead);
      } catch (another) {
        told(another, request);
        this.fail(another);
      }
    }
  }

  /** Sends a response; who makes its body learns where nobody takes it any more. */
  private async respond(response: Response): Promise<void> {
    try {
      await this.answer(response);
      this.settle();
    } catch (error) {
      const unread = this.reader ?? response.body;
      this.reader = undefined;
      unread?.cancel(error).catch(ignore);
      throw error;
    }
  }

  /**
   * Tells whoever wrote the handler what went wrong, unless it is only that the visitor has left;
   * what is to be answered instead, if anything is.
   */
  private async answerTo(error: unknown, request: Request): Promise<Response | undefined> {
    if (this.gone) return undefined;
    const { onError } = this.handlers;
    if (onError === undefined) return told(error, request);
    try {
      const instead: unknown = await onError(error, request);
      return isResponse(instead) && !this.headSent && !this.hasLeft() ? instead : undefined;
    } catch (another) {
      return told(another, request);
    }
  }

  // The visitor's side.

  data(chunk: Buffer): void {
    this.tally.bytesIn += chunk.length;
    if (this.body === undefined || this.answered) {
      this.stream.consumed(chunk.length);
      return;
    }
    // The message that brought the bytes is not ours to keep: whoever reads may hold them long.
    this.chunks.push(new Uint8Array(chunk));
    if (this.wanted) this.feed(this.body);
  }

  end(): void {
    this.ended = true;
    if (this.chunks.length === 0) this.closeBody();
  }

  reset(code: number, reason: string): void {
    this.gone = true;
    // One that runs holds its place until it has seen the signal, and come back.
    if (!this.ticket?.isSeated) this.leave();
    const error = new DOMException('the visitor has left', 'AbortError');
    this.abort.abort(error);
    this.finishBody(error);
    this.tally.done(reason === '' ? `reset with code ${code}` : reason);
    this.wake?.();
    this.reader?.cancel(error).catch(ignore);
  }

  drain(): void {
    this.wake?.();
  }

  private request(): Request {
    const { open } = this;
    if (!isToken(open.method) || !isTarget(open.method, open.target)) {
      throw new TypeError('a malformed request line');
    }
    checkHeaders(open.headers);
    contentLength(open.headers);
    const headers = new Headers(oneCookie(withoutHopByHop(open.headers)));
    const scheme = firstOf(open.headers, 'x-forwarded-proto') === 'https' ? 'https' : 'http';
    const host = firstOf(open.headers, 'host') ?? 'localhost';
    const base = URL.canParse(`${scheme}://${host}`) ? `${scheme}://${host}` : 'http://localhost';
    const url = base + (open.target === '*' ? '/' : open.target);
    const init: RequestInit & { duplex?: 'half' } = {
      method: open.method,
      headers,
      signal: this.abort.signal,
    };
    if (open.method !== 'GET' && open.method !== 'HEAD' && open.body !== 'none') {
      this.expectsContinue = listOf(open.headers, 'expect').includes('100-continue');
      init.body = this.bodyStream();
      init.duplex = 'half';
    }
    return new Request(url, init);
  }

  private bodyStream(): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.body = controller;
        },
        // Asked once for each chunk that somebody waits for, as the stream itself keeps none.
        pull: (controller) => {
          this.invite();
          this.wanted = true;
          this.feed(controller);
        },
        cancel: () => {
          this.body = undefined;
          for (const chunk of this.chunks.splice(0)) this.stream.consumed(chunk.length);
        },
      },
      { highWaterMark: 0 },
    );
  }

  /** The handler wants the body: a visitor that waits to be asked for it is asked, once. */
  private invite(): void {
    if (!this.expectsContinue || this.headSent || this.answered) return;
    this.expectsContinue = false;
    this.stream.head({ status: 100, headers: [], final: false });
  }

  /**
   * Hands the oldest chunk, if there is one, to whoever waits for it: that is when its credit goes
   * back. The stream is closed behind the last one and no earlier, for a stream that is closing does
   * not say any more what was taken from it.
   */
  private feed(body: ReadableStreamDefaultController<Uint8Array>): void {
    const chunk = this.chunks.shift();
    if (chunk === undefined) return;
    this.wanted = false;
    this.stream.consumed(chunk.length);
    body.enqueue(chunk);
    if (this.ended && this.chunks.length === 0) this.closeBody();
  }

  private closeBody(): void {
    const { body } = this;
    this.body = undefined;
    try {
      body?.close();
    } catch {
      // The handler has cancelled the body already.
    }
  }

  /** The exchange is over. A body that has come whole may still be read, others break with `error`. */
  private finishBody(error: unknown): void {
    const { body, ended } = this;
    for (const chunk of this.chunks.splice(0)) {
      this.stream.consumed(chunk.length);
      if (ended) body?.enqueue(chunk);
    }
    if (ended) return this.closeBody();
    this.body = undefined;
    try {
      body?.error(error);
    } catch {
      // The body has ended already.
    }
  }

  private async answer(response: Response): Promise<void> {
    const { status } = response;
    const isHead = this.open.method === 'HEAD';
    const bare = status === 204 || status === 304;
    if (this.gone) return void response.body?.cancel().catch(ignore);
    if (!isFinal(status)) throw new BadStatus(status);
    const headers: FieldList = [];
    response.headers.forEach((value, name) => headers.push([name, value]));
    const kept = decoded(response, withoutHopByHop(headers));
    checkHeaders(kept);
    const declared = contentLength(kept);
    // A body that was read before cannot be sent: taken now, that is still an error with a status.
    if (!bare) this.reader = readerOf(response);
    const begun = bare || declared !== undefined ? NOTHING : await beginningOf(this.reader);
    if (this.hasLeft()) return void this.reader?.cancel().catch(ignore);
    // What a HEAD gets for no body at all says nothing of what a GET would get.
    const known = begun.whole && !(isHead && this.reader === undefined);
    if (known) kept.push(['content-length', String(begun.length)]);
    if (!this.stream.head({ status, headers: kept, final: true })) {
      throw new RangeError('the response head is too large');
    }
    this.headSent = true;
    this.tally.status = status;
    if (bare) response.body?.cancel().catch(ignore);
    else if (isHead) this.reader?.cancel().catch(ignore);
    else await this.sendBody(begun, declared);
    if (this.hasLeft()) return;
    this.stream.end();
    this.tally.done();
  }

  private async sendBody(begun: Beginning, declared: number | undefined): Promise<void> {
    const { reader } = this;
    const left = { bytes: declared ?? Infinity };
    for (const chunk of begun.chunks) await this.sendChunk(chunk, left);
    let { next } = begun;
    while (reader !== undefined && !begun.whole && !this.gone) {
      const { done, value } = await (next ?? reader.read());
      if (done) break;
      next = undefined;
      await this.sendChunk(bytesOf(value), left);
    }
    if (declared !== undefined && left.bytes > 0 && !this.gone) {
      throw new RangeError('a body shorter than its Content-Length');
    }
  }

  private async sendChunk(bytes: Uint8Array, left: { bytes: number }): Promise<void> {
    if (this.gone) return;
    left.bytes -= bytes.length;
    if (left.bytes < 0) throw new RangeError('a body longer than its Content-Length');
    this.tally.bytesOut += bytes.length;
    if (!this.stream.write(bytes)) await this.drained();
  }

  /** Asked across waits, which the compiler does not see. */
  private hasLeft(): boolean {
    return this.gone;
  }

  private drained(): Promise<void> {
    return new Promise((resolve) => {
      this.wake = () => {
        this.wake = undefined;
        resolve();
      };
    });
  }

  /** The handler failed: the visitor learns that, and nothing about why. */
  private fail(error: unknown): void {
    if (this.headSent) this.stream.break(Code.InternalError, messageOf(error));
    else {
      const [status, text] = error instanceof BadStatus ? BAD_GATEWAY : INTERNAL_ERROR;
      answerPlain(this.stream, this.tally, status, `${status} ${text}\n`);
    }
    this.tally.done(messageOf(error));
    this.settle();
  }

  /** The answer is complete: what still comes of the request is read over. */
  private settle(): void {
    this.answered = true;
    this.finishBody(new DOMException('the response is complete', 'AbortError'));
  }
}

/** Some runtimes join the values of a field with a comma, which in a Cookie is part of a value. */
function oneCookie(headers: FieldList): FieldList {
  const cookies = allOf(headers, 'cookie');
  if (cookies.length < 2) return headers;
  const others = headers.filter(([name]) => !isNamed(name, 'cookie'));
  return [...others, ['cookie', cookies.join('; ')]];
}

/** A response whose status ends no exchange: an interim one, or the 0 of `Response.error()`. */
class BadStatus extends Error {
  override readonly name = 'BadStatus';
  constructor(status: number) {
    super(`the handler answered with status ${status}, which is no answer`);
  }
}

function isFinal(status: number): boolean {
  return Number.isInteger(status) && status >= 200 && status <= 599;
}

/** Takes the body of a response; throws when somebody else has read it, or reads it. */
function readerOf(response: Response): ReadableStreamDefaultReader<Uint8Array> | undefined {
  if (response.bodyUsed) throw new TypeError('the body of the response was used before');
  return response.body?.getReader() as ReadableStreamDefaultReader<Uint8Array> | undefined;
}

/** Nothing of a body, which nobody looked at. */
const NOTHING: Beginning = { chunks: [], length: 0, whole: false, next: undefined };

/** Shows what a handler threw, with its stack and its cause. */
function told(error: unknown, { method, url }: Request): undefined {
  console.error(`hoody-tunnel: the handler failed, at ${plain(`${method} ${url}`)}:`, error);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** A `Response` of another realm counts as well: bundlers and polyfills bring their own. */
function isResponse(value: unknown): value is Response {
  return typeof value === 'object' && value !== null && 'status' in value && 'headers' in value;
}

function ignore(): void {
  // Whoever cancels a body that has ended already gets an error that nobody needs.
}
