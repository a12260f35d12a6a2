//! What the operator asked for, checked once before anything starts.
//!
//! The defaults are those of the command line. [`Config::validate`] refuses what would not work and
//! says which values would.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::http::HeadLimits;
use crate::http::trail::Proxies;
use crate::kit::budget::Needs;
use crate::kit::memory::Plan;
use crate::kit::policy::Policy;
use crate::kit::public_url::PublicUrl;
use crate::limits::{
    DATAGRAMS_IDLE, DEFAULT_MEMORY, DEFAULT_REPLAY_BUFFER, DEFAULT_SESSION_WINDOW,
    DEFAULT_STREAM_WINDOW, LEAST_FIELDS, LEAST_HEAD, LONGEST_HEAD, LOOPBACK_RESERVE, MAX_BINDINGS,
    MAX_FD_BUDGET, MAX_LANES, MAX_MEMORY, MAX_PRE_AUTH, MAX_REPLAY_BUFFER, MAX_SESSION_WINDOW,
    MAX_SESSIONS, MAX_STREAM_WINDOW, MAX_STREAMS, MIN_FD_BUDGET, MIN_MEMORY, MIN_REPLAY_BUFFER,
    MIN_WINDOW, MOST_FIELDS, VISITOR_HEAD_TIMEOUT,
};
use crate::units::{show_duration, show_size};
use crate::wire::control::Secret;
use crate::wire::service::Service;

/// Everything that can be set from outside.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the kit's own listener is (`--listen`).
    pub listen: SocketAddr,
    /// The address that EXPOSE ports listen on (`--expose-host`).
    pub expose_host: IpAddr,
    /// What clients and operators prove themselves with (`--token-file`).
    pub token: Option<Secret>,
    /// The operator said that nobody has to prove anything (`--no-auth`).
    pub no_auth: bool,
    /// Whom clients may have the kit connect to (`--allow-forward`), PROTOCOL §8.
    pub allow_forward: Policy,
    /// Where the world reaches EXPOSE ports (`--public-url-pattern`).
    pub public_url: Option<PublicUrl>,
    /// Where the world reaches EXPOSE ports that carry raw TCP (`--public-tcp-pattern`).
    pub public_tcp: Option<PublicUrl>,
    /// Sessions at once, live and parked (`--max-sessions`).
    pub max_sessions: usize,
    /// Bindings of one session (`--max-bindings-per-session`).
    pub max_bindings_per_session: usize,
    /// Streams of one session at once (`--max-streams-per-session`).
    pub max_streams_per_session: usize,
    /// Sockets of one session (`--max-connections-per-session`), PROTOCOL §7.
    pub max_connections_per_session: usize,
    /// Bytes of a stream's window (`--stream-initial-window`), PROTOCOL §5.
    pub stream_initial_window: u32,
    /// Bytes of a session's window (`--session-initial-window`), PROTOCOL §5.
    pub session_initial_window: u32,
    /// Bytes of a lane that are kept until they are acknowledged (`--replay-buffer`), PROTOCOL §9;
    /// 0 keeps nothing.
    pub replay_buffer: u32,
    /// Bytes of memory for what peers send, of all sessions together (`--memory`); see
    /// [`crate::kit::memory`].
    pub memory: u64,
    /// How long a new connection to the kit may take to say HELLO (`--hello-timeout`).
    pub hello_timeout: Duration,
    /// Silence after which the kit sends PING (`--ping-after`), PROTOCOL §6.
    pub ping_after: Duration,
    /// Silence after a PING that ends a socket (`--pong-timeout`).
    pub pong_timeout: Duration,
    /// How long a session without a socket is kept; zero turns parking off (`--takeover-grace`).
    pub takeover_grace: Duration,
    /// How long a visitor may wait for a laptop that is away; zero not at all
    /// (`--hold-visitors`), PROTOCOL §9.
    pub hold_visitors: Duration,
    /// How long streams may go on after SIGTERM; zero ends them at once (`--drain`), PROTOCOL §6.
    pub drain: Duration,
    /// How long a session without streams and bindings is kept (`--idle-timeout`).
    pub idle_timeout: Duration,
    /// How long a half-closed stream may be silent (`--half-close-timeout`), PROTOCOL §4.
    pub half_close_timeout: Duration,
    /// How long a visitor waits for the head of the answer before `504` (`--response-timeout`).
    pub response_timeout: Duration,
    /// How large the head of a visitor's request may be (`--max-head`, `--max-fields`).
    pub visitor_heads: HeadLimits,
    /// How long a visitor's request body may stand still before `408` (`--body-timeout`).
    pub body_timeout: Duration,
    /// Connections to the kit that have not proven anything yet (`--max-pre-auth-connections`).
    pub max_pre_auth_connections: usize,
    /// Whether EXPOSE may bind 80..=1023 (`--allow-privileged-expose`).
    pub allow_privileged_expose: bool,
    /// Whether PULL may bind 80..=1023 (`--allow-privileged-pull`).
    pub allow_privileged_pull: bool,
    /// Whether EXPOSE ports may carry raw TCP (`--allow-tcp-expose`, `--no-tcp-expose`).
    pub tcp_expose: bool,
    /// Whether EXPOSE may bind UDP ports (`--allow-udp-expose`), PROTOCOL §8.1.
    pub allow_udp_expose: bool,
    /// How long a peer of a UDP port may be silent (`--udp-idle`).
    pub udp_idle: Duration,
    /// Whether those that may be others than they say get answers of any size
    /// (`--udp-unlimited-answers`).
    pub udp_unlimited_answers: bool,
    /// Descriptors that the machine may have open (`--fd-budget`).
    pub fd_budget: usize,
    /// Origins that may connect besides the kit's own, or `*` (`--allow-origin`).
    pub allow_origin: Vec<String>,
    /// Names that the kit answers to besides its own, `*.suffix` or `*` (`--allow-host`).
    pub allow_host: Vec<String>,
    /// Proxies that are believed who they speak for (`--trusted-proxy`), PROTOCOL §11.
    pub trusted_proxies: Proxies,
    /// Whether `Via` is said both ways (`--via`).
    pub via: bool,
    /// What `health` tells about the program.
    pub about: About,
}

