/**
 * The session of a laptop without sockets: tests say what the kit sends and see what is sent.
 */
import { Lane } from '../../src/mux/lane.js';
import type { StreamLane } from '../../src/mux/stream.js';
import { MuxSession } from '../../src/mux/session.js';
import type { Unread } from '../../src/mux/stalls.js';
import type { MuxStream } from '../../src/mux/stream.js';
import { decodeMessage, decodeReset, encodeFrame, FrameType } from '../../src/wire/frame.js';
import type { Frame } from '../../src/wire/frame.js';

export const WINDOW = 262_144;
export const MIB = 1024 * 1024;

/** A session on carriers that only note what is sent. */
export class Rig {
  readonly sent: Frame[] = [];
  readonly messages: number[] = [];
  readonly streams = new Map<number, MuxStream>();
  readonly told: string[] = [];
  backlog = 0;
  /** What lies unread below the local sides that have a connection. */
  unread: Unread = () => Promise.resolve(new Map());
  readonly mux: MuxSession;
  readonly lane: StreamLane;

  constructor(limits: { streamWindow?: number; sessionWindow?: number; maxStreams?: number } = {}) {
    this.mux = new MuxSession(
      { streamWindow: WINDOW, sessionWindow: 16 * MIB, maxStreams: 4, ...limits },
      {
        accept: (stream) => {
          this.streams.set(stream.id, stream);
          const note = (what: string) => this.told.push(`${stream.id} ${what}`);
          stream.sink = {
            data: (chunk) => note(`data ${chunk.length}`),
            end: () => note('end'),
            reset: (code) => note(`reset ${code}`),
            drain: () => note('drain'),
          };
        },
        control: (frame) => this.told.push(`control ${frame.type}`),
        unread: (connections) => this.unread(connections),
      },
    );
    this.lane = this.addLane(0);
  }

  addLane(index: number): StreamLane {
    const carrier = {
      send: (message: Buffer): void => {
        // A copy, as a carrier makes: the buffer is used again.
        this.sent.push(...decodeMessage(Buffer.from(message)));
        this.messages.push(message.length);
      },
      backlog: 0,
    };
    Object.defineProperty(carrier, 'backlog', { get: () => this.backlog });
    const lane: StreamLane = new Lane(index, carrier);
    this.mux.addLane(lane);
    return lane;
  }

  receive(type: number, id: number, payload: Buffer | string = '', lane = this.lane): void {
    this.mux.receive(lane, encodeFrame(type, id, Buffer.from(payload)));
  }

  open(id: number, lane = this.lane): MuxStream {
    this.receive(FrameType.StreamOpen, id, '{"kind":"tcp"}', lane);
    return this.streams.get(id)!;
  }

  window(id: number, bytes: number): void {
    const payload = Buffer.alloc(4);
    payload.writeUInt32BE(bytes);
    this.receive(FrameType.Window, id, payload);
  }

  /** What was sent since the last call, as text. */
  flush(): string[] {
    this.lane.flush();
    const lines = this.sent.map(({ type, streamId, payload }) => {
      if (type === FrameType.Reset) return `${streamId} reset ${decodeReset(payload).code}`;
      if (type === FrameType.Window) return `${streamId} window ${payload.readUInt32BE(0)}`;
      if (type === FrameType.Data) return `${streamId} data ${payload.length}`;
      return `${streamId} type ${type}`;
    });
    this.sent.length = 0;
    return lines;
  }
}
