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
import { readBindId, type Bind, type StreamOpen } from '../wire/control.js';
import { FrameType, type Frame } from '../wire/frame.js';
import { plain } from '../wire/text.js';
import type { MuxStream } from '../mux/stream.js';
import { Capacity } from '../local/capacity.js';
import type { Report } from '../local/report.js';
import { joinSignals, onAbort } from './abort.js';
import { Backoff, attempts, sleep } from './backoff.js';
import { Binding, type BindingOwner, type Grant } from './binding.js';
import { Bequest, type Belongings, type Estate } from './estate.js';
import { BindError, ClosedError, LostError, OptionsError } from './errors.js';
import { ResumeExpiredError, type TunnelError } from './errors.js';
import { TunnelEventTarget, type TunnelEventMap } from './events.js';
import type { Forward } from './forward.js';
import type { ForwardOptions } from './forward-options.js';
import { Forwards } from './forwards.js';
import { fatalEnd, isFatal, type LinkEnd } from './ends.js';
import type { LinkHost, Wants } from './around.js';
import { KEEP_MS, Link } from './link.js';
import { checkBind, checkCall, checkGrace, checkSession } from './options.js';
import type { BindOptions, CheckedBind, CheckedSession, SessionOptions } from './options.js';
import type { Memory } from './memory.js';
import { DRAIN_POLL_MS, FAREWELL_MS, HOPE_MS, REDIAL_MS, STEADY_MS } from './patience.js';
import { Ports } from './ports.js';
import { bindAgain } from './rebind.js';
import { Requests } from './requests.js';
import { Keeper, type KeptSession } from './state.js';
import { Ways } from './ways.js';
import type { HelloOk } from '../wire/terms.js';
import type { ExchangeReport } from '../local/terms.js';

/** Where a session is in its life. */
export type SessionState = 'idle' | 'connecting' | 'online' | 'lost' | 'closed';

/** A session with a kit. */
export class TunnelSession extends TunnelEventTarget {
  /** Resolves when the session is over, with what ended it, or undefined when it was closed. */
  readonly closed: Promise<TunnelError | undefined>;
  private readonly config: CheckedSession;
  private readonly requests: Requests;
  private readonly ports: Ports;
  private readonly forwards: Forwards;
  private readonly keeper: Keeper;
  /** Connections to a kit that restarts, on which what ran comes to its end. */
  private readonly draining = new Set<Link>();
  /** What an earlier object, or process, left of the session to take up. */
  private inherited: KeptSession | undefined;
  /** All that the earlier object has, until the kit has said whether it is ours. */
  private estate: Estate | undefined;
  /** Another object that asks the kit for all that is here. */
  private readonly bequest: Bequest;
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
    const { maxLocalConnections, maxHandlers, heads } = this.config;
    this.owner = {
      capacity: new Capacity(maxLocalConnections, maxHandlers, (overload) => {
        this.emit('overloaded', overload);
      }),
      heads,
      unbind: (binding) => this.unbind(binding),
    };
    this.ports = new Ports(this.owner);
    this.forwards = new Forwards({
      mux: () => this.link?.mux,
      report: () => this.reporting(),
      failed: (detail) => this.emit('forwardFailed', detail),
      mustBeOpen: () => this.mustBeOpen('forward'),
      life: this.config.life,
    });
    this.bequest = new Bequest({
      belongings: () => this.belongings(),
      asked: () => this.asked(),
      taken: () => this.taken(),
      kept: () => this.link?.yields(false),
    });
    this.keeper = new Keeper(this.config, (message) => {
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
    return this.ports.granted;
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
      const { kept, estate } = await this.keeper.claim(this.config.resumeSessionId, signal);
      this.inherited = kept;
      this.estate = estate;
      if (estate?.link?.serves(this.config) === true) this.inherit(estate, estate.link);
      else {
        const wanted = this.config.resumeSessionId ?? kept?.sessionId;
        const wants = this.config.resumeSessionId === undefined ? 'any' : 'before alone';
        await attempts(this.config, signal, (ms) => this.openLink(wanted, ms, signal, wants));
      }
    } catch (error) {
      this.estate?.giveBack();
      this.estate = undefined;
      if (this.in('connecting')) {
        this.current = 'idle';
        this.keeper.leave();
      }
      throw error;
    } finally {
      stop();
    }
    return this;
  }

