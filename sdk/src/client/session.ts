/**
 * A session with a kit: what callers hold. It connects, binds, and, when asked to, comes back after
 * every loss (PROTOCOL §2, §3, §6).
 *
 * States: `idle` before `connect`, `connecting`, `online`, `lost` while it dials again, `closed`.
 * A wrong token and a refused binding end it at once; a lost network does not.
 */
import './dispose.js';
import { performance } from 'node:perf_hooks';
import { Code } from '../wire/code.js';
import {
  readBindId,
  readBindOk,
  readRefusal,
  type Bind,
  type StreamOpen,
} from '../wire/control.js';
import { FrameType, type Frame } from '../wire/frame.js';
import { plain } from '../wire/text.js';
import type { MuxStream } from '../mux/stream.js';
import { Capacity } from '../local/capacity.js';
import type { Report } from '../local/report.js';
import { joinSignals, onAbort } from './abort.js';
import { Backoff, attempts, sleep } from './backoff.js';
import { Binding, type BindingOwner, type Grant } from './binding.js';
import {
  BindError,
  ClosedError,
  LostError,
  OptionsError,
  ResumeExpiredError,
  type TunnelError,
} from './errors.js';
import { TunnelEventTarget, type TunnelEventMap } from './events.js';
import { fatalEnd, isFatal } from './ends.js';
import { KEEP_MS, Link, type LinkEnd, type LinkHost } from './link.js';
import {
  checkBind,
  checkCall,
  checkGrace,
  checkSession,
  type BindOptions,
  type CheckedBind,
  type CheckedSession,
  type SessionOptions,
} from './options.js';
import { Orphans } from './orphans.js';
import type { Memory } from './memory.js';
import { bindAgain } from './rebind.js';
import { Requests } from './requests.js';
import { Keeper, type KeptSession } from './state.js';
import { Ways } from './ways.js';
import type { HelloOk, ResumedBind } from '../wire/terms.js';
import type { ExchangeReport } from '../local/terms.js';

/** Where a session is in its life. */
export type SessionState = 'idle' | 'connecting' | 'online' | 'lost' | 'closed';

/** How long one dial of a lost session may take, in milliseconds. */
const REDIAL_MS = 10_000;
/** A session that was up this long is dialled at once when it is lost, in milliseconds. */
const STEADY_MS = 250;
/** How long the kit may take to answer UNBIND when a session is closed, in milliseconds. */
const FAREWELL_MS = 1000;
/** How often a session that closes looks whether anything still runs, in milliseconds. */
const DRAIN_POLL_MS = 10;

/** A session with a kit. */
export class TunnelSession extends TunnelEventTarget {
  /** Resolves when the session is over, with what ended it, or undefined when it was closed. */
  readonly closed: Promise<TunnelError | undefined>;
  private readonly config: CheckedSession;
  private readonly requests: Requests;
  private readonly orphans = new Orphans();
  private readonly granted = new Map<number, Binding>();
  /** Bindings that we gave back, until the kit has heard of it. */
  private readonly leaving = new Map<number, Binding>();
  /** Bindings that a fresh session has to ask for again. */
  private readonly unbound = new Set<Binding>();
  /** Bindings of an earlier object, until they are bound here. */
  private readonly restored = new Set<Binding>();
  private readonly keeper: Keeper;
  /** Connections to a kit that restarts, on which what ran comes to its end. */
  private readonly draining = new Set<Link>();
  /** What an earlier object, or process, left of the session to take up. */
  private inherited: KeptSession | undefined;
  /** The session before this one, which may hold its ports parked. */
  private previousId: string | undefined;
  private readonly abort = new AbortController();
  private readonly owner: BindingOwner;
  private readonly report = (report: ExchangeReport): void => {
    this.emit('request', report);
  };
  private readonly linkHost: LinkHost = {
    online: (link) => this.onHello(link),
    accept: (stream, open) => this.accept(stream, open),
    control: (frame) => this.onControl(frame),
    limps: (link) => {
      if (this.link === link && !this.closing) this.recover();
    },
    ended: (link, end) => this.onEnded(link, end),
  };
  private readonly ways: Ways;
  private onlineAt = 0;
  private current: SessionState = 'idle';
  private link: Link | undefined;
  /** What is kept while there is no link. */
  private memory: Memory | undefined;
  /** Aborted when the link is lost, for whoever sets it up. */
  private setup = new AbortController();
  private answer: HelloOk | undefined;
  private closing = false;
  private recovering: Promise<void> | undefined;
  /** Resolves when everything was taken down. */
  private over: Promise<void> = Promise.resolve();
  private resolveClosed: (error: TunnelError | undefined) => void = () => undefined;

