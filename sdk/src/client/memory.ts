/**
 * What is kept of lost connections so that the next ones go on with their streams (PROTOCOL §9).
 */
import type { HeldLane, Resume } from '../wire/control.js';
import type { HelloOk } from '../wire/terms.js';
import type { Carrier } from '../mux/lane.js';
import { REPLAY_BUFFER_LEAST } from '../mux/limits.js';
import { Replay, type ReplayBounds } from '../mux/replay.js';
import type { MuxHost, MuxSession } from '../mux/session.js';
import type { StreamLane } from '../mux/stream.js';
import { ProtocolError } from './errors.js';
import type { CheckedSession } from './options.js';

/** See the module. */
export class Memory {
  private isOver = false;
  private readonly bounds: ReplayBounds;

  private constructor(
    readonly sessionId: string,
    private readonly epoch: number,
    readonly mux: MuxSession,
    /** What HELLO offered; who offers less is not taken for the same client. */
    readonly offer: Pick<CheckedSession, 'maxConnections' | 'replayBuffer'>,
    lanes: number,
    /** How many HELLOs told of it, or of one before. */
    private attempt: number,
  ) {
    const buffer = Math.max(offer.replayBuffer, REPLAY_BUFFER_LEAST);
    // A lane that is lost must not keep all of the credit from the others.
    this.bounds = { buffer, data: Math.floor(mux.sendCredit.window / 2 / lanes) };
  }

  /** Begins one, where the kit granted it. */
  static of(
    config: CheckedSession,
    hello: HelloOk,
    mux: MuxSession,
    before: Memory | undefined,
  ): Memory | undefined {
    const { epoch, capabilities, sessionId } = hello;
    const granted = config.replayBuffer > 0 && capabilities.includes('replay');
    if (!granted || epoch === undefined) return undefined;
    const { maxConnections, replayBuffer } = config;
    const lanes = Math.max(1, hello.connectionsGranted);
    const offer = { maxConnections, replayBuffer };
    // The kit may know the session from before, and takes a lower number for one that comes late.
    return new Memory(sessionId, epoch, mux, offer, lanes, before?.attempt ?? 0);
  }

  /** Whether there is something that a fresh session would not have. */
  get hasStreams(): boolean {
    return this.mux.size > 0;
  }

  /** What a lane keeps that begins. */
  newReplay(): Replay {
    return new Replay(this.bounds);
  }

  /** What HELLO says; each one of them is a new attempt. */
  resume(lanes: HeldLane[]): Resume | undefined {
    const received = this.mux.primary?.replay?.received;
    if (this.isOver || received === undefined) return undefined;
    const { sessionId, epoch } = this;
    return { sessionId, epoch, attempt: ++this.attempt, received, lanes };
  }

  /**
   * Goes on with another primary, if the kit remembers as well; else all streams of before end.
   * Throws when the kit tells of frames that it cannot have.
   */
  revive(hello: HelloOk, host: MuxHost, carrier: Carrier, now: number): StreamLane | undefined {
    const { resumed, received, epoch } = hello;
    if (this.isOver) return undefined;
    if (!resumed || received === undefined || epoch !== this.epoch) {
      this.end();
      return undefined;
    }
    const lane = this.mux.primary;
    // It stands where another object of this process asked for the session.
    if (lane !== undefined) this.mux.suspend(lane, now);
    if (lane !== undefined && this.mux.revive(lane, carrier, received, now)) {
      this.mux.handTo(host);
      return lane;
    }
    this.end();
    throw new ProtocolError('The kit tells of frames that it cannot have taken');
  }

  /** Sends a session frame as soon as there is a connection. */
  send(type: number, json: object): void {
    const text = JSON.stringify(json);
    this.mux.primary?.pushText(type, 0, text, Buffer.byteLength(text));
  }

  /** What was kept ends. */
  end(): void {
    this.isOver = true;
    this.mux.abandon('the connection is gone, and what was kept with it');
  }
}
