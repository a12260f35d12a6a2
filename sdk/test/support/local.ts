/**
 * Local servers for tests, on raw TCP so that a test decides about every octet.
 */
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import type { TunnelSession } from '../../src/index.js';
import type { FixtureKit } from './kit.js';

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

/**
 * A port where nothing listens, of those that the system gives to nobody who asks for any, and that
 * no other test picks: neither those of the Rust half, which take lower ones, nor the SDK's own.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(20_000, 30_000);
    if ((await isReserved(port)) && (await isFree(port))) return port;
  }
}

const reserved = new Map<number, net.Server | undefined>();

/**
 * Reserves a port until this process ends. A name in the system's abstract namespace stands for it,
 * so that no other process picks the port while its user is not listening yet, or any more.
 */
async function isReserved(port: number): Promise<boolean> {
  if (reserved.has(port)) return false;
  let holder: net.Server | undefined;
  // Elsewhere two test processes at the same time are not promised to live together.
  if (process.platform === 'linux') {
    holder = net.createServer().unref();
    if (!(await hasBound(holder, { path: `\0hoody-test-port-${port}` }))) return false;
  }
  reserved.set(port, holder);
  return true;
}

async function isFree(port: number): Promise<boolean> {
  const server = net.createServer();
  if (!(await hasBound(server, { host: '0.0.0.0', port }))) return false;
  server.close();
  await once(server, 'close');
  return true;
}

async function hasBound(server: net.Server, where: net.ListenOptions): Promise<boolean> {
  try {
    server.listen(where);
    await once(server, 'listening');
    return true;
  } catch (error) {
    if ((error as { code?: string }).code !== 'EADDRINUSE') throw error;
    return false;
  }
}

/** How long anything may take that a test waits for, in milliseconds: far more than it does take. */
export const PATIENCE_MS = 60_000;

/** Tries until it succeeds; throws what went wrong last when that takes longer than is believable. */
export async function eventually<T>(what: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await what();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await later(20);
    }
  }
}

/** Waits until somebody listens on a loopback port. */
export async function listening(port: number): Promise<void> {
  await eventually(async () => {
    const socket = net.connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
    } finally {
      socket.destroy();
    }
  });
}

export function later(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until something is true; the test runner's time-out is what fails it. */
export async function until(what: () => boolean): Promise<void> {
  while (!what()) await later(2);
}

/** Waits until nothing is on its way, and all credit is where it was at the beginning. */
export async function wholeWindows(kit: FixtureKit, session: TunnelSession): Promise<void> {
  await until(() => session['link']?.mux.size === 0);
  const mux = session['link']!.mux;
  await until(() => mux.sendCredit.outstanding === 0);
  await until(() => mux['recvCredit'].available + mux['recvCredit'].withheld === 16_777_216);
  await until(() => kit.session.sendCredit + mux['recvCredit'].withheld === 16_777_216);
}
