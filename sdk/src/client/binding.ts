/**
 * A port in the container that is ours, and where its traffic goes on this machine. It outlives
 * the connection: after a resume, or a fresh session, the same object goes on.
 */
import { Code } from '../wire/code.js';
import type { BindOk, StreamOpen } from '../wire/control.js';
import type { MuxStream } from '../mux/stream.js';
import { readTarget } from '../local/address.js';
import type { Capacity } from '../local/capacity.js';
import type { HeadLimits } from '../local/terms.js';
import { Pool } from '../local/pool.js';
import { greeting } from '../local/greeting.js';
import { relayToTarget } from '../local/relay.js';
import { hostFor } from '../local/request.js';
import type { Report } from '../local/report.js';
import { serveFromHandler } from '../local/serve.js';
import { Target } from '../local/target.js';
import { serveFromUpstream, type Upstream } from '../local/upstream.js';
import type { CheckedBind } from './options.js';
import type { KeptBinding } from './state.js';
import type { BindKind, BindMode } from '../wire/terms.js';

/** @internal What a binding asks of its session. */
export interface BindingOwner {
  /** What all bindings of the session share. */
  readonly capacity: Capacity;
  /** How large the heads of local servers' answers may be. */
  readonly heads: HeadLimits;
  unbind(binding: Binding): Promise<void>;
}

/** @internal What the kit granted. */
export type Grant = Pick<BindOk, 'bindId' | 'containerPort' | 'publicUrl'>;

/** So many streams are kept before those that are over are looked for. */
const SWEEP_AT = 64;

/** A granted binding. */
export class Binding {
  private grant: Grant;
  /** Streams that came, of which some are over. */
  private streams: MuxStream[] = [];
  private sweepAt = SWEEP_AT;
  private readonly upstream: Upstream;

  /** @internal */
  constructor(
    private readonly owner: BindingOwner,
    private readonly options: CheckedBind,
    grant: Grant,
  ) {
    this.grant = grant;
    const address = options.to ?? readTarget(grant.containerPort);
    const { prefix, secure } = address;
    const trust = { ca: options.upstreamCa, insecure: options.upstreamInsecure };
    this.upstream = {
      target: new Target(address, trust),
      pool: new Pool(),
      host: hostFor(address, options.hostHeader),
      prefix,
      secure,
      headers: options.headers,
      publicUrl: grant.publicUrl,
      capacity: owner.capacity,
      heads: owner.heads,
    };
    owner.capacity.pools.add(this.upstream.pool);
  }

  /** The kit's id; another one after the kit had to bind anew. */
  get bindId(): number {
    return this.grant.bindId;
  }

  /** The port in the container. */
  get containerPort(): number {
    return this.grant.containerPort;
  }

  /** The address that the kit's URL pattern gives the port; null when it has none. */
  get publicUrl(): string | null {
    return this.grant.publicUrl;
  }

  get kind(): BindKind {
    return this.options.kind;
  }

  get mode(): BindMode {
    return this.options.mode;
  }

  /** Gives the port back. */
  unbind(): Promise<void> {
    return this.owner.unbind(this);
  }

  /** The same as `unbind`. */
  close(): Promise<void> {
    return this.unbind();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unbind();
  }

  /** @internal What BIND says to get this port again, or another. */
  again(containerPort: number): CheckedBind {
    return { ...this.options, containerPort };
  }

  /** @internal Whether the caller left the port to the kit. */
  get takesAny(): boolean {
    return this.options.containerPort === 0;
  }

  /** @internal What a later session has to know to have it again. */
  get kept(): KeptBinding {
    return { options: this.options, grant: this.grant };
  }

  /** @internal Whether this is what those options ask for. */
  fits({ kind, mode, containerPort, host = '127.0.0.1' }: CheckedBind): boolean {
    const { options } = this;
    const same = options.kind === kind && options.mode === mode;
    const port = containerPort === 0 ? this.takesAny : containerPort === this.containerPort;
    return same && port && (options.host ?? '127.0.0.1') === host;
  }

  /** @internal The kit has bound anew, under another id. */
  renew(grant: Grant): void {
    this.grant = grant;
    this.upstream.publicUrl = grant.publicUrl;
  }

  /** @internal The streams that are not over. */
  get running(): MuxStream[] {
    this.streams = this.streams.filter(({ over }) => !over);
    return this.streams;
  }

  /** @internal A visitor or a caller came. */
  accept(stream: MuxStream, open: StreamOpen, report: Report): void {
    const { options, upstream } = this;
    if (this.streams.push(stream) > this.sweepAt) {
      this.sweepAt = Math.max(SWEEP_AT, 2 * this.running.length);
    }
    if (open.kind === 'udp' || open.kind !== options.kind) {
      stream.reset(Code.RefusedStream, `the binding is ${options.kind}`);
    } else if (open.kind === 'tcp') {
      const { proxyProtocol } = options;
      const { remoteAddr, containerPort = this.containerPort } = open;
      const first = proxyProtocol && greeting(proxyProtocol, remoteAddr, containerPort);
      relayToTarget(stream, open, upstream.target, upstream.capacity, report, first);
    } else if (options.fetch !== undefined) {
      const { fetch, onError } = options;
      serveFromHandler(stream, open, { fetch, onError, binding: this }, upstream.capacity, report);
    } else {
      serveFromUpstream(stream, open, upstream, report);
    }
  }

  /** @internal The binding is gone. */
  release(): void {
    this.upstream.pool.close();
    this.upstream.capacity.pools.delete(this.upstream.pool);
  }
}
