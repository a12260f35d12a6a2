/**
 * Whether a session keeps its process alive: its sockets do, unless it was told not to.
 */

/** A connection, which keeps the process alive until it is told not to. */
interface Living {
  unref(): void;
}

/** The sockets of one session, in their order. */
export class Life {
  private sockets: WeakRef<Living>[] = [];
  private forgone = false;

  /** Whether the process may end while the session lasts. */
  get isIdle(): boolean {
    return this.forgone;
  }

  /** One more of them. */
  add(socket: Living): void {
    this.sockets = this.sockets.filter((one) => one.deref() !== undefined);
    this.sockets.push(new WeakRef(socket));
    if (this.forgone) socket.unref();
  }

  /** From now on none of them keeps the process alive. */
  unref(): void {
    this.forgone = true;
    for (const socket of this.sockets) socket.deref()?.unref();
  }
}
