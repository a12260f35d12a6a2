/**
 * The streams that this end opens (PROTOCOL §4, §8): odd ids, which only grow over all lanes.
 */
import { FrameType } from '../wire/frame.js';
import { MuxStream, type StreamLane, type StreamOwner } from './stream.js';

/** The highest id of ours; past it only another session has more. */
const LAST_ID = 0xffff_ffff;

/** See the module. */
export class OwnStreams {
  private next = 1;

  /** Whether a stream of that id was never opened by us. */
  isUnknown(id: number): boolean {
    return id % 2 === 0 || id >= this.next;
  }

  /** Opens one more; undefined where no lane has room for it, or ids have run out. */
  open(owner: StreamOwner, lanes: Iterable<StreamLane>, open: object): MuxStream | undefined {
    const lane = laneForOne(lanes);
    if (lane === undefined || this.next > LAST_ID) return undefined;
    const stream = new MuxStream(owner, lane, this.next, owner.limits.streamWindow);
    this.next += 2;
    const text = JSON.stringify(open);
    lane.pushText(FrameType.StreamOpen, stream.id, text, Buffer.byteLength(text));
    return stream;
  }
}

/** Of those lanes on which a stream may be opened, the one with the least on its way. */
function laneForOne(lanes: Iterable<StreamLane>): StreamLane | undefined {
  let best: StreamLane | undefined;
  for (const lane of lanes) {
    if (lane.isDown || !lane.mayOpen) continue;
    // Those before it have it where both are as free: the primary comes first.
    if (best === undefined || lane.backlog < best.backlog) best = lane;
  }
  return best;
}
