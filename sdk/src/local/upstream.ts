/**
 * One visitor's request carried to the local server and its answer carried back (PROTOCOL §4).
 *
 * Request: `waiting` until there is a connection, then written as it arrives; what the server took
 * gives credit back. Response: heads, then the body where it lies in the read buffer. An answer
 * that is complete before its request leaves the rest of the request to be read over.
 */
import { Code } from '../wire/code.js';
import type { Headers, OpenHttp } from '../wire/control.js';
import type { MuxStream, StreamSink } from '../mux/stream.js';
import { bodyOf, type BodyDecoder } from './body.js';
import {
  firstOf,
  formatRequestHead,
  HeadTooLarge,
  HttpFault,
  isNamed,
  listOf,
  nameIn,
  switchesToWebSocket,
  withoutHopByHop,
  type Head,
} from './head.js';
import { HeadReader } from './head-reader.js';
import { busyPage, type Capacity } from './capacity.js';
import type { Pool } from './pool.js';
import { answerPlain, SOON, Tally, type Report } from './report.js';
import {
  isRepeatable,
  LeadsOut,
  localRequest,
  type LocalRequest,
  type RewriteFor,
} from './request.js';
import { namedOutwards } from './rewrite.js';
import type { SlotUser, Ticket } from './slots.js';
import type { LocalSocket } from './socket.js';
import type { ConnectUser, Target, Unreachable } from './target.js';
import { lastChunk } from './trailers.js';
import type { HeadLimits, Shortage } from './terms.js';
import { asksToLogIn, logsIn, originOf, visitorOf } from './visitor.js';

/** What a visitor is told where the target was named as a plain one. */
const TLS_HERE = 'This server speaks TLS: expose https://…';

/** Whether an answer begins as a record of TLS does: an alert, or a handshake. */
function isTls(buffer: Buffer, start: number, end: number): boolean {
  const type = buffer[start];
  return end - start > 1 && (type === 0x15 || type === 0x16) && buffer[start + 1] === 0x03;
}

/** The most interim heads of one response. */
const MAX_INTERIM = 16;

/** A local HTTP server. */
export interface Upstream extends RewriteFor {
  target: Target;
  pool: Pool;
  capacity: Capacity;
  /** How large its answers' heads may be. */
  heads: HeadLimits;
}

/** Starts an exchange for a stream that was just opened. */
export function serveFromUpstream(
  stream: MuxStream,
  open: OpenHttp,
  upstream: Upstream,
  report: Report,
): void {
  const tally = new Tally(open, report);
  let request: LocalRequest;
  try {
    request = localRequest(open, upstream, stream.carriesTrailers);
  } catch (error) {
    if (error instanceof LeadsOut) {
      answerPlain(
        stream,
        tally,
        400,
        '400 Bad Request\n\nThe path leads out of what is exposed.\n',
      );
      return tally.done('the path leads out of what is exposed');
    }
    const why = error instanceof Error ? error.message : String(error);
    stream.reset(Code.ProtocolError, why);
    tally.done(why);
    return;
  }
  const exchange = new HttpExchange(stream, open, request, upstream, tally);
  stream.sink = exchange;
  exchange.start();
}

class HttpExchange implements StreamSink, ConnectUser, SlotUser {
  private phase: 'head' | 'body' | 'raw' | 'over' = 'head';
  private socket: LocalSocket | undefined;
  private giveUp: (() => void) | undefined;
  /** The place that its connection takes. */
  private ticket: Ticket | undefined;
  private waiting: Buffer[] = [];
  private requestSent = false;
  private requestEnded = false;
  private left: number;
  /** What is written behind a chunked body. */
  private trailing: string | undefined;
  private reader: HeadReader;
  private interim = 0;
  private decoder: BodyDecoder | undefined;
  private reusable = false;
  /** A login that holds for the connection has gone over it, or was asked for. */
  private personal = false;
  private readonly visitor: string | undefined;

  constructor(
    private readonly stream: MuxStream,
    private readonly open: OpenHttp,
    private readonly request: LocalRequest,
    private readonly upstream: Upstream,
    private readonly tally: Tally,
  ) {
    this.reader = new HeadReader(upstream.heads);
    this.left = request.length;
    this.visitor = visitorOf(open);
  }