/// Facts about the program that the machine cannot know by itself.
#[derive(Debug, Clone)]
pub struct About {
    /// The program's version.
    pub version: &'static str,
    /// When it was built, RFC 3339, if that is known.
    pub built: Option<&'static str>,
    /// When it was started, RFC 3339.
    pub started: String,
    /// When it was started, in seconds since 1970.
    pub started_unix: u64,
    /// The process id.
    pub pid: u32,
    /// The address of this machine towards the world, as far as it is known.
    pub ip: IpAddr,
    /// Asks the system what the process uses right now.
    pub usage: fn() -> Usage,
}

/// What the process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory that are resident.
    pub rss: u64,
    /// Open descriptors.
    pub fds: u64,
    /// Lines of the log that nobody read in time.
    pub log_lines_dropped: u64,
}

/// A value that the kit cannot start with. The text is one sentence and names flag and range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// Why not.
    pub fn new(why: impl Into<String>) -> ConfigError {
        ConfigError(why.into())
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT),
            expose_host: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            token: None,
            no_auth: false,
            allow_forward: Policy::off(),
            public_url: None,
            public_tcp: None,
            tcp_expose: true,
            max_sessions: 8,
            max_bindings_per_session: 8,
            max_streams_per_session: 1024,
            max_connections_per_session: MAX_LANES,
            stream_initial_window: DEFAULT_STREAM_WINDOW,
            session_initial_window: DEFAULT_SESSION_WINDOW,
            replay_buffer: DEFAULT_REPLAY_BUFFER,
            memory: DEFAULT_MEMORY,
            hello_timeout: Duration::from_secs(5),
            ping_after: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(60),
            takeover_grace: Duration::from_secs(60),
            hold_visitors: Duration::ZERO,
            drain: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            half_close_timeout: Duration::from_secs(300),
            response_timeout: Duration::from_secs(300),
            visitor_heads: HeadLimits::REQUEST,
            body_timeout: Duration::from_secs(60),
            max_pre_auth_connections: 32,
            allow_privileged_expose: false,
            allow_privileged_pull: false,
            allow_udp_expose: false,
            udp_idle: DATAGRAMS_IDLE,
            udp_unlimited_answers: false,
            fd_budget: 4096,
            allow_origin: Vec::new(),
            allow_host: Vec::new(),
            trusted_proxies: Proxies::default(),
            via: false,
            about: About::default(),
        }
    }
}

