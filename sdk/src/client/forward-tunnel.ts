/**
 * The one-call form of a forward: one port of this machine.
 */
import type { Forward } from './forward.js';
import { OneCall } from './one-call.js';

/** A port of this machine that leads into the container's network. */
export class ForwardTunnel extends OneCall<Forward> {
  /** What it reaches. */
  get target(): string {
    return this.thing.target;
  }

  /** The address it listens at. */
  get localHost(): string {
    return this.thing.localHost;
  }

  /** The port it listens at. */
  get localPort(): number {
    return this.thing.localPort;
  }

  protected override isAbout(detail: object): boolean {
    const { bindId, containerPort, localPort, target } = detail as Record<string, unknown>;
    if (localPort !== undefined) return localPort === this.localPort;
    if (target !== undefined && target !== this.target) return false;
    return bindId === undefined && containerPort === undefined;
  }
}
