/**
 * A stream that the fixture kit opened, as its visitor or caller sees it.
 */
import { EventEmitter, once } from 'node:events';
import type { Headers, ResponseHead } from '../../src/wire/control.js';
import { encodeReset, FrameType } from '../../src/wire/frame.js';
import { HeadParts } from '../../src/wire/parts.js';
import type { KitSession } from './kit.js';

/** A stream that the kit opened. */
export class KitStream {
  readonly heads: ResponseHead[] = [];
  /** What came ahead of the next head. */
  parts = new HeadParts();
  readonly chunks: Buffer[] = [];
  /** How many bytes had come when trailers did, and they. */
  readonly trailers: [number, Headers][] = [];
  received = 0;
  ended = false;
  reset: { code: number; reason: string } | undefined;
  sendCredit: number;
  windows = 0;
  readonly changed = new EventEmitter();

  constructor(
    readonly session: KitSession,
    readonly id: number,
    readonly lane: number,
  ) {
    this.sendCredit = session.kit.streamWindow;
    this.changed.setMaxListeners(0);
  }

  onHead(head: ResponseHead): void {
    this.heads.push({ ...head, headers: this.parts.before(head.headers) });
    this.parts = new HeadParts();
  }

  send(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += 65_536) {
      const part = bytes.subarray(at, at + 65_536);
      this.sendCredit -= part.length;
      this.session.sendCredit -= part.length;
      this.session.carried(this.lane).sentData += part.length;
      this.session.send(FrameType.Data, this.id, part, this.lane);
    }
  }

  /** Sends as credit allows. */
  async pour(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const room = Math.min(this.sendCredit, this.session.sendCredit, bytes.length - at, 65_536);
      if (room > 0) {
        this.send(bytes.subarray(at, at + room));
        at += room;
      }
      await new Promise((resolve) => setImmediate(resolve));
      if (this.reset !== undefined) return;
    }
  }

  end(): void {
    this.session.send(FrameType.Eof, this.id, Buffer.alloc(0), this.lane);
  }

  abort(code: number, reason = ''): void {
    this.session.send(FrameType.Reset, this.id, encodeReset(code, reason), this.lane);
  }

  giveBack(bytes: number): void {
    this.session.window(this.id, bytes, this.lane);
    this.session.window(0, bytes, 0);
  }

  async until(what: () => boolean): Promise<void> {
    while (!what()) await once(this.changed, 'change');
  }

  async head(): Promise<ResponseHead> {
    await this.until(() => this.reset !== undefined || this.heads.some((head) => head.final));
    const final = this.heads.find((head) => head.final);
    if (final === undefined) throw new Error(`reset: ${this.reset?.reason ?? ''}`);
    return final;
  }

  async body(): Promise<Buffer> {
    await this.until(() => this.ended || this.reset !== undefined);
    if (this.reset !== undefined) throw new Error(`reset: ${this.reset.reason}`);
    return Buffer.concat(this.chunks);
  }

  async text(): Promise<string> {
    return (await this.body()).toString();
  }
}