  start(): void {
    const ticket = this.upstream.capacity.connections.ask(originOf(this.open.remoteAddr), this);
    this.ticket = ticket;
    // It may have had its place, and its answer, at once.
    if (this.phase === 'over') ticket.leave();
  }

  turnedAway(why: Shortage): void {
    const { capacity } = this.upstream;
    capacity.turnedAway(why);
    this.complete(`no ${why} left`, 503);
    answerPlain(this.stream, this.tally, 503, busyPage(why), SOON);
  }

  seated(): void {
    const { pool } = this.upstream;
    const pooled = this.open.isUpgrade
      ? pool.takeOwn(this.visitor)
      : pool.take(isRepeatable(this.request.method), this.visitor);
    if (pooled === undefined) {
      this.giveUp = this.upstream.target.connect(this);
      return;
    }
    pooled.user = this;
    this.connected(pooled);
  }

  connected(socket: LocalSocket): void {
    this.giveUp = undefined;
    this.socket = socket;
    this.sendRequest();
  }

  unreachable(error: Unreachable): void {
    this.giveUp = undefined;
    if (error.isShort) {
      this.upstream.capacity.shed();
      this.ticket?.ranShort();
      return;
    }
    this.badGateway(
      `No local server accepted the connection. Tried: ${error.message}.`,
      `Start the server at ${this.upstream.target.shown} ` +
        'or correct the address that the tunnel was given, then try again.',
    );
  }

  // The visitor's side.

  data(chunk: Buffer): void {
    this.tally.bytesIn += chunk.length;
    if (this.phase === 'over') {
      this.stream.consumed(chunk.length);
    } else if (this.socket === undefined || !this.requestSent || this.awaitsUpgrade) {
      this.waiting.push(chunk);
      if (this.socket !== undefined && !this.requestSent) this.sendRequest();
    } else {
      this.writeBody(this.socket, chunk);
    }
  }

  trailers(fields: Headers): void {
    // Those of any other body are nobody's, and so are further ones.
    if (this.phase === 'over' || this.request.body !== 'chunked') return;
    this.trailing ??= lastChunk(fields);
  }

  end(): void {
    this.requestEnded = true;
    const { socket } = this;
    if (socket === undefined || this.phase === 'over' || this.awaitsUpgrade) return;
    if (this.requestSent) this.endBody(socket);
    else this.sendRequest();
  }

  reset(code: number, reason: string): void {
    const raw = this.phase === 'raw';
    this.phase = 'over';
    this.ticket?.leave();
    this.giveUp?.();
    if (raw) this.socket?.reset();
    else this.socket?.destroy();
    this.tally.done(reason === '' ? `reset with code ${code}` : reason);
  }

  drain(): void {
    this.socket?.resume();
  }

  connection(): string | undefined {
    // What waits here lies nowhere else.
    return this.waiting.length > 0 ? undefined : this.socket?.name;
  }

  // The local server's side.

  bytes(buffer: Buffer, start: number, end: number): void {
    try {
      if (this.phase === 'raw') this.send(buffer, start, end);
      else if (this.phase === 'body') this.onBody(buffer, start, end);
      else if (this.phase === 'head') this.onHead(buffer, start, end);
    } catch (error) {
      if (!(error instanceof HttpFault)) throw error;
      const why = error instanceof HeadTooLarge ? '' : 'is not HTTP/1.1: ';
      this.broken(`The local server's answer ${why}${error.message}.`);
    }
  }

  ended(): void {
    if (this.phase === 'over') return;
    if (this.phase === 'raw') {
      this.stream.end();
      if (this.requestEnded) this.complete();
    } else if (this.phase === 'body' && this.decoder?.endsWithConnection === true) {
      this.finish();
    } else {
      this.brokenOff();
    }
  }

  closed(error: Error | undefined): void {
    if (this.phase === 'over') return;
    if (this.phase === 'raw' && error === undefined) {
      this.stream.end();
      this.complete();
    } else {
      this.brokenOff();
    }
  }

  /** Bytes that a visitor sends before the 101 belong to what comes after it. */
  private get awaitsUpgrade(): boolean {
    return this.open.isUpgrade && this.phase !== 'raw';
  }

