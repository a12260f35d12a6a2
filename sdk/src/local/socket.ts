/**
 * A TCP connection to the local server.
 *
 * All connections read into one buffer, since a read is handed on before the next one happens. The
 * bytes before the read are free, so that a frame header fits there and bulk need not be copied.
 * Half-close is kept in both directions. A server may answer and leave while it is still written to:
 * that a write failed ends nothing before all that it had sent was read.
 */
import net from 'node:net';
import tls from 'node:tls';
import type { Duplex } from 'node:stream';
import { HEADER_BYTES } from '../wire/frame.js';
import type { UpstreamTrust } from './terms.js';
import { connectionOf } from './unread.js';

/** Bytes of one read: with its headers it fills one segment of a loopback, and no second one. */
const READ_BYTES = 65_408;

const scratch = Buffer.allocUnsafeSlow(HEADER_BYTES + READ_BYTES);
const window = scratch.subarray(HEADER_BYTES);

/** Who a connection tells what happens. */
export interface SocketUser {
  /** `buffer[start..end]` arrived; it is valid until this returns. */
  bytes(buffer: Buffer, start: number, end: number): void;
  /** The server sent FIN. */
  ended(): void;
  /** The connection is gone; told once, also after `destroy`. */
  closed(error: Error | undefined): void;
}

type Ca = UpstreamTrust['ca'];

/** Gets the outcome of a write. */
type Written = Parameters<Duplex['_write']>[2];

/**
 * A connection whose reading goes on when the other end takes no more. The runtime would close it at
 * the first write that fails, and the answer that lies in the system with it.
 */
class Conn extends net.Socket {
  /** Why the other end takes no more; what is written from then on is dropped. */
  refusal: NodeJS.ErrnoException | undefined;

  override _write(chunk: unknown, encoding: BufferEncoding, written: Written): void {
    if (this.refusal !== undefined) written();
    else super._write(chunk, encoding, this.outliving(written));
  }

  override _writev(chunks: { chunk: unknown; encoding: BufferEncoding }[], written: Written): void {
    if (this.refusal !== undefined) written();
    else super._writev?.(chunks, this.outliving(written));
  }

  private outliving(written: Written): Written {
    return (error) => {
      if (error == null || !isRefusal(error) || this.readableEnded) return written(error);
      this.refusal = error;
      written();
    };
  }
}

/** Whether an error says that the other end has left; what it sent before can then be read to its end. */
function isRefusal(error: NodeJS.ErrnoException): boolean {
  return error.code === 'EPIPE' || error.code === 'ECONNRESET';
}

/** How to get to a local server. */
export type Way =
  | { path: string }
  | { host: string; port: number; tls: (Partial<UpstreamTrust> & { name: string }) | undefined };

/** A connection that came to us. */
interface Accepted {
  accepted: net.Socket;
}

/** Loopback: whoever answers there is on this machine. */
const LOOPBACK = /^(?:127\.|::1$|::ffff:127\.)/i;

/** A connection to a local server. */
export class LocalSocket {
  /** Told what happens; changes hands when a pooled connection is used again. */
  user: SocketUser = NOBODY;
  /** Requests this connection has answered before. */
  uses = 0;
  /** The visitor's connection that has logged in on this one; nobody else may use it. */
  owner: string | undefined;
  /** When it was last put back in its pool, in milliseconds. */
  idleSince = 0;
  /** How long the server said it keeps an idle connection, in milliseconds. */
  keepMs = Infinity;
  private error: Error | undefined;
  private readonly socket: net.Socket | tls.TLSSocket;

  /**
   * Starts to connect; `connected` is told when the server accepted, `user.closed` otherwise. One that
   * we accepted is connected.
   */
  constructor(way: Way | Accepted, timeoutMs = 0, connected = ignore) {
    const secure = 'tls' in way ? way.tls : undefined;
    this.socket = this.begin(way);
    const late = (): void => {
      this.socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' }));
    };
    const timer = 'accepted' in way ? undefined : setTimeout(late, timeoutMs);
    this.socket.on(secure === undefined ? 'connect' : 'secureConnect', () => {
      clearTimeout(timer);
      const distrust = secure === undefined ? undefined : this.distrust(secure);
      if (distrust === undefined) connected();
      else this.socket.destroy(distrust);
    });
    this.socket.on('end', () => {
      const { refusal } = this;
      // A connection that was reset ends like this too, once the system has told of it in a write;
      // after a FIN that is a broken pipe.
      if (refusal?.code !== 'ECONNRESET') this.user.ended();
      if (refusal !== undefined) this.socket.destroy(refusal);
    });
    this.socket.on('error', (error: Error) => {
      this.error = error;
    });
    this.socket.on('close', () => {
      clearTimeout(timer);
      const user = this.user;
      this.user = NOBODY;
      user.closed(this.error);
    });
  }

