/**
 * A small kit for tests: the session side of PROTOCOL §1 to §7 with everything under the test's
 * control. Visitors are made by calling `open`, not by sockets, so a test sees every frame.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { performance } from 'node:perf_hooks';
import { WebSocketServer, type WebSocket } from 'ws';
import { Code } from '../../src/wire/code.js';
import {
  parseObject,
  readResponseHead,
  readTrailers,
  type Resume,
} from '../../src/wire/control.js';
import { Lane } from '../../src/mux/lane.js';
import type { Waiter } from '../../src/mux/line.js';
import { Replay } from '../../src/mux/replay.js';
import {
  decodeMessage,
  decodeReset,
  encodeFrame,
  FrameType,
  type Frame,
} from '../../src/wire/frame.js';
import { readHello } from './kit-control.js';
import { KitStream } from './kit-stream.js';

export { KitStream } from './kit-stream.js';

export interface KitConfig {
  token?: string;
  streamWindow?: number;
  sessionWindow?: number;
  granted?: number;
  graceMs?: number;
  publicUrl?: string;
  /** HELLO_OK tells the address of resumed bindings, as only newer kits do. */
  tellsUrls?: boolean;
  /** Streams give credit back at once unless this is set. */
  manualCredit?: boolean;
  maxSessions?: number;
  maxStreams?: number;
  /** Grants `replay`. */
  replay?: boolean;
  /** Grants these as well, where they are offered. */
  grants?: string[];
}

interface Carried {
  data: number;
  credit: number;
  sentData: number;
  gaveCredit: number;
}

interface Bound {
  bindId: number;
  kind: string;
  mode: string;
  containerPort: number;
}

/** A session as the kit sees it. */
export class KitSession {
  readonly id = `S-${randomUUID()}`;
  readonly binds = new Map<number, Bound>();
  readonly streams = new Map<number, KitStream>();
  readonly frames: Frame[] = [];
  /** What was heard on which lane, and when. */
  readonly heard: { type: number; on: number; at: number }[] = [];
  readonly lanes = new Map<number, WebSocket>();
  readonly events = new EventEmitter();
  /** The streams that the client opened, and what for. */
  readonly opened: { stream: KitStream; open: Record<string, unknown> }[] = [];
  tickets = new Map<string, number>();
  /** The tickets that lanes were joined with, and what each JOIN said. */
  readonly joinedBy = new Map<number, string>();
  readonly joins: Record<string, unknown>[] = [];
  /** DATA and session credit that came on each lane, and that were given on it. */
  private readonly sums = new Map<number, Carried>();
  granted = 1;
  sendCredit: number;
  parked: NodeJS.Timeout | undefined;
  messages = 0;
  /** What each lane keeps, where `replay` is granted. */
  readonly channels = new Map<number, Lane<Waiter>>();
  replays = false;
  epoch = 1;
  /** The number of the client's last HELLO. */
  attempt = 0;
  nextBind = 1;
  nextStream = 2;

  constructor(readonly kit: FixtureKit) {
    this.sendCredit = kit.sessionWindow;
    this.events.setMaxListeners(0);
  }

  send(type: number, id: number, payload: Buffer, lane = 0): void {
    const channel = this.channels.get(lane);
    channel?.push(type, id, payload);
    channel?.flush();
    if (channel === undefined) this.lanes.get(lane)?.send(encodeFrame(type, id, payload));
  }

  carried(index: number): Carried {
    const known = this.sums.get(index) ?? { data: 0, credit: 0, sentData: 0, gaveCredit: 0 };
    this.sums.set(index, known);
    return known;
  }

  /** Of the lanes that a client says it holds, those that stand. */
  held(lanes: { index: number; nonce: string }[]): number[] {
    const isHeld = ({ index, nonce }: { index: number; nonce: string }): boolean =>
      this.lanes.has(index) && this.joinedBy.get(index) === nonce;
    return lanes.filter(isHeld).map(({ index }) => index);
  }

  /** A lane comes back without its streams: both sides take back what the other has not got. */
  beginAnew(index: number, join: Record<string, unknown>): void {
    const carried = this.carried(index);
    this.sendCredit += carried.sentData - Number(join['dataReceived']);
    carried.sentData = Number(join['dataReceived']);
    const lost = carried.gaveCredit - Number(join['creditReceived']);
    carried.gaveCredit = Number(join['creditReceived']);
    for (const [id, { lane }] of this.streams) if (lane === index) this.streams.delete(id);
    this.channels.delete(index);
    if (lost > 0) this.window(0, lost, 0);
  }

