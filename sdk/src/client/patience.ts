/**
 * How long a session waits for what, in milliseconds.
 */

/** How long one dial of a lost session may take. */
export const REDIAL_MS = 10_000;
/** A session that was up this long is dialled at once when it is lost. */
export const STEADY_MS = 250;
/** For so long after a loss a session with streams is not given up for another. */
export const HOPE_MS = 10_000;
/** How long the kit may take to answer UNBIND when a session is closed. */
export const FAREWELL_MS = 1000;
/** How often a session that closes looks whether anything still runs. */
export const DRAIN_POLL_MS = 10;
/** How long a connection that came to be forwarded waits for the kit. */
export const FORWARD_WAIT_MS = 10_000;
/** How often it looks whether a stream can be opened for it. */
export const FORWARD_POLL_MS = 20;
/** What runs gets so long where a process is told to end. */
export const EXIT_GRACE_MS = 500;
