/**
 * The events of a session: an `EventTarget` with types.
 */
import type { ForwardFailure, TunnelError } from './errors.js';
import type { BindKind, BindMode } from '../wire/terms.js';
import type { ExchangeReport, Overload } from '../local/terms.js';

/** What each event carries as its `detail`. */
export interface TunnelEventMap {
  /** A new session is up. */
  online: { sessionId: string };
  /** The connection was lost; `retrying` says whether it is dialled again. */
  lost: { reason: string; retrying: boolean };
  /** A lost session is back. `fresh`: the kit had forgotten it, so the ports were bound anew. */
  resumed: { sessionId: string; fresh: boolean; afterMs: number };
  /** Another session took a port over. */
  takenOver: { bindId: number; containerPort: number; reason: string };
  /** A port was refused when the session had to bind it anew; it is asked for again then. */
  bindRefused: {
    containerPort: number;
    kind: BindKind;
    mode: BindMode;
    code: string;
    message: string;
    retryMs: number;
  };
  /** A connection that came to a forward did not reach its target; it was reset. */
  forwardFailed: {
    target: string;
    localPort: number;
    /** Who connected. */
    remoteAddr: string;
    reason: ForwardFailure;
    message: string;
  };
  /** The state could not be written: another process will not find the ports. */
  unsaved: { message: string };
  /** An exchange is over. */
  request: ExchangeReport;
  /** Visitors got a 503, for this machine had no place for them; told once a second at the most. */
  overloaded: Overload;
  /** The session is over; `error` says why, and is undefined when it was asked to close. */
  closed: { error: TunnelError | undefined };
}

/** The names of the events. */
export type TunnelEventType = keyof TunnelEventMap;

/** An event of a session. */
export type TunnelEvent<K extends TunnelEventType> = CustomEvent<TunnelEventMap[K]>;

/** What is called for an event. */
export type TunnelListener<K extends TunnelEventType> = (event: TunnelEvent<K>) => void;

/** Options of `addEventListener`. */
export interface ListenOptions {
  once?: boolean | undefined;
  signal?: AbortSignal | undefined;
}

/** What a plain `EventTarget` takes; its names differ between the runtimes' declarations. */
export type Listen = Parameters<EventTarget['addEventListener']>;
type Unlisten = Parameters<EventTarget['removeEventListener']>;

/** An `EventTarget` that knows its events. */
export class TunnelEventTarget extends EventTarget {
  private readonly wanted = new Set<string>();
  private hasClosed = false;

  /** Calls `listener` for each event of a type. */
  override addEventListener<K extends TunnelEventType>(
    type: K,
    listener: TunnelListener<K>,
    options?: ListenOptions,
  ): void;
  override addEventListener(...listen: Listen): void;
  override addEventListener(...listen: unknown[]): void {
    this.wanted.add(String(listen[0]));
    super.addEventListener(...(listen as Listen));
  }

  /** Stops calling `listener`. */
  override removeEventListener<K extends TunnelEventType>(
    type: K,
    listener: TunnelListener<K>,
  ): void;
  override removeEventListener(...unlisten: Unlisten): void;
  override removeEventListener(...unlisten: unknown[]): void {
    super.removeEventListener(...(unlisten as Unlisten));
  }

  /** Whether anyone ever listened for a type; saves making events that nobody sees. */
  protected wants(type: TunnelEventType): boolean {
    return this.wanted.has(type);
  }

  /** Tells the listeners of a type; `closed` is the last that is told. */
  protected emit<K extends TunnelEventType>(type: K, detail: TunnelEventMap[K]): void {
    if (this.hasClosed) return;
    this.hasClosed = type === 'closed';
    if (this.wants(type)) this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