  /** Binds a port in the container. Waits for a lost connection to come back. */
  async bind(options: BindOptions): Promise<Binding> {
    const checked = checkBind(options);
    this.mustBeOpen('bind');
    // Before anything is taken up: one that is aborted leaves all as it was.
    options.signal?.throwIfAborted();
    const again = this.ports.takeRestored(checked);
    if (again !== undefined) {
      this.note();
      return again;
    }
    const adopted = this.ports.orphans.adopt(checked.kind, checked.mode, checked.containerPort);
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

  /** Makes something that the kit reaches available at a port of this machine. */
  forward(options: ForwardOptions): Promise<Forward> {
    return this.forwards.begin(options);
  }

  /** Gives a port back. */
  async unbind(binding: Binding): Promise<void> {
    if (!(binding instanceof Binding)) throw new OptionsError('unbind takes a binding');
    const { bindId } = binding;
    if (!this.ports.leave(binding)) return;
    this.note();
    const to = this.link ?? this.memory;
    if (to !== undefined) {
      await this.requests.unbind(bindId, () => {
        to.send(FrameType.Unbind, { bindId });
      });
    }
    this.ports.left(bindId);
  }

  /**
   * Unbinds everything and ends the session for good. Nobody new comes in; requests and connections
   * that run get `graceMs` (default 5000, 0 for none) to finish.
   */
  async close(options: { graceMs?: number | undefined } = {}): Promise<void> {
    await this.end(new ClosedError('it was asked to close'), checkGrace(options));
  }

  /** Does not keep the process alive any more; nothing else changes. */
  unref(): this {
    this.config.life.unref();
    return this;
  }

  /** @internal Gives one port back as `close` does all: what runs there gets its time. */
  async giveBack(binding: Binding, options: { graceMs?: number | undefined }): Promise<void> {
    const graceMs = checkGrace(options);
    await Promise.race([this.unbind(binding), sleep(FAREWELL_MS, this.abort.signal)]);
    await this.drained(graceMs, () => binding.running.length);
    for (const stream of binding.running) stream.fail(Code.Cancel, 'the tunnel was closed');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Says goodbye, if there is anybody to say it to; `reason` is for whoever still waits. */
  private async end(reason: unknown, graceMs: number): Promise<void> {
    if (this.current === 'closed') return this.over;
    this.closing = true;
    this.forwards.release();
    if (this.link !== undefined) {
      const all = this.ports.granted.map((binding) => this.unbind(binding));
      await Promise.race([Promise.all(all), sleep(FAREWELL_MS, this.abort.signal)]);
      await this.drained(graceMs, () => this.link?.mux.size ?? 0);
    }
    await this.finish(undefined, reason);
  }

  /** Waits until nothing runs any more, or the connection is gone; no longer than `graceMs`. */
  private async drained(graceMs: number, running: () => number): Promise<void> {
    const deadline = performance.now() + graceMs;
    // Looked at now and then: that costs less than telling each end of a stream all the time.
    while (running() > 0 && performance.now() < deadline) {
      await sleep(DRAIN_POLL_MS, this.abort.signal);
    }
  }

  /** Opens a link and binds anew what a fresh session does not have. */
  private async openLink(
    resumeId: string | undefined,
    timeoutMs: number,
    signal: AbortSignal,
    wants: Wants,
  ): Promise<void> {
    const from = this.estate ?? { link: this.link, memory: this.memory };
    const memory = from.memory ?? from.link?.memory;
    const around = { ways: this.ways, before: from.link, memory, wants };
    await Link.open(this.config, resumeId, timeoutMs, signal, this.linkHost, around);
    await this.bindUnbound();
  }

  /** Binds anew what the session of now does not have. */
  private async bindUnbound(): Promise<void> {
    const send = (bind: Bind): void => this.sendBind(bind);
    if (this.link?.isRevived !== true) this.requests.repeat(send);
    const ask = (binding: Binding, port: number, until: AbortSignal): Promise<void> => {
      const bind = { ...binding.again(port), replaces: this.previousId };
      return this.requests.bind(bind, until, (ok) => this.renew(binding, ok), send);
    };
    const wants = (binding: Binding): boolean => this.ports.isUnbound(binding);
    const refused = (detail: TunnelEventMap['bindRefused']): void => {
      this.emit('bindRefused', detail);
    };
    const { signal: lost } = this.setup;
    await bindAgain(this.ports.unbound, { ask, wants, refused }, lost);
    lost.throwIfAborted();
  }

  private onHello(link: Link): void {
    const { hello } = link;
    const first = this.current === 'connecting';
    const { estate } = this;
    this.link = link;
    this.setup = new AbortController();
    this.memory = undefined;
    if (estate !== undefined) return this.inherit(estate, link);
    this.ports.orphans.clear();
    const before = this.answer?.sessionId ?? this.inherited?.sessionId;
    if (!hello.resumed) this.previousId = before;
    this.answer = hello;
    // What was said before is said again, and the kit's frames are: there is nothing to compare.
    if (link.isRevived) return;
    if (hello.resumed) this.takeUp(link, first);
    else this.ports.forget();
    if (first) this.goOnline(hello.sessionId);
    else this.note();
  }

  private goOnline(sessionId: string): void {
    this.current = 'online';
    this.onlineAt = performance.now();
    this.note();
    this.emit('online', { sessionId });
  }

  /** Has what an earlier object of this process had, on its connection or on one in its place. */
  private inherit(estate: Estate, link: Link): void {
    const { hello } = link;
    const isSame = estate.link === link;
    const goesOn = isSame || link.isRevived;
    const bindings = estate.ports.kept;
    this.estate = undefined;
    if (isSame) link.handTo(this.linkHost, this.config);
    if (goesOn || hello.resumed) this.ports.inherit(estate.ports, goesOn);
    this.requests.goOnFrom(estate.nextRef);
    for (const old of estate.draining) {
      old.handTo(this.linkHost, this.config);
      this.draining.add(old);
    }
    estate.take();
    this.link = link;
    if (isSame) void this.bindUnbound().catch(() => undefined);
    if (goesOn) {
      this.answer = { ...hello, resumed: true, resumedBinds: this.ports.resumed };
    } else {
      this.inherited &&= { ...this.inherited, bindings };
      this.answer = hello;
      if (hello.resumed) this.takeUp(link, true);
      else this.previousId = this.inherited?.sessionId;
    }
    this.goOnline(hello.sessionId);
  }

  /** Another object of this process asks for all that is here; whether it may. */
  private asked(): boolean {
    if (this.closing || this.in('closed')) return false;
    this.link?.yields(true);
    return true;
  }

  private belongings(): Belongings {
    const { link, memory, ports, draining } = this;
    return { link, memory, ports, draining, nextRef: this.requests.nextRef };
  }

  /** The kit has given the session to another object. */
  private taken(): void {
    this.link = undefined;
    this.memory = undefined;
    this.draining.clear();
    this.keeper.leave();
    this.setup.abort();
    void this.finish(new ClosedError('another session of this process has taken it up'));
  }

  /** Keeps what a later session has to know to come back to these ports. */
  private note(): void {
    if (this.answer === undefined || this.closing || this.in('closed')) return;
    this.keeper.keep(this.answer.sessionId, this.ports.kept, this.bequest);
  }

  /** Compares what the kit still holds for us with what we think we have. */
  private takeUp(link: Link, first: boolean): void {
    const { resumedBinds } = link.hello;
    const held = new Set(resumedBinds.map(({ bindId }) => bindId));
    for (const { bindId } of this.ports.granted) {
      if (!held.has(bindId)) this.revoked(bindId, 'taken over while the connection was lost');
    }
    for (const bind of resumedBinds) {
      if (this.ports.has(bind.bindId)) continue;
      // At first these are an earlier one's; later they answer a BIND whose answer was lost.
      const named = this.config.resumeSessionId !== undefined;
      // Only who named the session gets the targets of before back without naming them as well.
      if (first) this.ports.takeUp(bind, named ? (this.inherited?.bindings ?? []) : []);
      else link.send(FrameType.Unbind, { bindId: bind.bindId });
    }
  }

  private enter(options: CheckedBind, grant: Grant): Binding {
    const binding = this.ports.enter(options, grant);
    this.note();
    return binding;
  }

  private renew(binding: Binding, grant: Grant): void {
    if (!this.ports.renew(binding, grant)) {
      // It was closed while the kit bound it again.
      this.link?.send(FrameType.Unbind, { bindId: grant.bindId });
      return;
    }
    this.note();
  }

  private sendBind(bind: Bind): void {
    (this.link ?? this.memory)?.send(FrameType.Bind, bind);
  }

  private onControl(frame: Frame): void {
    if (frame.type === FrameType.BindRevoked) {
      const { bindId, reason } = readBindId(frame.payload, 'BIND_REVOKED');
      return this.revoked(bindId, reason);
    }
    // PONG counts as a sign of life by its bytes; SHARD_MAP is informative.
    const bindId = this.requests.take(frame);
    if (bindId !== undefined) this.link?.send(FrameType.Unbind, { bindId });
  }

  private revoked(bindId: number, reason: string): void {
    const containerPort = this.ports.revoke(bindId);
    if (containerPort === undefined) return;
    this.note();
    this.emit('takenOver', { bindId, containerPort, reason });
  }

  private accept(stream: MuxStream, open: StreamOpen): void {
    if (!this.ports.accept(stream, open, this.reporting())) {
      stream.reset(Code.RefusedStream, 'no such binding');
    }
  }

  private reporting(): Report {
    return this.wants('request') ? this.report : undefined;
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
    // Where another object asks for the session, its answer tells what is to be done about the loss.
    if (fatal === undefined) this.bequest.afterwards(() => this.onLost(undefined, error, reason));
    else this.onLost(fatal, error, reason);
  }

  private onLost(fatal: TunnelError | undefined, error: TunnelError, reason: string): void {
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
    let hopes = true;
    for (; this.wantsBack(); pause = backoff.next()) {
      await sleep(pause, this.abort.signal, this.config.life.isIdle);
      while (this.bequest.isAsked) await this.bequest.undecided;
      if (performance.now() - lostAt > KEEP_MS) (this.memory ?? this.link?.memory)?.end();
      if (!this.wantsBack()) return;
      const attempt = new AbortController();
      const stop = joinSignals(attempt, [this.abort.signal, this.bequest.begun]);
      // Where streams wait, a kit that does not know the session is not asked for another one yet.
      hopes &&= (this.memory ?? this.link?.memory)?.hasStreams === true;
      hopes &&= performance.now() - lostAt < HOPE_MS;
      try {
        await this.openLink(this.id, REDIAL_MS, attempt.signal, hopes ? 'before' : 'any');
      } catch (error) {
        if (isFatal(error)) return void this.finish(error);
        if (!(error instanceof ResumeExpiredError)) continue;
        hopes = false;
        backoff.reset();
        continue;
      } finally {
        stop();
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
    this.ports.release();
    this.forwards.release();
    await gone;
    await this.keeper.done();
    this.owner.capacity.close();
    this.emit('closed', { error });
    this.resolveClosed(error);
  }

  private mustBeOpen(what: string): void {
    if (this.current === 'idle' || this.current === 'connecting') {
      throw new OptionsError(`call connect, and wait for it, before ${what}`);
    }
    if (this.current === 'closed' || this.closing) throw new ClosedError(`no ${what} any more`);
  }

  /** Asked across calls that may change the state, which the compiler does not see. */
  private in(state: SessionState): boolean {
    return this.current === state;
  }
}
