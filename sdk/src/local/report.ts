/**
 * What is told about an exchange when it is over, and the pages that we answer with ourselves.
 */
import { performance } from 'node:perf_hooks';
import type { Headers, OpenHttp, OpenTcp } from '../wire/control.js';
import type { MuxStream } from '../mux/stream.js';
import { plain } from '../wire/text.js';
import type { ExchangeReport } from './terms.js';

/** Gets the reports; undefined when nobody listens. */
export type Report = ((report: ExchangeReport) => void) | undefined;

/** The longest target that is told. */
const MAX_TARGET = 8192;

/** Counts one exchange. */
export class Tally {
  status = 0;
  bytesIn = 0;
  bytesOut = 0;
  private readonly startedAt: number;

  constructor(
    private readonly open: OpenHttp | OpenTcp,
    private report: Report,
  ) {
    this.startedAt = report === undefined ? 0 : performance.now();
  }

  /** Whether the answer has no body whatever its head says. */
  get isHead(): boolean {
    return this.open.kind === 'http' && this.open.method === 'HEAD';
  }

  /** The exchange is over; only the first call counts. */
  done(error?: string): void {
    const report = this.report;
    if (report === undefined) return;
    this.report = undefined;
    const { open } = this;
    report({
      kind: open.kind,
      bindId: open.bindId,
      containerPort: open.containerPort,
      remoteAddr: open.remoteAddr === undefined ? undefined : plain(open.remoteAddr),
      method: open.kind === 'http' ? plain(open.method) : '',
      target: open.kind === 'http' ? plain(open.target, MAX_TARGET) : '',
      status: this.status,
      bytesIn: this.bytesIn,
      bytesOut: this.bytesOut,
      durationMs: performance.now() - this.startedAt,
      error: error === undefined ? undefined : plain(error),
    });
  }
}

/** What tells a visitor to come back soon. */
export const SOON: Headers = [['retry-after', '1']];

/** Answers with a short text of our own and ends our side. */
export function answerPlain(
  stream: MuxStream,
  tally: Tally,
  status: number,
  text: string,
  more: Headers = [],
): void {
  const body = Buffer.from(text, 'utf8');
  tally.status = status;
  stream.head({
    status,
    headers: [
      ['content-type', 'text/plain; charset=utf-8'],
      ['content-length', String(body.length)],
      ['cache-control', 'no-store'],
      ...more,
    ],
    final: true,
  });
  if (!tally.isHead) {
    tally.bytesOut += body.length;
    stream.write(body);
  }
  stream.end();
}