  constructor(options: SessionOptions) {
    super();
    this.config = checkSession(options, false);
    this.ways = new Ways(this.config.urls);
    this.requests = new Requests(this.config.requestTimeout);
    const { maxLocalConnections, maxHandlers } = this.config;
    this.owner = {
      capacity: new Capacity(maxLocalConnections, maxHandlers, (overload) => {
        this.emit('overloaded', overload);
      }),
      unbind: (binding) => this.unbind(binding),
    };
    const { origin, pathname } = this.config.connectUrl;
    this.keeper = new Keeper(this.config.state, origin + pathname, (message) => {
      this.emit('unsaved', { message });
    });
    this.closed = new Promise((resolve) => {
      this.resolveClosed = resolve;
    });
    const { signal } = this.config;
    const stop = onAbort(signal, () => void this.end(signal?.reason, 0));
    void this.closed.then(stop);
    // One that was aborted before says so to nobody.
    if (signal?.aborted === true) void this.end(signal.reason, 0);
  }

  /** The session's id: whoever knows it may resume the session. Undefined before `connect`. */
  get id(): string | undefined {
    return this.answer?.sessionId;
  }

  /** What the kit granted at the last HELLO. */
  get hello(): HelloOk | undefined {
    return this.answer;
  }

  get state(): SessionState {
    return this.current;
  }

  /** The ports that the kit has granted, those of a session that was taken up among them. */
  get bindings(): Binding[] {
    return [...this.granted.values()];
  }

  /** WebSockets that are joined right now. */
  get connections(): number {
    return this.link?.connections ?? 0;
  }

  /** Connects. With `reconnect`, tries for `connectTimeout` while the kit cannot be reached. */
  async connect(options: { signal?: AbortSignal | undefined } = {}): Promise<this> {
    checkCall(options, ['signal']);
    // Its reason says more than that the session was closed for it.
    this.config.signal?.throwIfAborted();
    if (this.current !== 'idle') {
      throw this.current === 'closed'
        ? new ClosedError('it was closed before')
        : new OptionsError('connect was called before');
    }
    const attempt = new AbortController();
    const { signal } = attempt;
    const stop = joinSignals(attempt, [this.abort.signal, options.signal, this.config.signal]);
    this.current = 'connecting';
    try {
      signal.throwIfAborted();
      const kept = await this.keeper.find(this.config.resumeSessionId);
      signal.throwIfAborted();
      this.inherited = kept;
      const link = kept?.holder?.detach(this.config);
      if (kept !== undefined && link !== undefined) this.inherit(link, kept);
      else {
        const wanted = this.config.resumeSessionId ?? kept?.sessionId;
        await attempts(this.config, signal, (ms) => this.openLink(wanted, ms, signal));
      }
    } catch (error) {
      if (this.in('connecting')) this.current = 'idle';
      throw error;
    } finally {
      stop();
    }
    return this;
  }