  private sendRequest(): void {
    const { socket, request } = this;
    if (socket === undefined) return;
    if (request.body === 'unknown') {
      if (this.waiting.length === 0 && !this.requestEnded) return;
      const chunked = this.waiting.length > 0;
      request.body = chunked ? 'chunked' : 'none';
      request.headers.push(chunked ? ['transfer-encoding', 'chunked'] : ['content-length', '0']);
    }
    this.requestSent = true;
    this.personal = socket.owner !== undefined || logsIn(request.headers);
    socket.writeText(formatRequestHead(request.method, request.target, request.headers));
    if (this.open.isUpgrade) return;
    this.flushWaiting(socket);
    if (this.requestEnded) this.endBody(socket);
  }

  private flushWaiting(socket: LocalSocket): void {
    const waiting = this.waiting;
    this.waiting = [];
    for (const chunk of waiting) {
      if (this.isOver()) this.stream.consumed(chunk.length);
      else this.writeBody(socket, chunk);
    }
  }

  private writeBody(socket: LocalSocket, chunk: Buffer): void {
    const taken = (): void => {
      this.stream.consumed(chunk.length);
    };
    if (this.phase === 'raw') {
      socket.write(chunk, taken);
    } else if (this.request.body === 'chunked') {
      socket.cork();
      socket.writeText(`${chunk.length.toString(16)}\r\n`);
      socket.write(chunk, taken);
      socket.writeText('\r\n');
      socket.uncork();
    } else if (chunk.length <= this.left) {
      this.left -= chunk.length;
      socket.write(chunk, taken);
    } else {
      this.abort(Code.ProtocolError, 'a body longer than its Content-Length');
    }
  }

  private endBody(socket: LocalSocket): void {
    if (this.phase === 'raw') {
      socket.end();
    } else if (this.request.body === 'chunked') {
      socket.writeText(this.trailing ?? lastChunk([]));
    } else if (this.left > 0) {
      this.abort(Code.ProtocolError, 'a body shorter than its Content-Length');
    }
  }

  private onHead(buffer: Buffer, start: number, end: number): void {
    if (this.reader.isUntouched && isTls(buffer, start, end)) return this.badGateway(TLS_HERE);
    let at = start;
    while (this.phase === 'head') {
      at = this.reader.feed(buffer, at, end);
      const { head } = this.reader;
      if (head === undefined) return;
      this.reader = new HeadReader(this.upstream.heads);
      this.onResponse(head);
    }
    if (at < end || this.decoder?.done === true) this.bytes(buffer, at, end);
  }

  private onResponse(head: Head): void {
    if (head.status === 101) return this.onSwitch(head);
    const final = head.status >= 200;
    if (!final && ++this.interim > MAX_INTERIM) throw new HttpFault('too many interim heads');
    const decoder = final ? bodyOf(head, this.request.method) : undefined;
    this.tally.status = head.status;
    this.personal ||= asksToLogIn(head.headers);
    const connection = listOf(head.headers, 'connection');
    const kept = withoutHopByHop(head.headers, connection);
    const announces = this.stream.carriesTrailers && decoder?.trailers !== undefined;
    if (announces && !connection.includes('trailer')) {
      kept.push(...head.headers.filter(([name]) => isNamed(name, 'trailer')));
    }
    const headers = namedOutwards(kept, this.request.names);
    if (!this.stream.head({ status: head.status, headers, final })) {
      throw new HeadTooLarge('has a head that is too large for this kit');
    }
    if (decoder === undefined) return;
    this.phase = 'body';
    // It is not sent again from here on, and an answer may last for hours.
    this.open.headers = this.request.headers = [];
    this.request.names = undefined;
    this.stream.releaseHead();
    this.decoder = decoder;
    this.reusable =
      head.minor === 1 &&
      !decoder.endsWithConnection &&
      !decoder.isAmbiguous &&
      !connection.includes('close');
    this.noteKeepAlive(head);
  }