  /** Messages leave on a lane, or go on leaving; false when the peer cannot have taken so many. */
  carry(index: number, socket: WebSocket, received?: number): boolean {
    this.lanes.set(index, socket);
    if (!this.replays) return true;
    const carrier = { send: (message: Buffer) => socket.send(Buffer.from(message)), backlog: 0 };
    if (received !== undefined) return this.channels.get(index)?.resume(carrier, received) === true;
    const replay = new Replay({ buffer: 4 << 20, data: 8 << 20 });
    this.channels.set(index, new Lane(index, carrier, replay));
    return true;
  }

  json(type: number, value: object, id = 0, lane = 0): void {
    this.send(type, id, Buffer.from(JSON.stringify(value)), lane);
  }

  raw(message: Buffer, lane = 0): void {
    this.lanes.get(lane)?.send(message);
  }

  window(id: number, bytes: number, on: number): void {
    // Credit of the session may come on any lane.
    const lane = id === 0 && !this.lanes.has(on) ? ([...this.lanes.keys()][0] ?? on) : on;
    if (id === 0) this.carried(lane).gaveCredit += bytes;
    const payload = Buffer.alloc(4);
    payload.writeUInt32BE(bytes);
    this.send(FrameType.Window, id, payload, lane);
  }

  /** Opens a stream with any STREAM_OPEN. */
  open(json: object, lane = 0): KitStream {
    const stream = new KitStream(this, this.nextStream, lane);
    this.nextStream += 2;
    this.streams.set(stream.id, stream);
    this.json(FrameType.StreamOpen, json, stream.id, lane);
    return stream;
  }

  /** A visitor's request without a body. */
  get(target: string, more: object = {}, lane = 0): KitStream {
    const stream = this.request('GET', target, more, lane);
    stream.end();
    return stream;
  }

  request(method: string, target: string, more: object = {}, lane = 0): KitStream {
    const bindId = [...this.binds.values()].at(-1)?.bindId;
    const headers = [['host', 'app.example']];
    const open = { kind: 'http', bindId, method, target, headers, isUpgrade: false, body: 'none' };
    return this.open({ ...open, ...more }, lane);
  }

  caller(more: object = {}, lane = 0): KitStream {
    const bindId = [...this.binds.values()].at(-1)?.bindId;
    return this.open({ kind: 'tcp', bindId, remoteAddr: '127.0.0.1:4000', ...more }, lane);
  }

  goaway(code: number, message: string, more: object = {}): void {
    this.json(FrameType.Goaway, { code, message, lastStreamId: 0, graceMs: 0, ...more });
  }

  /** Breaks every connection without a close frame. */
  drop(lane?: number): void {
    for (const [index, socket] of this.lanes) {
      if (lane === undefined || lane === index) socket.terminate();
    }
  }

  count(type: number): number {
    return this.frames.filter((frame) => frame.type === type).length;
  }

  onFrame(frame: Frame, lane: number): void {
    const { payload, streamId } = frame;
    if (frame.type === FrameType.Data) this.carried(lane).data += payload.length;
    if (frame.type === FrameType.Window && streamId === 0) {
      this.carried(lane).credit += payload.readUInt32BE(0);
    }
    this.frames.push({ ...frame, payload: Buffer.from(frame.payload) });
    if (frame.type === FrameType.StreamOpen) this.onOpen(frame, lane);
    const stream = this.streams.get(frame.streamId);
    if (stream !== undefined) this.onStream(stream, frame);
    else this.onSession(frame, lane);
    this.events.emit('frame');
  }

  private onOpen({ streamId, payload }: Frame, lane: number): void {
    const stream = new KitStream(this, streamId, lane);
    this.streams.set(streamId, stream);
    this.opened.push({ stream, open: parseObject(payload, 'STREAM_OPEN') });
  }

  private onStream(stream: KitStream, frame: Frame): void {
    const { payload } = frame;
    if (frame.type === FrameType.StreamResponseHead) stream.onHead(readResponseHead(payload));
    if (frame.type === FrameType.HeadPart && !stream.parts.add(payload)) {
      throw new Error('more parts than a kit keeps');
    }
    if (frame.type === FrameType.StreamTrailers) {
      stream.trailers.push([stream.received, readTrailers(payload)]);
    }
    if (frame.type === FrameType.Data) {
      stream.chunks.push(Buffer.from(payload));
      stream.received += payload.length;
      if (this.kit.config.manualCredit !== true) stream.giveBack(payload.length);
    }
    if (frame.type === FrameType.Eof) stream.ended = true;
    if (frame.type === FrameType.Reset) stream.reset = decodeReset(payload);
    if (frame.type === FrameType.Window) {
      stream.sendCredit += payload.readUInt32BE(0);
      stream.windows += 1;
    }
    stream.changed.emit('change');
  }