  private begin(way: Way | Accepted): net.Socket | tls.TLSSocket {
    if ('accepted' in way) return this.readsCopies(way.accepted);
    return 'tls' in way && way.tls !== undefined ? this.secure(way, way.tls) : this.plain(way);
  }

  private plain(way: Way): Conn {
    const onread: net.OnReadOpts = {
      buffer: window,
      callback: (count) => {
        this.user.bytes(scratch, HEADER_BYTES, HEADER_BYTES + count);
        return true;
      },
    };
    // What the constructor takes is not all in its type.
    const options = { allowHalfOpen: true, noDelay: true, onread };
    const socket = new Conn(options);
    socket.connect('path' in way ? { path: way.path } : { ...way, noDelay: true });
    return socket;
  }

  private secure(
    way: { host: string; port: number },
    { name, ca }: { name: string; ca?: Ca },
  ): tls.TLSSocket {
    // Half-open is missing in its type.
    const options: tls.ConnectionOptions & { allowHalfOpen: boolean } = {
      host: way.host,
      port: way.port,
      // An address is no name to ask a server for.
      servername: net.isIP(name) === 0 ? name : '',
      ca,
      ALPNProtocols: ['http/1.1'],
      allowHalfOpen: true,
      // It is judged when it is known where it came from.
      rejectUnauthorized: false,
    };
    return this.readsCopies(tls.connect(options));
  }

  /** A connection whose reads come in buffers of their own, none of which has room for a header. */
  private readsCopies<S extends net.Socket>(socket: S): S {
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      for (let at = 0; at < chunk.length; at += READ_BYTES) {
        const count = chunk.copy(scratch, HEADER_BYTES, at, at + READ_BYTES);
        this.user.bytes(scratch, HEADER_BYTES, HEADER_BYTES + count);
      }
    });
    return socket;
  }

  /** Why the certificate does not do; on this machine any does, unless an authority was named. */
  private distrust({ ca, insecure }: Partial<UpstreamTrust>): Error | undefined {
    const socket = this.socket as tls.TLSSocket;
    const isHere = ca === undefined && LOOPBACK.test(socket.remoteAddress ?? '');
    if (socket.authorized || insecure === true || isHere) return undefined;
    const why: unknown = socket.authorizationError;
    const code = String((why as { code?: unknown } | null)?.code ?? why);
    return new Error(
      `its certificate is not trusted (${code}): give upstreamCa, or upstreamInsecure: true`,
    );
  }

  private get refusal(): NodeJS.ErrnoException | undefined {
    return this.socket instanceof Conn ? this.socket.refusal : undefined;
  }

  /** Sends octets of a head, which are Latin-1. */
  writeText(text: string): void {
    this.socket.write(text, 'latin1');
  }

  /** Sends bytes; `done` is called when the kernel took them, or will never take them. */
  write(chunk: Uint8Array, done: () => void): void {
    this.socket.write(chunk, done);
  }

  /** Gathers writes until `uncork`. */
  cork(): void {
    this.socket.cork();
  }

  /** Sends what was gathered. */
  uncork(): void {
    this.socket.uncork();
  }

  /** Stops reading: nothing arrives until `resume`. */
  pause(): void {
    this.socket.pause();
  }

  /** Reads again. */
  resume(): void {
    this.socket.resume();
  }

  /** Sends FIN after what was written. */
  end(): void {
    this.socket.end();
  }

  /** Closes at once, and tells nobody. */
  discard(): void {
    this.user = NOBODY;
    this.socket.destroy();
  }

  /** Closes at once. */
  destroy(): void {
    this.socket.destroy();
  }

  /** Closes at once with RST, so that the server sees a broken connection and not an end. */
  reset(): void {
    // Only TCP has one; without a notice of its end, TLS shows as much.
    const isTls = this.socket instanceof tls.TLSSocket;
    const canReset = !isTls && this.socket.remotePort !== undefined;
    if (this.socket.connecting || !canReset) this.socket.destroy();
    else this.socket.resetAndDestroy();
  }

  /** What the system calls this connection, once there is one. */
  get name(): string | undefined {
    const { localPort, remotePort } = this.socket;
    if (localPort === undefined || remotePort === undefined) return undefined;
    return connectionOf(localPort, remotePort);
  }

  /** Whether a request may be sent. */
  get usable(): boolean {
    const { writable, readableEnded, destroyed } = this.socket;
    return writable && !readableEnded && !destroyed && this.refusal === undefined;
  }
}

function ignore(): void {
  // One that we accepted is there already.
}

const NOBODY: SocketUser = {
  bytes() {
    // Bytes after the last answer belong to nobody.
  },
  ended() {
    // The close that follows is what counts.
  },
  closed() {
    // Nobody waits for it.
  },
};
