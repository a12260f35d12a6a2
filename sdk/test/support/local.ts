/**
 * Local servers for tests, on raw TCP so that a test decides about every octet.
 */
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';

export interface LocalServer {
  port: number;
  /** Connections accepted so far. */
  accepted: number;
  readonly open: Set<net.Socket>;
  stop(): Promise<void>;
}

/** Listens on loopback and gives each connection to `serve`. */
export async function listen(
  serve: (socket: net.Socket) => void,
  host = '127.0.0.1',
  port = 0,
): Promise<LocalServer> {
  const open = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    local.accepted += 1;
    open.add(socket);
    socket.on('close', () => open.delete(socket));
    socket.on('error', () => undefined);
    serve(socket);
  });
  const local: LocalServer = {
    port: 0,
    accepted: 0,
    open,
    stop: async () => {
      for (const socket of open) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
  server.listen(port, host);
  await once(server, 'listening');
  local.port = (server.address() as net.AddressInfo).port;
  return local;
}

/** A server that answers every request head with fixed octets, and notes the heads. */
export async function answering(
  answer: string | ((head: string, count: number) => string),
): Promise<LocalServer & { heads: string[] }> {
  const heads: string[] = [];
  const server = await listen((socket) => {
    let pending = '';
    socket.on('data', (chunk) => {
      pending += chunk.toString('latin1');
      for (;;) {
        const end = pending.indexOf('\r\n\r\n');
        if (end < 0) return;
        const head = pending.slice(0, end);
        const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
        if (pending.length < end + 4 + length) return;
        heads.push(head);
        pending = pending.slice(end + 4 + length);
        const text = typeof answer === 'string' ? answer : answer(head, heads.length);
        socket.write(text, 'latin1');
      }
    });
    socket.on('end', () => socket.end());
  });
  return Object.assign(server, { heads });
}

/** A port where nothing listens, of those that the system gives to nobody who asks for any. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(10_000, 19_000);
    try {
      const server = await listen(() => undefined, '127.0.0.1', port);
      await server.stop();
      return port;
    } catch (error) {
      if ((error as { code?: string }).code !== 'EADDRINUSE') throw error;
    }
  }
}

/** Waits until somebody listens on a loopback port. */
export async function listening(port: number): Promise<void> {
  for (let tries = 0; ; tries += 1) {
    const socket = net.connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return;
    } catch (error) {
      if (tries > 200) throw error;
      await later(20);
    } finally {
      socket.destroy();
    }
  }
}

export function later(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until something is true; the test runner's time-out is what fails it. */
export async function until(what: () => boolean): Promise<void> {
  while (!what()) await later(2);
}