  /** Binds a port in the container. Waits for a lost connection to come back. */
  async bind(options: BindOptions): Promise<Binding> {
    const checked = checkBind(options);
    if (this.current === 'idle' || this.current === 'connecting') {
      throw new OptionsError('call connect, and wait for it, before bind');
    }
    if (this.current === 'closed' || this.closing) throw new ClosedError('nothing can be bound');
    // Before anything is taken up: one that is aborted leaves all as it was.
    options.signal?.throwIfAborted();
    const again = this.bindRestored(checked);
    if (again !== undefined) return again;
    const adopted = this.orphans.adopt(checked.kind, checked.mode, checked.containerPort);
    if (adopted === undefined || 'replace' in adopted) {
      const ours = adopted && { containerPort: adopted.replace, takeover: true };
      try {
        return await this.requests.bind(
          { ...checked, ...ours, replaces: this.previousId },
          options.signal,
          (ok) => this.enter(checked, ok),
          (bind) => this.sendBind(bind),
        );
      } catch (error) {
        adopted?.failed(error instanceof BindError);
        throw error;
      }
    }
    const publicUrl = adopted.bind.publicUrl ?? null;
    const binding = this.enter(checked, { ...adopted.bind, publicUrl });
    for (const visitor of adopted.waiting)
      visitor.handOver((stream, open) => this.accept(stream, open));
    return binding;
  }

  /** Gives a port back. */
  async unbind(binding: Binding): Promise<void> {
    if (!(binding instanceof Binding)) throw new OptionsError('unbind takes a binding');
    const { bindId } = binding;
    this.unbound.delete(binding);
    if (this.granted.get(bindId) !== binding) return;
    this.granted.delete(bindId);
    this.note();
    const to = this.link ?? this.memory;
    if (to !== undefined) {
      // Until the kit answers, visitors come whom it let in before.
      this.leaving.set(bindId, binding);
      await this.requests.unbind(bindId, () => {
        to.send(FrameType.Unbind, { bindId });
      });
      this.leaving.delete(bindId);
    }
    binding.release();
  }

