//! From flags and environment to the kit's configuration. A flag wins over the environment, and an
//! empty variable is an error: somebody meant to set it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use hoody_tunnel::http::trail::{Network, Proxies};
use hoody_tunnel::kit::config::{About, Config, Usage};
use hoody_tunnel::kit::policy::Policy;
use hoody_tunnel::kit::public_url::PublicUrl;
use hoody_tunnel::limits::{DEFAULT_MEMORY, MAX_TOKEN_FILE, MIN_MEMORY};
use hoody_tunnel::reactor::{cgroup, logging, process};
use hoody_tunnel::secrets;
use hoody_tunnel::wire::control::Secret;

use crate::flags::{Flags, parse_listen};

/// Why the program ends before it has begun.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// What was asked for makes no sense.
    Usage(String),
    /// It makes sense but did not work.
    Failed(String),
}

/// Where variables come from: the process, or a test.
pub struct Environment {
    get: Box<Lookup>,
}

/// Finds the value of a variable.
type Lookup = dyn Fn(&str) -> Option<std::ffi::OsString>;

impl Environment {
    /// The process's own.
    pub fn real() -> Environment {
        Environment {
            get: Box::new(|name| std::env::var_os(name)),
        }
    }

    fn text(&self, name: &str) -> Result<Option<String>, Trouble> {
        let Some(value) = (self.get)(name) else {
            return Ok(None);
        };
        let usage = |why| Err(Trouble::Usage(format!("{name} is {why}")));
        match value.into_string() {
            Ok(text) if text.is_empty() => usage("set but empty"),
            Ok(text) => Ok(Some(text)),
            Err(_) => usage("not UTF-8"),
        }
    }
}

/// The configuration that was asked for, checked.
///
/// `opened`: where a socket listens already, which is meant where nobody says otherwise.
pub fn settings(
    flags: &Flags,
    environment: &Environment,
    opened: Option<SocketAddr>,
) -> Result<Config, Trouble> {
    if flags.allow_tcp_expose && flags.no_tcp_expose {
        return Err(usage("--allow-tcp-expose contradicts --no-tcp-expose"));
    }
    let mut config = Config {
        listen: match opened {
            Some(addr) if !says_listen(flags, environment) => addr,
            _ => listen(flags.listen, environment)?,
        },
        token: token(flags.token_file.as_deref(), environment)?,
        no_auth: flags.no_auth,
        via: flags.via,
        allow_privileged_expose: flags.allow_privileged_expose,
        allow_privileged_pull: flags.allow_privileged_pull,
        tcp_expose: !flags.no_tcp_expose,
        allow_udp_expose: flags.allow_udp_expose,
        udp_unlimited_answers: flags.udp_unlimited_answers,
        allow_origin: flags.allow_origin.clone(),
        allow_host: flags.allow_host.clone(),
        ..Config::default()
    };
    set_addresses(&mut config, flags, environment)?;
    config.allow_forward = allow_forward(&flags.allow_forward, config.token.is_some())?;
    if !flags.trusted_proxy.is_empty() {
        config.trusted_proxies = trusted_proxies(&flags.trusted_proxy)?;
    }
    set(&mut config.expose_host, flags.expose_host);
    set(&mut config.max_sessions, flags.max_sessions);
    set(
        &mut config.max_bindings_per_session,
        flags.max_bindings_per_session,
    );
    set(
        &mut config.max_streams_per_session,
        flags.max_streams_per_session,
    );
    set(
        &mut config.max_connections_per_session,
        flags.max_connections_per_session,
    );
    set(
        &mut config.stream_initial_window,
        flags.stream_initial_window,
    );
    set(
        &mut config.session_initial_window,
        flags.session_initial_window,
    );
    set(&mut config.replay_buffer, flags.replay_buffer);
    config.memory = flags.memory.unwrap_or_else(default_memory);
    let head = flags.max_head.map(|octets| octets as usize);
    set(&mut config.visitor_heads.octets, head);
    set(&mut config.visitor_heads.fields, flags.max_fields);
    set_times(&mut config, flags);
    set(
        &mut config.max_pre_auth_connections,
        flags.max_pre_auth_connections,
    );
    set(&mut config.fd_budget, flags.fd_budget);
    config.validate().map_err(usage)?;
    config.about = about(config.listen.ip());
    Ok(config)
}