  /** The server switched protocols: from here on both directions are raw bytes. */
  private onSwitch(head: Head): void {
    if (!this.open.isUpgrade || this.socket === undefined) {
      throw new HttpFault('a 101 that was not asked for');
    }
    if (!switchesToWebSocket(head)) {
      throw new HttpFault('a 101 that is no upgrade to WebSocket alone, named in Connection');
    }
    const connection = listOf(head.headers, 'connection');
    const headers = namedOutwards(withoutHopByHop(head.headers, connection), this.request.names);
    headers.push([nameIn(head.headers, 'Connection'), 'Upgrade']);
    headers.push([nameIn(head.headers, 'Upgrade'), 'websocket']);
    this.tally.status = 101;
    this.stream.head({ status: 101, headers, final: true });
    this.phase = 'raw';
    this.open.headers = this.request.headers = [];
    this.request.names = undefined;
    this.stream.releaseHead();
    this.flushWaiting(this.socket);
    if (this.requestEnded) this.socket.end();
  }

  private noteKeepAlive(head: Head): void {
    const hint = firstOf(head.headers, 'keep-alive');
    const seconds = hint === undefined ? null : /timeout=([0-9]{1,6})/.exec(hint);
    if (this.socket !== undefined && seconds !== null) {
      this.socket.keepMs = Math.max(0, Number(seconds[1]) * 1000 - 1000);
    }
  }

  private onBody(buffer: Buffer, start: number, end: number): void {
    const { decoder } = this;
    if (decoder === undefined) return;
    const stop = decoder.feed(buffer, start, end, (part, from, to) => {
      this.send(part, from, to);
    });
    if (!decoder.done) return;
    if (stop < end) this.reusable = false;
    this.finish();
  }

  private send(buffer: Buffer, start: number, end: number): void {
    this.tally.bytesOut += end - start;
    if (!this.stream.writeInPlace(buffer, start, end)) this.socket?.pause();
  }

  /** The response is complete. */
  private finish(): void {
    const { socket } = this;
    this.complete();
    this.socket = undefined;
    this.stream.end(this.decoder?.trailers);
    if (socket === undefined) return;
    // Without a visitor to belong to, nobody may have it.
    if (this.personal) socket.owner = this.visitor;
    const keeps = this.personal
      ? this.visitor !== undefined
      : this.decoder?.temptsToSendMore !== true;
    if (this.reusable && keeps && this.requestComplete()) {
      socket.resume();
      this.upstream.pool.put(socket);
    } else {
      socket.discard();
    }
  }

  private requestComplete(): boolean {
    if (!this.requestSent) return false;
    return this.request.body === 'chunked' ? this.requestEnded : this.left === 0;
  }

  /** The connection ended where the answer had not. */
  private brokenOff(): void {
    const { socket } = this;
    const untouched = this.phase === 'head' && this.reader.isUntouched && !this.interim;
    const whole = this.left === this.request.length && this.tally.bytesIn === 0;
    this.dropSocket();
    if (untouched && whole && socket !== undefined && socket.uses > 0) {
      // The server closed an idle connection while we sent on it: nothing was answered.
      if (isRepeatable(this.request.method)) {
        this.requestSent = false;
        this.giveUp = this.upstream.target.connect(this);
        return;
      }
    }
    const hint = untouched ? ' If it speaks TLS, expose https://…' : '';
    this.broken(`The local server closed the connection before its answer was complete.${hint}`);
  }

  private broken(text: string): void {
    if (this.phase === 'head') this.badGateway(text);
    else this.abort(Code.Cancel, text);
  }

  /** There is no answer to hand on; `hint` says what to do where that is known. */
  private badGateway(text: string, hint?: string): void {
    this.dropSocket();
    this.complete(text, 502);
    const end = hint === undefined ? '' : `\n${hint}\n`;
    answerPlain(this.stream, this.tally, 502, `502 Bad Gateway\n\n${text}\n${end}`);
  }

  private abort(code: number, reason: string): void {
    this.dropSocket();
    this.stream.break(code, reason);
    this.complete(reason);
  }

  private dropSocket(): void {
    const { socket } = this;
    this.socket = undefined;
    socket?.discard();
  }

  /** Nothing more is sent for this exchange; the rest of the request is read over. */
  private complete(error?: string, status = this.tally.status): void {
    this.phase = 'over';
    this.ticket?.leave();
    this.tally.status = status;
    const waiting = this.waiting;
    this.waiting = [];
    for (const chunk of waiting) this.stream.consumed(chunk.length);
    this.tally.done(error);
  }

  /** Asked again after a call that may have ended the exchange, which the compiler cannot see. */
  private isOver(): boolean {
    return this.phase === 'over';
  }
}