impl Default for About {
    fn default() -> About {
        About {
            version: env!("CARGO_PKG_VERSION"),
            built: None,
            started: "1970-01-01T00:00:00Z".to_string(),
            started_unix: 0,
            pid: 0,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            usage: Usage::default,
        }
    }
}

impl Config {
    /// Refuses what could not work, with the values that would.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_counts()?;
        self.check_windows()?;
        self.check_heads()?;
        self.check_durations()?;
        self.check_guards()?;
        self.check_carried()?;
        self.check_auth()
    }

    /// Where the world reaches a binding's port, if it does and the operator said so.
    pub(super) fn public_url_of(&self, service: Service, port: u16) -> Option<String> {
        let pattern = match service {
            Service::HttpExpose => &self.public_url,
            Service::TcpExpose => &self.public_tcp,
            Service::TcpPull | Service::UdpExpose | Service::UdpPull => &None,
        };
        Some(pattern.as_ref()?.for_port(port))
    }

    /// What the memory carries.
    pub fn memory_plan(&self) -> Plan {
        Plan::of(
            self.memory,
            self.max_sessions,
            (self.stream_initial_window, self.session_initial_window),
            self.max_connections_per_session.min(MAX_LANES),
            self.replay_buffer,
        )
    }

    /// How many descriptors each class could use at most.
    pub fn descriptor_needs(&self) -> Needs {
        Needs {
            listeners: 1 + self.max_sessions * self.max_bindings_per_session,
            // And one newcomer, before another one goes for it.
            fronts: self.max_pre_auth_connections + LOOPBACK_RESERVE + 1,
            lanes: self.max_sessions * self.max_connections_per_session,
        }
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let count = |flag, value: usize, top: usize| between(flag, value, 1, top, usize::to_string);
        count("--max-sessions", self.max_sessions, MAX_SESSIONS)?;
        count(
            "--max-bindings-per-session",
            self.max_bindings_per_session,
            MAX_BINDINGS,
        )?;
        count(
            "--max-streams-per-session",
            self.max_streams_per_session,
            MAX_STREAMS,
        )?;
        count(
            "--max-connections-per-session",
            self.max_connections_per_session,
            MAX_LANES,
        )?;
        count(
            "--max-pre-auth-connections",
            self.max_pre_auth_connections,
            MAX_PRE_AUTH,
        )?;
        between(
            "--fd-budget",
            self.fd_budget,
            MIN_FD_BUDGET,
            MAX_FD_BUDGET,
            usize::to_string,
        )
    }

    fn check_windows(&self) -> Result<(), ConfigError> {
        let size = |flag, value: u32, least: u32, top: u32| {
            between(flag, value, least, top, |bytes| {
                show_size(u64::from(*bytes))
            })
        };
        size(
            "--stream-initial-window",
            self.stream_initial_window,
            MIN_WINDOW,
            MAX_STREAM_WINDOW,
        )?;
        size(
            "--session-initial-window",
            self.session_initial_window,
            MIN_WINDOW,
            MAX_SESSION_WINDOW,
        )?;
        if self.replay_buffer != 0 {
            size(
                "--replay-buffer",
                self.replay_buffer,
                MIN_REPLAY_BUFFER,
                MAX_REPLAY_BUFFER,
            )?;
        }
        between("--memory", self.memory, MIN_MEMORY, MAX_MEMORY, |bytes| {
            show_size(*bytes)
        })?;
        if self.stream_initial_window > self.session_initial_window {
            return Err(ConfigError::new(format!(
                "--stream-initial-window ({}) must not be larger than --session-initial-window \
                 ({})",
                show_size(u64::from(self.stream_initial_window)),
                show_size(u64::from(self.session_initial_window)),
            )));
        }
        Ok(())
    }

    /// How often visitors are looked at, at least: their deadlines are kept so closely.
    pub(super) fn visitor_look(&self) -> Duration {
        let shortest = self.response_timeout.min(self.body_timeout);
        VISITOR_HEAD_TIMEOUT.min(shortest)
    }

    fn check_heads(&self) -> Result<(), ConfigError> {
        let HeadLimits { octets, fields } = self.visitor_heads;
        between("--max-head", octets, LEAST_HEAD, LONGEST_HEAD, |size| {
            show_size(*size as u64)
        })?;
        between(
            "--max-fields",
            fields,
            LEAST_FIELDS,
            MOST_FIELDS,
            usize::to_string,
        )
    }

    fn check_durations(&self) -> Result<(), ConfigError> {
        let span = |flag, value: Duration, least: Duration, top: Duration| {
            between(flag, value, least, top, |span| show_duration(*span))
        };
        let least = Duration::from_millis(100);
        let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
        span(
            "--hello-timeout",
            self.hello_timeout,
            least,
            Duration::from_secs(300),
        )?;
        span("--ping-after", self.ping_after, least, hour)?;
        span("--pong-timeout", self.pong_timeout, least, hour)?;
        span("--takeover-grace", self.takeover_grace, Duration::ZERO, day)?;
        span("--udp-idle", self.udp_idle, Duration::from_secs(1), hour)?;
        span("--hold-visitors", self.hold_visitors, Duration::ZERO, hour)?;
        span("--drain", self.drain, Duration::ZERO, day)?;
        span("--idle-timeout", self.idle_timeout, least, day)?;
        span("--half-close-timeout", self.half_close_timeout, least, day)?;
        span("--response-timeout", self.response_timeout, least, day)?;
        span("--body-timeout", self.body_timeout, least, day)
    }

    fn check_guards(&self) -> Result<(), ConfigError> {
        for origin in &self.allow_origin {
            let is_origin = |(scheme, rest): (&str, &str)| {
                !scheme.is_empty() && !rest.is_empty() && !rest.contains('/')
            };
            if origin != "*" && !origin.split_once("://").is_some_and(is_origin) {
                return Err(ConfigError::new(format!(
                    "--allow-origin must be * or an origin such as https://app.example, not \
                     `{origin}`"
                )));
            }
        }
        for host in &self.allow_host {
            let name = host.strip_prefix("*.").unwrap_or(host);
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if host != "*" && (name.is_empty() || !name.chars().all(is_name)) {
                return Err(ConfigError::new(format!(
                    "--allow-host must be *, a name such as kit.example or *.example, without \
                     port, not `{host}`"
                )));
            }
        }
        Ok(())
    }

    fn check_auth(&self) -> Result<(), ConfigError> {
        match &self.token {
            Some(token) if token.expose().is_empty() => {
                return Err(ConfigError::new("the token is empty"));
            }
            // Authorization carries it, so it must be what a header field may carry.
            Some(token) if !token.expose().bytes().all(|octet| octet.is_ascii_graphic()) => {
                return Err(ConfigError::new(
                    "the token may only contain printable ASCII without spaces",
                ));
            }
            Some(_) if self.no_auth => {
                return Err(ConfigError::new(
                    "--no-auth contradicts the token that was given",
                ));
            }
            _ => {}
        }
        let is_local = self.listen.ip().to_canonical().is_loopback();
        if self.token.is_none() && !self.no_auth && !is_local {
            return Err(ConfigError::new(format!(
                "anyone who reaches {} could open ports here: give a token (--token-file FILE or \
                 HOODY_TUNNEL_TOKEN), listen on loopback (--listen 127.0.0.1:{}), or say that a \
                 proxy in front decides who may connect (--no-auth)",
                self.listen,
                self.listen.port(),
            )));
        }
        Ok(())
    }
}

