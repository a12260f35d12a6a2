/**
 * The events of a session: an `EventTarget` with types.
 */
import type { ExchangeReport } from '../local/report.js';
import type { TunnelError } from './errors.js';

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
  /** An exchange is over. */
  request: ExchangeReport;
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
  once?: boolean;
  signal?: AbortSignal;
}

/** An `EventTarget` that knows its events. */
export class TunnelEventTarget {
  private readonly target = new EventTarget();
  private readonly wanted = new Set<TunnelEventType>();

  /** Calls `listener` for each event of a type. */
  addEventListener<K extends TunnelEventType>(
    type: K,
    listener: TunnelListener<K>,
    options?: ListenOptions,
  ): void {
    this.wanted.add(type);
    this.target.addEventListener(type, listener as EventListener, options);
  }

  /** Stops calling `listener`. */
  removeEventListener<K extends TunnelEventType>(type: K, listener: TunnelListener<K>): void {
    this.target.removeEventListener(type, listener as EventListener);
  }

  /** Dispatches an event made elsewhere. */
  dispatchEvent(event: Event): boolean {
    return this.target.dispatchEvent(event);
  }

  /** Whether anyone ever listened for a type; saves making events that nobody sees. */
  protected wants(type: TunnelEventType): boolean {
    return this.wanted.has(type);
  }

  /** Tells the listeners of a type. */
  protected emit<K extends TunnelEventType>(type: K, detail: TunnelEventMap[K]): void {
    if (this.wants(type)) this.target.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

type EventListener = (event: Event) => void;
