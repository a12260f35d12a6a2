/**
 * The TypeScript client of hoody-tunnel.
 *
 * Rooms from the ground up: `wire` (bytes to frames), `mux` (streams and credit on lanes), `local`
 * (the local server or handler) and `client` (sessions, which is what callers see).
 */
/// <reference lib="esnext.disposable" preserve="true" />
import './client/dispose.js';

export { tunnel, Tunnel } from './client/tunnel.js';
export { TunnelSession, type SessionState } from './client/session.js';
export type { Binding } from './client/binding.js';
export type { Forward } from './client/forward.js';
export type { ForwardTunnel } from './client/forward-tunnel.js';
export type {
  ForwardCallOptions,
  ForwardOptions,
  ForwardTarget,
} from './client/forward-options.js';
export type {
  AdminOptions,
  BindOptions,
  ExposeOptions,
  KitOptions,
  PullOptions,
  ServeOptions,
  SessionOptions,
  StateStore,
  Token,
} from './client/options.js';
export {
  AdminError,
  AuthError,
  BindError,
  ClosedError,
  ForwardError,
  LostError,
  OptionsError,
  ProtocolError,
  ResumeExpiredError,
  SessionLimitError,
  StateError,
  TokenError,
  TlsError,
  TunnelError,
  TunnelTimeoutError,
  type ForwardFailure,
  type TunnelErrorCode,
} from './client/errors.js';
export type {
  ListenOptions,
  TunnelEvent,
  TunnelEventMap,
  TunnelEventType,
  TunnelListener,
} from './client/events.js';
export type {
  AdminRequest,
  BindingList,
  Health,
  KillResult,
  SessionInfo,
  SessionList,
  TunnelAdmin,
  TunnelList,
} from './client/admin.js';
export type { Metrics, Sample } from './client/metrics.js';
export type {
  ErrorHandler,
  ExchangeReport,
  FetchHandler,
  HandlerBinding,
  HandlerInfo,
  HostHeader,
  LocalAddress,
  Overload,
  ProxyProtocol,
  Shortage,
} from './local/terms.js';
export type { BindKind, BindMode, HelloOk, JoinTicket, ResumedBind } from './wire/terms.js';