  /**
   * Unbinds everything and ends the session for good. Nobody new comes in; requests and connections
   * that run get `graceMs` (default 5000, 0 for none) to finish.
   */
  async close(options: { graceMs?: number | undefined } = {}): Promise<void> {
    await this.end(new ClosedError('it was asked to close'), checkGrace(options));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Says goodbye, if there is anybody to say it to; `reason` is for whoever still waits. */
  private async end(reason: unknown, graceMs: number): Promise<void> {
    if (this.current === 'closed') return this.over;
    this.closing = true;
    if (this.link !== undefined) {
      const all = [...this.granted.values()].map((binding) => this.unbind(binding));
      await Promise.race([Promise.all(all), sleep(FAREWELL_MS, this.abort.signal)]);
      await this.drained(graceMs);
    }
    await this.finish(undefined, reason);
  }

  /** Waits until nothing runs any more, or the connection is gone; no longer than `graceMs`. */
  private async drained(graceMs: number): Promise<void> {
    const deadline = performance.now() + graceMs;
    // Looked at now and then: that costs less than telling each end of a stream all the time.
    while ((this.link?.mux.size ?? 0) > 0 && performance.now() < deadline) {
      await sleep(DRAIN_POLL_MS, this.abort.signal);
    }
  }

  /** Opens a link and binds anew what a fresh session does not have. */
  private async openLink(
    resumeId: string | undefined,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    const around = { ways: this.ways, before: this.link, memory: this.memory ?? this.link?.memory };
    await Link.open(this.config, resumeId, timeoutMs, signal, this.linkHost, around);
    if (this.in('connecting')) {
      // The kit answered with a fresh session where a certain one was asked for.
      const { link } = this;
      this.link = undefined;
      await link?.close();
      throw new ResumeExpiredError();
    }
    const send = (bind: Bind): void => this.sendBind(bind);
    if (this.link?.isRevived !== true) this.requests.repeat(send);
    const ask = (binding: Binding, port: number, until: AbortSignal): Promise<void> => {
      const bind = { ...binding.again(port), replaces: this.previousId };
      return this.requests.bind(bind, until, (ok) => this.renew(binding, ok), send);
    };
    const wants = (binding: Binding): boolean => this.unbound.has(binding);
    const refused = (detail: TunnelEventMap['bindRefused']): void => {
      this.emit('bindRefused', detail);
    };
    const { signal: lost } = this.setup;
    await bindAgain(this.unbound, { ask, wants, refused }, lost);
    lost.throwIfAborted();
  }

  private onHello(link: Link): void {
    const { hello } = link;
    const first = this.current === 'connecting';
    const expected = this.config.resumeSessionId !== undefined;
    this.link = link;
    this.setup = new AbortController();
    this.memory = undefined;
    this.orphans.clear();
    if (first && expected && !hello.resumed) return;
    const before = this.answer?.sessionId ?? this.inherited?.sessionId;
    if (!hello.resumed) this.previousId = before;
    this.answer = hello;
    // What was said before is said again, and the kit's frames are: there is nothing to compare.
    if (link.isRevived) return;
    if (hello.resumed) this.takeUp(link, first);
    else this.forgetBinds();
    if (first) this.goOnline(hello.sessionId);
    else this.note();
  }

  private goOnline(sessionId: string): void {
    this.current = 'online';
    this.onlineAt = performance.now();
    this.note();
    this.emit('online', { sessionId });
  }

  /** Goes on with the connection of an earlier object of this process, and all that it carries. */
  private inherit(link: Link, { sessionId, bindings }: KeptSession): void {
    link.handTo(this.linkHost);
    this.link = link;
    const resumedBinds = bindings.map(({ options: { kind, mode }, grant }): ResumedBind => {
      return { kind, mode, ...grant };
    });
    this.answer = { ...link.hello, resumed: true, resumedBinds };
    for (const { options, grant } of bindings) this.restored.add(this.enter(options, grant));
    this.goOnline(sessionId);
  }

  /** @internal Lets go of the session, which another object of this process takes up. */
  detach(config: CheckedSession): Link | undefined {
    const { link, requests } = this;
    const whole = this.in('online') && !this.closing && requests.idle && this.unbound.size === 0;
    this.link = undefined;
    this.keeper.leave();
    this.setup.abort();
    void this.finish(new ClosedError('another session of this process has taken it up'));
    if (whole && link?.serves(config) === true) return link;
    link?.drop();
    return undefined;
  }

  /** What is bound already, by an earlier object of this session: only its target is new. */
  private bindRestored(checked: CheckedBind): Binding | undefined {
    const binding = [...this.restored].find((known) => known.fits(checked));
    if (binding === undefined) return undefined;
    this.restored.delete(binding);
    const { grant } = binding.kept;
    if (this.granted.get(grant.bindId) !== binding) return undefined;
    binding.release();
    return this.enter(checked, grant);
  }

  /** Keeps what a later session has to know to come back to these ports. */
  private note(): void {
    if (this.answer === undefined || this.closing || this.in('closed')) return;
    const all = [...this.granted.values(), ...this.unbound];
    const kept = all.map((binding) => binding.kept);
    this.keeper.keep(this.answer.sessionId, kept, this);
  }

  /** Compares what the kit still holds for us with what we think we have. */
  private takeUp(link: Link, first: boolean): void {
    const { resumedBinds } = link.hello;
    const held = new Set(resumedBinds.map(({ bindId }) => bindId));
    for (const bindId of [...this.granted.keys()]) {
      if (!held.has(bindId)) this.revoked(bindId, 'taken over while the connection was lost');
    }
    for (const bind of resumedBinds) {
      if (this.granted.has(bind.bindId)) continue;
      // At first these are an earlier one's; later they answer a BIND whose answer was lost.
      if (first) this.takeUpOne(bind);
      else link.send(FrameType.Unbind, { bindId: bind.bindId });
    }
  }

  /** Only who named the session gets the targets of before back without naming them as well. */
  private takeUpOne(bind: ResumedBind): void {
    const { containerPort, kind, mode, bindId } = bind;
    const named = this.config.resumeSessionId !== undefined;
    const known = this.inherited?.bindings.find(
      ({ options, grant }) =>
        grant.containerPort === containerPort && options.kind === kind && options.mode === mode,
    );
    if (known === undefined || !named) return this.orphans.add(bind);
    const publicUrl = bind.publicUrl ?? known.grant.publicUrl;
    this.restored.add(this.enter(known.options, { bindId, containerPort, publicUrl }));
  }

  private forgetBinds(): void {
    for (const binding of this.granted.values()) this.unbound.add(binding);
    this.granted.clear();
  }

  private enter(options: CheckedBind, grant: Grant): Binding {
    const binding = new Binding(this.owner, options, grant);
    this.granted.set(grant.bindId, binding);
    this.note();
    return binding;
  }

  private renew(binding: Binding, grant: Grant): void {
    if (!this.unbound.delete(binding)) {
      // It was closed while the kit bound it again.
      this.link?.send(FrameType.Unbind, { bindId: grant.bindId });
      return;
    }
    binding.renew(grant);
    this.granted.set(grant.bindId, binding);
    this.note();
  }

  private sendBind(bind: Bind): void {
    (this.link ?? this.memory)?.send(FrameType.Bind, bind);
  }

  private onControl(frame: Frame): void {
    const { payload } = frame;
    switch (frame.type) {
      case FrameType.BindOk: {
        const ok = readBindOk(payload);
        if (!this.requests.granted(ok)) this.link?.send(FrameType.Unbind, { bindId: ok.bindId });
        return;
      }
      case FrameType.BindErr:
        return this.requests.refused(readRefusal(payload, 'BIND_ERR'));
      case FrameType.UnbindOk:
        return this.requests.unbound(readBindId(payload, 'UNBIND_OK').bindId);
      case FrameType.UnbindErr:
        return this.requests.unbound(readRefusal(payload, 'UNBIND_ERR').bindId ?? -1);
      case FrameType.BindRevoked: {
        const { bindId, reason } = readBindId(payload, 'BIND_REVOKED');
        return this.revoked(bindId, reason);
      }
      default:
        // PONG counts as a sign of life by its bytes; SHARD_MAP is informative.
        return;
    }
  }

  private revoked(bindId: number, reason: string): void {
    const binding = this.granted.get(bindId);
    const containerPort = binding?.containerPort ?? this.orphans.revoke(bindId)?.containerPort;
    if (containerPort === undefined) return;
    this.granted.delete(bindId);
    binding?.release();
    this.note();
    this.emit('takenOver', { bindId, containerPort, reason });
  }

  private accept(stream: MuxStream, open: StreamOpen): void {
    const { bindId, containerPort, kind } = open;
    const report: Report = this.wants('request') ? this.report : undefined;
    const binding =
      bindId === undefined
        ? this.byPort(kind, containerPort)
        : (this.granted.get(bindId) ?? this.leaving.get(bindId));
    if (binding !== undefined) binding.accept(stream, open, report);
    else if (!this.orphans.accept(stream, open)) {
      stream.reset(Code.RefusedStream, 'no such binding');
    }
  }

  /** Older kits name the port, or nothing when there is only one binding. */
  private byPort(kind: string, port: number | undefined): Binding | undefined {
    const fitting = [...this.granted.values()].filter((binding) => binding.kind === kind);
    if (port === undefined) return fitting.length === 1 ? fitting[0] : undefined;
    return fitting.find((binding) => binding.containerPort === port);
  }

  private onEnded(link: Link, end: LinkEnd): void {
    this.draining.delete(link);
    if (this.link !== link) return;
    this.link = undefined;
    if (link.isUp) this.draining.add(link);
    else this.memory = link.memory;
    const fatal = fatalEnd(end);
    // The kit has ended it, and nobody can take it up.
    if (fatal !== undefined && end.kind !== 'taken') this.keeper.forget();
    const reason = end.kind === 'goaway' ? end.goaway.message : end.reason;
    const error = fatal ?? new LostError(`The connection was lost: ${reason}`);
    this.setup.abort(error);
    // Whoever closes the session sees that the link is gone, and ends it.
    if (this.closing) return;
    if (this.in('online')) {
      const retrying = fatal === undefined && this.config.reconnect;
      // First, since whoever is told may close the session, which is not to be taken back.
      if (retrying) this.current = 'lost';
      this.emit('lost', { reason: plain(reason), retrying });
      if (retrying) return this.recover();
    }
    if (this.in('online') || fatal !== undefined) void this.finish(error);
  }

  /** Dials until the session is back, or cannot come back; also where it limps on meanwhile. */
  private recover(): void {
    this.recovering ??= this.dialAgain().finally(() => (this.recovering = undefined));
  }

  private async dialAgain(): Promise<void> {
    const lostAt = performance.now();
    const backoff = new Backoff(this.config.connectUrl.hostname);
    // One that is lost as soon as it is up is not dialled at once again and again.
    let pause = Math.max(backoff.next(), STEADY_MS - (lostAt - this.onlineAt));
    for (; this.wantsBack(); pause = backoff.next()) {
      await sleep(pause, this.abort.signal);
      if (performance.now() - lostAt > KEEP_MS) (this.memory ?? this.link?.memory)?.end();
      if (!this.wantsBack()) return;
      try {
        await this.openLink(this.id, REDIAL_MS, this.abort.signal);
      } catch (error) {
        if (isFatal(error)) return void this.finish(error);
        continue;
      }
      this.goBackOnline(lostAt);
    }
  }

  /** A primary stands again; where the others went on meanwhile there is nothing to tell. */
  private goBackOnline(lostAt: number): void {
    const { link } = this;
    if (link === undefined || this.closing || this.in('closed')) return;
    this.onlineAt = performance.now();
    if (this.in('online') && link.isRevived) return;
    const reason = 'the kit has forgotten what ran';
    if (this.in('online')) this.emit('lost', { reason, retrying: true });
    if (this.in('closed')) return;
    this.current = 'online';
    const { sessionId, resumed } = link.hello;
    const afterMs = Math.round(performance.now() - lostAt);
    this.emit('resumed', { sessionId, fresh: !resumed, afterMs });
  }

  /** Whether there is no primary, and is to be one. */
  private wantsBack(): boolean {
    return this.in('lost') || (this.in('online') && this.link?.isLimping === true);
  }

  private finish(error: TunnelError | undefined, reason: unknown = error): Promise<void> {
    if (this.current !== 'closed') {
      this.current = 'closed';
      this.over = this.takeDown(error, reason);
    }
    return this.over;
  }

  private async takeDown(error: TunnelError | undefined, reason: unknown): Promise<void> {
    this.abort.abort(reason);
    if (error === undefined) this.keeper.forget();
    else this.keeper.release();
    const links = [...this.draining, ...(this.link === undefined ? [] : [this.link])];
    const gone = Promise.all(links.map((link) => link.close()));
    this.draining.clear();
    this.link = undefined;
    this.memory?.end();
    this.requests.fail(reason);
    for (const binding of [...this.granted.values(), ...this.unbound]) binding.release();
    this.granted.clear();
    this.unbound.clear();
    this.restored.clear();
    this.orphans.clear();
    await gone;
    await this.keeper.done;
    this.owner.capacity.close();
    this.emit('closed', { error });
    this.resolveClosed(error);
  }

  /** Asked across calls that may change the state, which the compiler does not see. */
  private in(state: SessionState): boolean {
    return this.current === state;
  }
}
