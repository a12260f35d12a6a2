/**
 * A wire between a client and a kit that tests can cut.
 */
import { once } from 'node:events';
import net from 'node:net';

/** A wire between client and kit that breaks after so many bytes of either direction. */
export class Wire {
  up = Infinity;
  down = Infinity;
  cuts = 0;
  private readonly pairs = new Set<net.Socket>();
  /** Those that came, the first one first. */
  private readonly connections: [near: net.Socket, far: net.Socket][] = [];
  private readonly server: net.Server;

  constructor(kitPort: number) {
    this.server = net.createServer((near) => {
      const far = net.connect(kitPort, '127.0.0.1');
      this.connections.push([near, far]);
      this.carry(near, far, 'up');
      this.carry(far, near, 'down');
    });
  }

  async start(): Promise<string> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    return `ws://127.0.0.1:${(this.server.address() as net.AddressInfo).port}`;
  }

  /** How many connections came. */
  get came(): number {
    return this.connections.length;
  }

  /** Nothing passes on a connection any more, and neither end is told. */
  freeze(index: number): void {
    for (const socket of this.connections[index] ?? []) socket.pause();
  }

  stop(): void {
    for (const socket of this.pairs) socket.destroy();
    this.server.close();
  }

  private carry(from: net.Socket, to: net.Socket, way: 'up' | 'down'): void {
    this.pairs.add(from);
    from.on('error', () => undefined);
    from.on('close', () => to.destroy());
    from.on('data', (part) => {
      const rest = this[way];
      to.write(part.subarray(0, rest));
      this[way] -= part.length;
      if (part.length < rest) return;
      this.up = Infinity;
      this.down = Infinity;
      this.cuts += 1;
      to.end();
      from.destroy();
    });
  }
}
