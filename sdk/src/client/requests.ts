/**
 * BIND and UNBIND that wait for the kit's answer (PROTOCOL §3). They outlive a lost connection:
 * what was not answered is asked again.
 */
import { readBindId, readBindOk, readRefusal } from '../wire/control.js';
import type { Bind, BindErr, BindOk } from '../wire/control.js';
import { FrameType, type Frame } from '../wire/frame.js';
import { onAbort } from './abort.js';
import { BindError, TunnelTimeoutError } from './errors.js';
import type { CheckedBind } from './options.js';

/** What BIND asks for; `replaces` names the session that may hold the port parked. */
export type BindAsk = CheckedBind & { replaces?: string | undefined };

/** A BIND that waits. */
interface PendingBind {
  options: BindAsk;
  granted: (ok: BindOk) => void;
  reject: (error: unknown) => void;
  /** The caller gave up: a grant that still comes is given back. */
  abandoned: boolean;
}

/** What waits for an answer. */
export class Requests {
  private readonly binds = new Map<number, PendingBind>();
  private readonly unbinds = new Map<number, () => void>();
  private next = 1;

  constructor(private readonly timeoutMs: number) {}

  /**
   * Notes a BIND and says it with `send`. `take` enters the grant in the turn in which it comes,
   * for visitors may follow in the same message.
   */
  bind<T>(
    options: BindAsk,
    signal: AbortSignal | undefined,
    take: (ok: BindOk) => T,
    send: (bind: Bind) => void,
  ): Promise<T> {
    signal?.throwIfAborted();
    return new Promise<T>((resolve, reject) => {
      const ref = this.next++;
      const off = (): void => {
        clearTimeout(timer);
        stop();
      };
      const pending: PendingBind = {
        options,
        abandoned: false,
        granted: (ok) => {
          off();
          resolve(take(ok));
        },
        reject: (error) => {
          off();
          reject(error);
        },
      };
      const abandon = (error: unknown): void => {
        pending.abandoned = true;
        pending.reject(error);
      };
      const aborted = (): void => abandon(signal?.reason);
      const timer = setTimeout(() => {
        abandon(new TunnelTimeoutError('BIND', this.timeoutMs));
      }, this.timeoutMs);
      const stop = onAbort(signal, aborted);
      this.binds.set(ref, pending);
      send(bindFrame(ref, options));
    });
  }

  /** By which the next BIND is known. */
  get nextRef(): number {
    return this.next;
  }

  /** The session is that of another object, to whose BINDs an answer may still come. */
  goOnFrom(nextRef: number): void {
    this.next = Math.max(this.next, nextRef);
  }

  /** Notes an UNBIND; resolves when the kit answered, or did not in time. */
  unbind(bindId: number, send: () => void): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.unbinds.delete(bindId);
        resolve();
      };
      const timer = setTimeout(done, this.timeoutMs);
      this.unbinds.set(bindId, done);
      send();
    });
  }

  /** Takes an answer of the kit; returns the id of a grant that nobody wants any more. */
  take({ type, payload }: Frame): number | undefined {
    if (type === FrameType.BindOk) {
      const ok = readBindOk(payload);
      return this.granted(ok) ? undefined : ok.bindId;
    }
    if (type === FrameType.BindErr) this.refused(readRefusal(payload, 'BIND_ERR'));
    if (type === FrameType.UnbindOk) this.unbound(readBindId(payload, 'UNBIND_OK').bindId);
    if (type === FrameType.UnbindErr) {
      this.unbound(readRefusal(payload, 'UNBIND_ERR').bindId ?? -1);
    }
    return undefined;
  }

  /** BIND_OK came; false when nobody wants the grant any more. */
  private granted(ok: BindOk): boolean {
    const pending = this.binds.get(ok.clientBindRef);
    this.binds.delete(ok.clientBindRef);
    if (pending === undefined || pending.abandoned) return false;
    pending.granted(ok);
    return true;
  }

  /** BIND_ERR came. */
  private refused(err: BindErr): void {
    const pending = this.binds.get(err.clientBindRef ?? 0);
    this.binds.delete(err.clientBindRef ?? 0);
    pending?.reject(new BindError(err.code, err.message));
  }

  /** UNBIND_OK or UNBIND_ERR came: the binding is gone either way. */
  private unbound(bindId: number): void {
    this.unbinds.get(bindId)?.();
  }

  /** A new connection: every BIND that still waits is said again. */
  repeat(send: (bind: Bind) => void): void {
    for (const done of [...this.unbinds.values()]) done();
    for (const [ref, { options, abandoned }] of [...this.binds]) {
      if (abandoned) this.binds.delete(ref);
      else send(bindFrame(ref, options));
    }
  }

  /** The session is over; `error` is for whoever waits. */
  fail(error: unknown): void {
    for (const done of [...this.unbinds.values()]) done();
    for (const { reject } of this.binds.values()) reject(error);
    this.binds.clear();
  }
}

function bindFrame(ref: number, options: BindAsk): Bind {
  const frame: Bind = {
    clientBindRef: ref,
    kind: options.kind,
    mode: options.mode,
    containerPort: options.containerPort,
  };
  if (options.label !== undefined) frame.label = options.label;
  if (options.takeover) frame.takeover = true;
  if (options.host !== undefined) frame.host = options.host;
  if (options.replaces !== undefined) frame.replaces = options.replaces;
  return frame;
}