/// Where the world reaches ports of HTTP and of raw TCP.
fn set_addresses(
    config: &mut Config,
    flags: &Flags,
    environment: &Environment,
) -> Result<(), Trouble> {
    let (url, tcp) = (&flags.public_url_pattern, &flags.public_tcp_pattern);
    let url = pattern(url, "HOODY_TUNNEL_PUBLIC_URL_PATTERN", environment)?;
    config.public_url = url
        .map(|it| PublicUrl::parse(&it))
        .transpose()
        .map_err(usage)?;
    let tcp = pattern(tcp, "HOODY_TUNNEL_PUBLIC_TCP_PATTERN", environment)?;
    config.public_tcp = tcp
        .map(|it| PublicUrl::parse_tcp(&it))
        .transpose()
        .map_err(usage)?;
    Ok(())
}

/// Where the world reaches ports, as a flag or else the environment says.
fn pattern(
    flag: &Option<String>,
    variable: &str,
    environment: &Environment,
) -> Result<Option<String>, Trouble> {
    match flag {
        Some(pattern) => Ok(Some(pattern.clone())),
        None => environment.text(variable),
    }
}

/// Half of what the container may use, for the kernel counts its sockets against that too.
fn default_memory() -> u64 {
    let half = cgroup::memory_limit().map(|limit| (limit / 2).max(MIN_MEMORY));
    half.unwrap_or(DEFAULT_MEMORY)
}

/// Whom clients may have the kit connect to.
fn allow_forward(lists: &[String], has_token: bool) -> Result<Policy, Trouble> {
    match lists {
        [] if has_token => Ok(Policy::loopback()),
        [] => Ok(Policy::off()),
        lists => Policy::parse(lists).map_err(|why| usage(format!("--allow-forward: {why}"))),
    }
}

/// Ranges of addresses, or `none` alone.
fn trusted_proxies(ranges: &[String]) -> Result<Proxies, Trouble> {
    if ranges.iter().any(|range| range == "none") {
        return match ranges.len() {
            1 => Ok(Proxies::new(Vec::new())),
            _ => Err(usage("--trusted-proxy none contradicts the others")),
        };
    }
    let network = |range: &String| {
        let refused = |why| usage(format!("--trusted-proxy `{range}` is {why}"));
        range.parse::<Network>().map_err(refused)
    };
    let networks: Result<Vec<Network>, Trouble> = ranges.iter().map(network).collect();
    networks.map(Proxies::new)
}

fn set_times(config: &mut Config, flags: &Flags) {
    set(&mut config.hello_timeout, flags.hello_timeout);
    set(&mut config.ping_after, flags.ping_after);
    set(&mut config.pong_timeout, flags.pong_timeout);
    set(&mut config.takeover_grace, flags.takeover_grace);
    set(&mut config.hold_visitors, flags.hold_visitors);
    set(&mut config.udp_idle, flags.udp_idle);
    set(&mut config.drain, flags.drain);
    set(&mut config.idle_timeout, flags.idle_timeout);
    set(&mut config.half_close_timeout, flags.half_close_timeout);
    set(&mut config.response_timeout, flags.response_timeout);
    set(&mut config.body_timeout, flags.body_timeout);
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn usage(error: impl std::fmt::Display) -> Trouble {
    Trouble::Usage(error.to_string())
}

/// Whether anybody has said where the kit listens.
fn says_listen(flags: &Flags, environment: &Environment) -> bool {
    flags.listen.is_some() || (environment.get)("HOODY_TUNNEL_LISTEN").is_some()
}

/// Where the kit listens.
pub fn listen(flag: Option<SocketAddr>, environment: &Environment) -> Result<SocketAddr, Trouble> {
    if let Some(addr) = flag {
        return Ok(addr);
    }
    match environment.text("HOODY_TUNNEL_LISTEN")? {
        Some(text) => {
            parse_listen(&text).map_err(|why| usage(format!("HOODY_TUNNEL_LISTEN: {why}")))
        }
        None => Ok(Config::default().listen),
    }
}

/// The token, without the line end that editors leave in a file.
pub fn token(file: Option<&Path>, environment: &Environment) -> Result<Option<Secret>, Trouble> {
    let Some(path) = file else {
        return Ok(environment.text("HOODY_TUNNEL_TOKEN")?.map(Secret::new));
    };
    let failed = |why: String| Trouble::Usage(format!("token file {}: {why}", path.display()));
    let text = secrets::read(path, MAX_TOKEN_FILE).map_err(failed)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(failed("it is empty".to_string())),
        token => Ok(Some(Secret::new(token))),
    }
}

