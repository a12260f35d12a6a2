/**
 * A wire between a client and a kit that is cut again and again while both are at work.
 */
import net from 'node:net';
import { once } from 'node:events';
import { later } from './local.js';

/** How a connection ends: torn, closed in order, or silent for a while and then as if nothing was. */
export type Cut = 'rst' | 'fin' | 'silence';

type Pair = readonly [near: net.Socket, far: net.Socket];

/** See the module. */
export class Cutter {
  cuts = 0;
  private readonly pairs = new Set<Pair>();
  private readonly server: net.Server;

  constructor(kitPort: number) {
    this.server = net.createServer((near) => {
      const far = net.connect(kitPort, '127.0.0.1');
      const pair = [near, far] as const;
      this.pairs.add(pair);
      for (const [from, to] of [pair, [far, near] as const]) {
        from.setNoDelay(true);
        from.on('error', () => undefined);
        from.on('close', () => {
          this.pairs.delete(pair);
          to.destroy();
        });
        from.pipe(to);
      }
    });
  }

  async start(): Promise<string> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return `ws://127.0.0.1:${(this.server.address() as net.AddressInfo).port}`;
  }

  get size(): number {
    return this.pairs.size;
  }

  /** Cuts the connection that came as the `nth` of those that stand. */
  async cut(nth: number, how: Cut, silenceMs: number): Promise<void> {
    const pair = [...this.pairs][nth % this.pairs.size];
    if (pair === undefined) return;
    this.cuts += 1;
    for (const socket of pair) {
      if (how === 'rst') socket.resetAndDestroy();
      else if (how === 'fin') socket.end();
      else {
        socket.unpipe();
        socket.pause();
      }
    }
    if (how !== 'silence') return;
    await later(silenceMs);
    const [near, far] = pair;
    if (near.destroyed || far.destroyed) return;
    near.pipe(far);
    far.pipe(near);
  }

  stop(): void {
    for (const sockets of this.pairs) for (const socket of sockets) socket.destroy();
    this.server.close();
  }
}