  private onSession(frame: Frame, lane: number): void {
    if (frame.type === FrameType.Ack) {
      const channel = this.channels.get(lane);
      if (channel?.replay?.acknowledge(Number(frame.payload.readBigUInt64BE(0))) === false) {
        throw new Error('an ACK of the future');
      }
      channel?.flush();
    } else if (frame.type === FrameType.Bind) this.onBind(parseObject(frame.payload, 'BIND'));
    else if (frame.type === FrameType.Unbind) {
      const bindId = Number(parseObject(frame.payload, 'UNBIND')['bindId']);
      this.binds.delete(bindId);
      this.json(FrameType.UnbindOk, { bindId });
    } else if (frame.type === FrameType.Window) this.sendCredit += frame.payload.readUInt32BE(0);
    else if (frame.type === FrameType.Ping && !this.kit.mute) {
      this.send(FrameType.Pong, 0, frame.payload, lane);
    } else if (frame.type === FrameType.ReissueJoinTickets) {
      const { missing } = parseObject(frame.payload, 'REISSUE_JOIN_TICKETS');
      const lost = this.held((missing ?? []) as { index: number; nonce: string }[]);
      for (const index of lost) {
        this.lanes.get(index)?.terminate();
        this.lanes.delete(index);
        this.channels.get(index)?.suspend();
      }
      this.json(FrameType.ReissueJoinTickets, { joinTickets: this.issue() });
    }
  }

  issue(): object[] {
    const tickets: object[] = [];
    for (let index = 1; index < this.granted; index += 1) {
      if (this.lanes.has(index)) continue;
      const nonce = randomUUID();
      this.tickets.set(nonce, index);
      tickets.push({ index, nonce, expiresMs: 10_000 });
    }
    return tickets;
  }

  private onBind(bind: Record<string, unknown>): void {
    const clientBindRef = Number(bind['clientBindRef']);
    const refusal = this.kit.refuseBind?.(bind);
    if (refusal !== undefined) {
      this.json(FrameType.BindErr, { clientBindRef, code: refusal, message: 'the test says no' });
      return;
    }
    const asked = Number(bind['containerPort']);
    this.kit.release(String(bind['replaces']), asked);
    const containerPort = asked === 0 ? 20_000 + this.nextBind : asked;
    if (bind['takeover'] === true) this.kit.revoke(containerPort);
    const bound: Bound = {
      bindId: this.nextBind++,
      kind: String(bind['kind']),
      mode: String(bind['mode']),
      containerPort,
    };
    this.binds.set(bound.bindId, bound);
    const publicUrl = this.kit.config.publicUrl ?? null;
    this.json(FrameType.BindOk, { clientBindRef, bindId: bound.bindId, containerPort, publicUrl });
  }
}