fn about(listen: IpAddr) -> About {
    let now = SystemTime::now();
    About {
        version: env!("CARGO_PKG_VERSION"),
        built: option_env!("HOODY_TUNNEL_BUILT"),
        started: logging::rfc3339(now),
        started_unix: now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        pid: std::process::id(),
        ip: if listen.is_unspecified() {
            own_ip().unwrap_or(listen)
        } else {
            listen
        },
        usage: || Usage {
            rss: process::resident_bytes().unwrap_or(0),
            fds: process::open_descriptors().unwrap_or(0),
            log_lines_dropped: logging::dropped(),
        },
    }
}

/// The address this machine would send from: connecting a datagram socket asks the routes and sends
/// nothing. The target is one of the addresses reserved for documentation.
fn own_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use argh::FromArgs;

    use super::*;

    fn environment(pairs: &'static [(&'static str, &'static str)]) -> Environment {
        let find = |name: &str| pairs.iter().find(|pair| pair.0 == name);
        Environment {
            get: Box::new(move |name| find(name).map(|pair| pair.1.into())),
        }
    }

    fn config(
        args: &[&str],
        pairs: &'static [(&'static str, &'static str)],
    ) -> Result<Config, Trouble> {
        let flags = Flags::from_args(&["hoody-tunnel"], args);
        settings(
            &flags.map_err(|early| Trouble::Usage(early.output))?,
            &environment(pairs),
            None,
        )
    }

    #[test]
    fn every_flag_changes_what_it_names() {
        let config = config(
            &[
                "--listen",
                "127.0.0.1:5050",
                "--expose-host",
                "127.0.0.2",
                "--no-auth",
                "--public-url-pattern",
                "https://a-{port}.example",
                "--max-sessions",
                "1",
                "--max-bindings-per-session",
                "2",
                "--max-streams-per-session",
                "3",
                "--max-connections-per-session",
                "4",
                "--stream-initial-window",
                "256k",
                "--session-initial-window",
                "512KiB",
                "--replay-buffer",
                "1MiB",
                "--memory",
                "16MiB",
                "--hello-timeout",
                "1s",
                "--ping-after",
                "2",
                "--pong-timeout",
                "3s",
                "--takeover-grace",
                "0",
                "--hold-visitors",
                "9s",
                "--idle-timeout",
                "5m",
                "--half-close-timeout",
                "6s",
                "--response-timeout",
                "700ms",
                "--body-timeout",
                "8s",
                "--max-head",
                "64KiB",
                "--max-fields",
                "500",
                "--max-pre-auth-connections",
                "8",
                "--allow-privileged-expose",
                "--allow-privileged-pull",
                "--public-tcp-pattern",
                "tcp://a.example:{port}",
                "--no-tcp-expose",
                "--fd-budget",
                "100",
                "--allow-origin",
                "https://x.example",
                "--allow-origin",
                "*",
                "--allow-host",
                "y",
                "--via",
                "--trusted-proxy",
                "10.0.0.0/8",
                "--trusted-proxy",
                "2001:db8::1",
            ],
            &[],
        )
        .unwrap();
        assert_eq!(config.listen, "127.0.0.1:5050".parse().unwrap());
        assert_eq!(config.expose_host, IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)));
        assert!(config.no_auth && config.token.is_none());
        let public_url = config.public_url.unwrap();
        assert_eq!(public_url.for_port(1), "https://a-1.example");
        assert_eq!(
            (config.max_sessions, config.max_bindings_per_session),
            (1, 2)
        );
        assert_eq!(
            (
                config.max_streams_per_session,
                config.max_connections_per_session
            ),
            (3, 4)
        );
        assert_eq!(config.stream_initial_window, 256 << 10);
        assert_eq!(config.session_initial_window, 512 << 10);
        assert_eq!(config.replay_buffer, 1 << 20);
        assert_eq!(config.memory, 16 << 20);
        assert_eq!(config.hello_timeout, Duration::from_secs(1));
        assert_eq!(config.ping_after, Duration::from_secs(2));
        assert_eq!(config.pong_timeout, Duration::from_secs(3));
        assert_eq!(config.takeover_grace, Duration::ZERO);
        assert_eq!(config.hold_visitors, Duration::from_secs(9));
        assert_eq!(config.idle_timeout, Duration::from_secs(300));
        assert_eq!(config.half_close_timeout, Duration::from_secs(6));
        assert_eq!(config.response_timeout, Duration::from_millis(700));
        assert_eq!(config.body_timeout, Duration::from_secs(8));
        let heads = config.visitor_heads;
        assert_eq!((heads.octets, heads.fields), (64 << 10, 500));
        assert_eq!(
            (config.max_pre_auth_connections, config.fd_budget),
            (8, 100)
        );
        assert!(config.allow_privileged_expose && config.allow_privileged_pull);
        assert!(!config.tcp_expose && Config::default().tcp_expose);
        let tcp = config.public_tcp.unwrap();
        assert_eq!(tcp.for_port(1), "tcp://a.example:1");
        assert_eq!(config.allow_origin, ["https://x.example", "*"]);
        assert_eq!(config.allow_host, ["y"]);
        assert!(config.via && !Config::default().via);
        let trusts = |peer: &str| config.trusted_proxies.trust(peer.parse().unwrap());
        assert!(trusts("10.1.1.1") && trusts("2001:db8::1") && !trusts("127.0.0.1"));
    }

    #[test]
    fn nobody_but_loopback_is_a_trusted_proxy_and_perhaps_not_even_that() {
        let trusts = |args: &[&str], peer: &str| {
            let args = [&["--no-auth"], args].concat();
            let proxies = config(&args, &[]).unwrap().trusted_proxies;
            proxies.trust(peer.parse().unwrap())
        };
        assert!(trusts(&[], "127.0.0.1") && !trusts(&[], "172.17.0.1"));
        assert!(!trusts(&["--trusted-proxy", "none"], "127.0.0.1"));
    }

    #[test]
    fn the_environment_stands_for_flags_that_are_not_given() {
        let pairs = &[
            ("HOODY_TUNNEL_TOKEN", "hush"),
            ("HOODY_TUNNEL_PUBLIC_URL_PATTERN", "http://a:{port}"),
            ("HOODY_TUNNEL_PUBLIC_TCP_PATTERN", "tcp://a:{port}"),
            ("HOODY_TUNNEL_LISTEN", "[::]:5050"),
        ];
        let from_env = config(&[], pairs).unwrap();
        assert!(from_env.token.unwrap().matches("hush"));
        assert_eq!(from_env.public_url.unwrap().for_port(7), "http://a:7");
        assert_eq!(from_env.public_tcp.unwrap().for_port(7), "tcp://a:7");
        assert_eq!(from_env.listen.port(), 5050);
        let args = [
            "--public-url-pattern",
            "http://b:{port}",
            "--listen",
            "[::1]:6060",
        ];
        let from_flags = config(&args, pairs).unwrap();
        assert_eq!(from_flags.public_url.unwrap().for_port(7), "http://b:7");
        assert_eq!(from_flags.listen.port(), 6060);
    }

    #[test]
    fn an_empty_variable_is_an_error_and_no_open_door() {
        for name in [
            "HOODY_TUNNEL_TOKEN",
            "HOODY_TUNNEL_PUBLIC_URL_PATTERN",
            "HOODY_TUNNEL_PUBLIC_TCP_PATTERN",
            "HOODY_TUNNEL_LISTEN",
        ] {
            let empty = Environment {
                get: Box::new(move |asked| (asked == name).then(std::ffi::OsString::new)),
            };
            let flags = Flags::from_args(&["hoody-tunnel"], &["--no-auth"]).unwrap();
            let trouble = settings(&flags, &empty, None).unwrap_err();
            assert_eq!(trouble, Trouble::Usage(format!("{name} is set but empty")));
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error_with_the_range() {
        for (args, part) in [
            (&[][..], "--no-auth"),
            (
                &["--no-auth", "--allow-tcp-expose", "--no-tcp-expose"],
                "--allow-tcp-expose contradicts --no-tcp-expose",
            ),
            (
                &["--no-auth", "--public-tcp-pattern", "http://a:{port}"],
                "--public-tcp-pattern must start with tcp://",
            ),
            (&["--max-sessions", "0"], "between 1 and 4096"),
            (
                &["--stream-initial-window", "3G"],
                "between 256 KiB and 16 MiB",
            ),
            (&["--stream-initial-window", "8G"], "`8G` is too large"),
            (&["--pong-timeout", "1d"], "not a duration"),
            (&["--listen", "50"], "not an address and port"),
            (&["--public-url-pattern", "https://a"], "{port}"),
            (
                &["--no-auth", "--trusted-proxy", "a.example"],
                "`a.example` is not an address",
            ),
            (
                &["--trusted-proxy", "none", "--trusted-proxy", "::1"],
                "none contradicts",
            ),
            (&["--log-format", "xml"], "neither text nor json"),
            (&["--nonsense"], "--nonsense"),
        ] {
            match config(args, &[]) {
                Err(Trouble::Usage(why)) => assert!(why.contains(part), "{args:?}: {why}"),
                other => panic!("{args:?} gave {other:?}"),
            }
        }
    }

    #[test]
    fn a_token_file_loses_its_line_end_and_must_not_be_empty() {
        let path = std::env::temp_dir().join(format!("hoody-token-{}", std::process::id()));
        let none = environment(&[("HOODY_TUNNEL_TOKEN", "other")]);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            token(Some(&path), &none)
        };
        assert!(read("hush\r\n").unwrap().unwrap().matches("hush"));
        assert!(matches!(read("\n"), Err(Trouble::Usage(why)) if why.contains("empty")));
        assert!(matches!(
            read(&"x".repeat(MAX_TOKEN_FILE + 1)),
            Err(Trouble::Usage(_))
        ));
        std::fs::remove_file(&path).unwrap();
        let gone = token(Some(&path), &none).unwrap_err();
        assert!(matches!(gone, Trouble::Usage(why) if why.contains("token file")));
    }

    #[test]
    fn a_socket_that_listens_already_is_meant_unless_somebody_says_otherwise() {
        let opened = Some("127.0.0.1:81".parse().unwrap());
        let listens = |line: &[&str], pairs: &'static [(&'static str, &'static str)]| {
            let flags = Flags::from_args(&["hoody-tunnel"], line).unwrap();
            let config = settings(&flags, &environment(pairs), opened);
            config
                .map(|config| config.listen.to_string())
                .unwrap_or_default()
        };
        assert_eq!(listens(&[], &[]), "127.0.0.1:81");
        assert_eq!(listens(&["--listen", "127.0.0.1:82"], &[]), "127.0.0.1:82");
        let said = &[("HOODY_TUNNEL_LISTEN", "127.0.0.1:83")];
        assert_eq!(listens(&[], said), "127.0.0.1:83");
    }
}