/// Refuses `value` outside `least..=top`.
fn between<T: PartialOrd>(
    flag: &str,
    value: T,
    least: T,
    top: T,
    show: impl Fn(&T) -> String,
) -> Result<(), ConfigError> {
    if value >= least && value <= top {
        return Ok(());
    }
    Err(ConfigError::new(format!(
        "{flag} must be between {} and {}, not {}",
        show(&least),
        show(&top),
        show(&value)
    )))
}

/// The kit's port when none was given.
const DEFAULT_PORT: u16 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config {
            no_auth: true,
            ..Config::default()
        };
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_fine_once_somebody_said_who_may_connect() {
        let config = Config {
            no_auth: true,
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
        let config = Config {
            token: Some(Secret::new("t")),
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
        let config = Config {
            listen: "[::1]:50".parse().unwrap(),
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
        let config = Config {
            listen: "[::ffff:127.0.0.1]:50".parse().unwrap(),
            ..config
        };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn an_open_door_to_the_world_is_refused_with_the_three_ways_out() {
        let text = Config::default().validate().unwrap_err().to_string();
        for way in [
            "--token-file",
            "HOODY_TUNNEL_TOKEN",
            "--listen 127.0.0.1:50",
            "--no-auth",
        ] {
            assert!(text.contains(way), "{text}");
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_range() {
        assert_eq!(
            refused(|config| config.max_sessions = 0),
            "--max-sessions must be between 1 and 4096, not 0"
        );
        assert_eq!(
            refused(|config| config.stream_initial_window = 65_536),
            "--stream-initial-window must be between 256 KiB and 16 MiB, not 64 KiB"
        );
        assert_eq!(
            refused(|config| config.session_initial_window = (64 << 20) + 1),
            "--session-initial-window must be between 256 KiB and 64 MiB, not 67108865"
        );
        assert_eq!(
            refused(|config| config.hello_timeout = Duration::ZERO),
            "--hello-timeout must be between 100ms and 300s, not 0s"
        );
        assert!(refused(|config| config.fd_budget = 3).starts_with("--fd-budget"));
        assert!(
            refused(|config| config.session_initial_window = MIN_WINDOW).contains("not be larger")
        );
    }

    #[test]
    fn guards_are_names_and_origins() {
        assert!(refused(|config| config.allow_host = vec!["a:80".into()]).contains("`a:80`"));
        assert!(refused(|config| config.allow_host = vec![String::new()]).contains("--allow-host"));
        assert!(refused(|config| config.allow_origin = vec!["a".into()]).contains("`a`"));
        let config = Config {
            no_auth: true,
            allow_host: vec!["*".into(), "kit".into(), "*.example".into()],
            allow_origin: vec!["*".into(), "https://app.example:8443".into()],
            ..Config::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn a_token_must_fit_a_header_field_and_is_never_shown() {
        assert!(
            refused(|config| config.token = Some(Secret::new(""))).contains("the token is empty")
        );
        let text = refused(|config| config.token = Some(Secret::new("se cret")));
        assert!(!text.contains("se cret"));
        assert!(refused(|config| config.token = Some(Secret::new("t"))).contains("contradicts"));
        let config = Config {
            token: Some(Secret::new("hush")),
            ..Config::default()
        };
        assert!(!format!("{config:?}").contains("hush"));
    }
}
