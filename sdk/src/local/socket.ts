/**
 * A TCP connection to the local server.
 *
 * All connections read into one buffer, since a read is handed on before the next one happens. The
 * bytes before the read are free, so that a frame header fits there and bulk need not be copied.
 * Half-close is kept in both directions. A server may answer and leave while it is still written to:
 * that a write failed ends nothing before all that it had sent was read.
 */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { HEADER_BYTES } from '../wire/frame.js';
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
  private readonly socket: Conn;

  /** Starts to connect; `connected` is told when the server accepted, `user.closed` otherwise. */
  constructor(host: string, port: number, timeoutMs: number, connected: () => void) {
    const onread: net.OnReadOpts = {
      buffer: window,
      callback: (count) => {
        this.user.bytes(scratch, HEADER_BYTES, HEADER_BYTES + count);
        return true;
      },
    };
    // What the constructor takes is not all in its type.
    const options = { allowHalfOpen: true, noDelay: true, onread };
    this.socket = new Conn(options);
    this.socket.connect({ host, port, noDelay: true });
    const timer = setTimeout(() => {
      this.socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' }));
    }, timeoutMs);
    this.socket.on('connect', () => {
      clearTimeout(timer);
      connected();
    });
    this.socket.on('end', () => {
      const { refusal } = this.socket;
      // A connection that was reset ends like this too, once the system has told of it in a write;
      // after a FIN that is a broken pipe.
      if (refusal?.code !== 'ECONNRESET') this.user.ended();
      if (refusal !== undefined) this.socket.destroy(refusal);
    });
    this.socket.on('error', (error) => {
      this.error = error;
    });
    this.socket.on('close', () => {
      clearTimeout(timer);
      const user = this.user;
      this.user = NOBODY;
      user.closed(this.error);
    });
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
    if (this.socket.connecting) this.socket.destroy();
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
    const { writable, readableEnded, destroyed, refusal } = this.socket;
    return writable && !readableEnded && !destroyed && refusal === undefined;
  }
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