/** The kit. */
export class FixtureKit {
  readonly sessions = new Map<string, KitSession>();
  readonly upgrades: IncomingMessage[] = [];
  /** What every HELLO said. */
  readonly hellos: Buffer[] = [];
  /** Resumes without memory while set. */
  forgets = false;
  /** Does not know what `only` means. */
  isOlder = false;
  /** Does not want anybody back. */
  banned = false;
  readonly events = new EventEmitter();
  readonly streamWindow: number;
  readonly sessionWindow: number;
  /** Answers no PING while set. */
  mute = false;
  /** Returns a code to refuse a BIND with. */
  refuseBind: ((bind: Record<string, unknown>) => string | undefined) | undefined;
  /** Answers upgrades with this status instead, while set. */
  refuseUpgrade: number | undefined;
  /** What HELLO is answered with in place of the usual, by key. */
  helloOk: object = {};
  /** The same of JOIN. */
  joinOk: object = {};
  /** Answers nothing while set. */
  silent = false;
  /** The same of HELLO alone: whoever is there already is served. */
  greetsNobody = false;
  private readonly server: Server;
  private readonly sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) =>
      ['hoody-tunnel.v2', 'hoody-tunnel.v1'].find((name) => offered.has(name)) ?? false,
  });

  private constructor(readonly config: KitConfig) {
    this.streamWindow = config.streamWindow ?? 1_048_576;
    this.sessionWindow = config.sessionWindow ?? 16_777_216;
    this.events.setMaxListeners(0);
    this.server = createServer((_request, response) => {
      response.writeHead(404).end();
    });
    this.server.on('upgrade', (request, socket, head) => {
      this.upgrades.push(request);
      if (this.refuseUpgrade !== undefined) {
        socket.end(`HTTP/1.1 ${this.refuseUpgrade} No\r\ncontent-length: 2\r\n\r\nno`);
        return;
      }
      this.sockets.handleUpgrade(request, socket, head, (ws) => this.onSocket(ws, request));
    });
  }

  static async start(config: KitConfig = {}, port = 0): Promise<FixtureKit> {
    const kit = new FixtureKit(config);
    kit.server.listen(port, '127.0.0.1');
    await once(kit.server, 'listening');
    return kit;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** The only, or the latest, session. */
  get session(): KitSession {
    const session = [...this.sessions.values()].at(-1);
    if (session === undefined) throw new Error('no session');
    return session;
  }

  revoke(containerPort: number): void {
    for (const session of this.sessions.values()) {
      for (const bound of [...session.binds.values()]) {
        if (bound.containerPort !== containerPort) continue;
        session.binds.delete(bound.bindId);
        session.json(FrameType.BindRevoked, { bindId: bound.bindId, reason: 'taken over' });
      }
    }
  }

  /** Takes a port from a parked session whose id the client knows. */
  release(sessionId: string, containerPort: number): void {
    const parked = this.sessions.get(sessionId);
    if (parked?.lanes.size !== 0) return;
    for (const bound of [...parked.binds.values()]) {
      if (bound.containerPort === containerPort) parked.binds.delete(bound.bindId);
    }
  }

  async until(what: () => boolean): Promise<void> {
    while (!what()) await new Promise((resolve) => setTimeout(resolve, 2));
  }

  async stop(): Promise<void> {
    for (const session of this.sessions.values()) {
      clearTimeout(session.parked);
      session.drop();
    }
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private onSocket(socket: WebSocket, request: IncomingMessage): void {
    let session: KitSession | undefined;
    let index = 0;
    socket.on('error', () => undefined);
    socket.on('message', (data: Buffer) => {
      if (this.silent || (this.greetsNobody && session === undefined)) return;
      // What a socket brings whose client came back on another one is not taken.
      if (session !== undefined && session.lanes.get(index) !== socket) return;
      const frames = decodeMessage(Buffer.from(data));
      if (session !== undefined) session.messages += 1;
      const take = (): void => {
        for (const frame of frames) {
          session?.heard.push({ type: frame.type, on: index, at: performance.now() });
          if (session !== undefined) session.onFrame(frame, index);
          else if (frame.type === FrameType.Hello) session = this.onHello(frame, socket, request);
          else if (frame.type === FrameType.Join) [session, index] = this.onJoin(frame, socket);
        }
      };
      const channel = session?.channels.get(index);
      if (channel === undefined) take();
      else channel.receive(Buffer.from(data), take);
    });
    socket.on('close', (code) => {
      if (session?.lanes.get(index) !== socket) return;
      session.lanes.delete(index);
      session.channels.get(index)?.suspend();
      session.events.emit('closed', index, code);
      if (index === 0 && !session.replays) this.onPrimaryGone(session, code);
    });
  }

  private onPrimaryGone(session: KitSession, code: number): void {
    const ended = code === 1000 || code === 1005 || session.binds.size === 0;
    session.drop();
    session.streams.clear();
    if (ended) this.sessions.delete(session.id);
    else {
      session.parked = setTimeout(
        () => this.sessions.delete(session.id),
        this.config.graceMs ?? 60_000,
      ).unref();
    }
  }

  private onHello(
    frame: Frame,
    socket: WebSocket,
    request: IncomingMessage,
  ): KitSession | undefined {
    this.hellos.push(Buffer.from(frame.payload));
    if (this.banned) {
      return this.refuse(socket, Code.Cancel, 'banned for a while', 1000, { final: true });
    }
    const hello = readHello(frame.payload);
    const proof = [hello.token, request.headers.authorization?.replace('Bearer ', '')];
    if (this.config.token !== undefined && !proof.includes(this.config.token)) {
      return this.refuse(socket, Code.AuthError, 'wrong token', 1008);
    }
    const old = hello.resume === undefined ? undefined : this.sessions.get(hello.resume);
    if (old === undefined && this.sessions.size >= (this.config.maxSessions ?? 8)) {
      return this.refuse(socket, Code.ResourceExhausted, 'session limit reached', 1013);
    }
    const resume = parseObject(frame.payload, 'HELLO')['resume'] as Resume | null;
    if (old === undefined && resume?.only === true && !this.isOlder) {
      return this.refuse(socket, Code.Cancel, 'over', 1008);
    }
    if (old !== undefined && (resume?.attempt ?? Infinity) <= old.attempt) {
      socket.close(1008, 'a later HELLO came before');
      return undefined;
    }
    const session = old ?? new KitSession(this);
    if (old !== undefined) old.attempt = resume?.attempt ?? 0;
    const known = old?.replays === true && resume?.epoch === old.epoch && !this.forgets;
    const kept = known ? old.held(resume.lanes ?? []) : [];
    if (old !== undefined) {
      clearTimeout(old.parked);
      for (const [lane, before] of [...old.lanes]) {
        if (kept.includes(lane)) continue;
        old.lanes.delete(lane);
        old.channels.get(lane)?.suspend();
        before.close(1001, 'resumed on another connection');
      }
    }
    if (known) {
      old.tickets.clear();
      const answer = {
        sessionId: old.id,
        resumed: true,
        epoch: old.epoch,
        capabilities: ['replay'],
        received: old.channels.get(0)?.replay?.received,
        lanes: kept,
        connectionsGranted: old.granted,
        joinTickets: old.issue(),
        ...this.helloOk,
      };
      socket.send(encodeFrame(FrameType.HelloOk, 0, Buffer.from(JSON.stringify(answer))));
      if (!old.carry(0, socket, resume.received)) throw new Error('a wrong count');
      this.events.emit('hello', old);
      return old;
    }
    if (old !== undefined) {
      old.epoch += 1;
      old.nextStream = 2;
      old.sendCredit = this.sessionWindow;
      old.streams.clear();
      old.channels.clear();
    }
    this.sessions.set(session.id, session);
    const replays = this.config.replay === true && hello.capabilities.includes('replay');
    session.replays = replays;
    session.carry(0, socket);
    const v2 = hello.version === 'hoody-tunnel.v2' && hello.capabilities.includes('multi-ws');
    session.granted = v2 ? Math.min(hello.maxConnections, this.config.granted ?? 16) : 1;
    session.json(FrameType.HelloOk, {
      capabilities: [
        ...(replays ? ['replay'] : []),
        ...(this.config.grants ?? []).filter((name) => hello.capabilities.includes(name)),
      ],
      ...(replays ? { epoch: session.epoch } : {}),
      sessionId: session.id,
      resumed: old !== undefined,
      resumedBinds: [...session.binds.values()].map((bound) =>
        this.config.tellsUrls === true
          ? { ...bound, publicUrl: this.config.publicUrl ?? null }
          : bound,
      ),
      streamWindow: this.streamWindow,
      sessionWindow: this.sessionWindow,
      connectionsGranted: session.granted,
      joinTickets: session.issue(),
      maxStreams: this.config.maxStreams,
      ...this.helloOk,
    });
    this.events.emit('hello', session);
    return session;
  }

  private onJoin(frame: Frame, socket: WebSocket): [KitSession | undefined, number] {
    const join = parseObject(frame.payload, 'JOIN');
    const session = this.sessions.get(String(join['sessionId']));
    const index = session?.tickets.get(String(join['nonce']));
    if (session === undefined || index === undefined || index !== join['index']) {
      const code = session === undefined ? 'UNKNOWN_SESSION' : 'BAD_TICKET';
      const refusal = Buffer.from(JSON.stringify({ code, message: 'no' }));
      socket.send(encodeFrame(FrameType.JoinErr, 0, refusal));
      return [undefined, 0];
    }
    session.tickets.delete(String(join['nonce']));
    session.joins.push(join);
    session.joinedBy.set(index, String(join['nonce']));
    const channel = session.channels.get(index);
    const says =
      typeof join['received'] === 'number' && !this.forgets ? join['received'] : undefined;
    const received = says === undefined ? undefined : (channel?.replay?.received ?? 0);
    const { data, credit } = session.carried(index);
    const settles = { dataReceived: data, creditReceived: credit };
    const ok = { index, received, ...(received === undefined ? settles : {}), ...this.joinOk };
    socket.send(encodeFrame(FrameType.JoinOk, 0, Buffer.from(JSON.stringify(ok))));
    if (received === undefined && session.replays) session.beginAnew(index, join);
    const goesOn = channel !== undefined && received !== undefined;
    if (!session.carry(index, socket, goesOn ? says : undefined)) throw new Error('a wrong count');
    return [session, index];
  }

  private refuse(
    socket: WebSocket,
    code: number,
    message: string,
    close: number,
    more = {},
  ): undefined {
    const goaway = { code, message, lastStreamId: 0, graceMs: 0, ...more };
    socket.send(encodeFrame(FrameType.Goaway, 0, Buffer.from(JSON.stringify(goaway))));
    socket.close(close, message);
  }
}
