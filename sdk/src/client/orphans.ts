/**
 * Bindings of a session that another process left, taken up by id, until the caller binds them
 * here. Their visitors wait a moment for that.
 */
import { Code } from '../wire/code.js';
import type { StreamOpen } from '../wire/control.js';
import type { MuxStream, StreamSink } from '../mux/stream.js';
import { answerPlain, Tally } from '../local/report.js';
import type { ResumedBind } from '../wire/terms.js';

/** How long a visitor waits for its binding to be taken up, in milliseconds. */
const WAIT_MS = 3000;

/** A binding without a target, and the visitors that came for it. */
interface Orphan {
  bind: ResumedBind;
  waiting: Set<Waiting>;
  /** A BIND that takes the port over from ourselves waits for its answer. */
  claimed: boolean;
  /** Such a BIND was said and not refused, so that the kit revokes this id. */
  replaced: boolean;
}

/** A port that is to be taken over from ourselves. */
export interface Replacement {
  replace: number;
  /** The BIND got no grant; `refused` when the kit said so, and the binding is as it was. */
  failed: (refused: boolean) => void;
}

/** The bindings that nobody has taken up yet. */
export class Orphans {
  private readonly all = new Map<number, Orphan>();

  /** A resumed session brought a binding along. */
  add(bind: ResumedBind): void {
    this.all.set(bind.bindId, {
      bind,
      waiting: new Set(),
      claimed: false,
      replaced: false,
    });
  }

  /**
   * Takes up the binding that fits, if there is one. Where an older kit did not tell the address of
   * an EXPOSE, it is only named: the kit tells the address to whoever binds it, so that we take it
   * over from ourselves. That would cut a visitor who waits; then the address stays unknown.
   */
  adopt(kind: string, mode: string, port: number): Adopted | Replacement | undefined {
    for (const orphan of this.all.values()) {
      const { bind, waiting, claimed, replaced } = orphan;
      const fits = bind.kind === kind && bind.mode === mode && !claimed;
      if (!fits || (port !== 0 && bind.containerPort !== port)) continue;
      // An id that the kit may be about to revoke is not taken up.
      const whole = mode === 'pull' || bind.publicUrl !== undefined || waiting.size > 0;
      if (replaced || !whole) return replacementOf(orphan);
      this.all.delete(bind.bindId);
      return { bind, waiting: [...waiting] };
    }
    return undefined;
  }

  /** Lets a visitor wait; false when its binding is not here. */
  accept(stream: MuxStream, open: StreamOpen): boolean {
    const { bindId } = open;
    const orphan = bindId === undefined ? undefined : this.all.get(bindId);
    if (orphan === undefined) return false;
    const waiting = new Waiting(stream, open, () => orphan.waiting.delete(waiting));
    orphan.waiting.add(waiting);
    stream.sink = waiting;
    return true;
  }

  /** Forgets a binding that the kit took away; undefined when that was our own doing. */
  revoke(bindId: number): ResumedBind | undefined {
    const orphan = this.all.get(bindId);
    this.all.delete(bindId);
    return orphan?.replaced === true ? undefined : orphan?.bind;
  }

  /** The session starts over or is gone. */
  clear(): void {
    this.all.clear();
  }
}

function replacementOf(orphan: Orphan): Replacement {
  const before = orphan.replaced;
  orphan.claimed = true;
  orphan.replaced = true;
  const failed = (refused: boolean): void => {
    orphan.claimed = false;
    // One that was given up may have been heard all the same.
    if (refused) orphan.replaced = before;
  };
  return { replace: orphan.bind.containerPort, failed };
}

/** A binding that was taken up, with the visitors to hand over. */
export interface Adopted {
  bind: ResumedBind;
  waiting: Waiting[];
}

/** A visitor that waits. */
export class Waiting implements StreamSink {
  private chunks: Buffer[] = [];
  private ended = false;
  private readonly timer: NodeJS.Timeout;

  constructor(
    private readonly stream: MuxStream,
    private readonly open: StreamOpen,
    private readonly gone: () => void,
  ) {
    this.timer = setTimeout(() => {
      this.giveUp();
    }, WAIT_MS);
  }

  data(chunk: Buffer): void {
    if (this.stream.sendable) this.chunks.push(chunk);
    else this.stream.consumed(chunk.length);
  }

  end(): void {
    this.ended = true;
  }

  reset(): void {
    clearTimeout(this.timer);
    this.gone();
  }

  drain(): void {
    // Nothing is sent while waiting.
  }

  /** Hands the visitor over to whoever `accept` gives it to. */
  handOver(accept: (stream: MuxStream, open: StreamOpen) => void): void {
    clearTimeout(this.timer);
    const { stream } = this;
    accept(stream, this.open);
    for (const chunk of this.chunks) {
      // One that was answered at once is over, and nobody is left to take its bytes.
      if (stream.sink === undefined) stream.consumed(chunk.length);
      else stream.sink.data(chunk);
    }
    if (this.ended) stream.sink?.end();
  }

  private giveUp(): void {
    this.gone();
    for (const chunk of this.chunks) this.stream.consumed(chunk.length);
    this.chunks = [];
    if (this.open.kind !== 'http') {
      this.stream.reset(Code.RefusedStream, 'the resumed binding was not taken up');
      return;
    }
    answerPlain(
      this.stream,
      new Tally(this.open, undefined),
      502,
      '502 Bad Gateway\n\nThe session was resumed, but nothing was bound to this port again.\n',
    );
  }
}
