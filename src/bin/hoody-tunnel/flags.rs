//! The command line as types. What it means is decided in `settings`.

// argh prints these comments as help, where [brackets] hold a default and not a link.
#![allow(rustdoc::broken_intra_doc_links)]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;
use hoody_tunnel::reactor::logging::Format;
use hoody_tunnel::units::{parse_duration, parse_size, parse_size_32};

#[derive(FromArgs, Debug)]
/// The daemon in the container: clients connect to it, and it opens ports for them.
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} --listen 127.0.0.1:50\n\
               {command_name} --token-file /run/secrets/tunnel \\\n    \
               --public-url-pattern 'https://app-{{port}}.example.com'\n\
               {command_name} health",
    note = "Times are written 60, 60s, 500ms, 2m or 1h, sizes 1048576, 256KiB or 1MiB.",
    note = "HOODY_TUNNEL_TOKEN, HOODY_TUNNEL_PUBLIC_URL_PATTERN, HOODY_TUNNEL_PUBLIC_TCP_PATTERN\n  \
            and HOODY_TUNNEL_LISTEN stand for their flags where those are not given; an empty one is an error.\n  \
            HOODY_TUNNEL_LOG is the level of the log: error, warn, info, debug or trace."
)]
pub struct Flags {
    /// where clients and operators connect [0.0.0.0:50]
    #[argh(option, arg_name = "ADDR:PORT", from_str_fn(parse_listen))]
    pub listen: Option<SocketAddr>,
    /// the address that EXPOSE ports listen on [0.0.0.0]
    #[argh(option, arg_name = "ADDR")]
    pub expose_host: Option<IpAddr>,
    /// a file with the token that clients and operators must show
    #[argh(option, arg_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// let anybody connect: something in front decides who may
    #[argh(switch)]
    pub no_auth: bool,
    /// where the world reaches EXPOSE ports, with {port} in it
    #[argh(option, arg_name = "URL")]
    pub public_url_pattern: Option<String>,
    /// where the world reaches EXPOSE ports of raw TCP, tcp://HOST:PORT with {port} in it
    #[argh(option, arg_name = "URL")]
    pub public_tcp_pattern: Option<String>,
    /// sessions at once, live and parked [8]
    #[argh(option, arg_name = "N")]
    pub max_sessions: Option<usize>,
    /// bindings of one session [8]
    #[argh(option, arg_name = "N")]
    pub max_bindings_per_session: Option<usize>,
    /// streams of one session at once [1024]
    #[argh(option, arg_name = "N")]
    pub max_streams_per_session: Option<usize>,
    /// sockets of one session [16]
    #[argh(option, arg_name = "N")]
    pub max_connections_per_session: Option<usize>,
    /// credit of a stream [1MiB]
    #[argh(option, arg_name = "SIZE", from_str_fn(parse_size_32))]
    pub stream_initial_window: Option<u32>,
    /// credit of a session [16MiB]
    #[argh(option, arg_name = "SIZE", from_str_fn(parse_size_32))]
    pub session_initial_window: Option<u32>,
    /// bytes of a lane kept until acknowledged, 0: none [4MiB]
    #[argh(option, arg_name = "SIZE", from_str_fn(parse_size_32))]
    pub replay_buffer: Option<u32>,
    /// memory for what peers send [half of the container's limit, else 256MiB]
    #[argh(option, arg_name = "SIZE", from_str_fn(parse_size))]
    pub memory: Option<u64>,
    /// how long a connection may take to say HELLO [5s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub hello_timeout: Option<Duration>,
    /// silence after which a client is asked for a sign of life [30s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub ping_after: Option<Duration>,
    /// silence after that which parks its session [60s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub pong_timeout: Option<Duration>,
    /// how long a lost session keeps its ports; 0 is not at all [60s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub takeover_grace: Option<Duration>,
    /// how long visitors may wait for a laptop that is away; 0 is not at all [0]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub hold_visitors: Option<Duration>,
    /// how long streams may go on after SIGTERM; 0 ends them at once [5s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub drain: Option<Duration>,
    /// how long a session without streams and bindings is kept [300s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub idle_timeout: Option<Duration>,
    /// how long a half-closed stream may be silent [300s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub half_close_timeout: Option<Duration>,
    /// how long a visitor waits for the head of an answer [300s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub response_timeout: Option<Duration>,
    /// how long the body of a visitor's request may stand still [60s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub body_timeout: Option<Duration>,
    /// bytes in the head of a visitor's request, 4KiB to 256KiB [32KiB]
    #[argh(option, arg_name = "SIZE", from_str_fn(parse_size_32))]
    pub max_head: Option<u32>,
    /// fields in it, 16 to 1000 [128]
    #[argh(option, arg_name = "N")]
    pub max_fields: Option<usize>,
    /// connections at once that have upgraded without the token and not said HELLO [32]
    #[argh(option, arg_name = "N")]
    pub max_pre_auth_connections: Option<usize>,
    /// let clients expose ports 80 to 1023
    #[argh(switch)]
    pub allow_privileged_expose: bool,
    /// let clients pull to ports 80 to 1023
    #[argh(switch)]
    pub allow_privileged_pull: bool,
    /// let clients expose raw TCP ports; this is so unless --no-tcp-expose
    #[argh(switch)]
    pub allow_tcp_expose: bool,
    /// let clients expose HTTP ports only
    #[argh(switch)]
    pub no_tcp_expose: bool,
    /// whom clients may reach from here: off, loopback, or a list of host:port, host:*,
    /// 10.0.0.0/8:port, unix:/path; can be repeated [loopback with a token, else off]
    #[argh(option, arg_name = "LIST")]
    pub allow_forward: Vec<String>,
    /// let clients expose UDP ports
    #[argh(switch)]
    pub allow_udp_expose: bool,
    /// how long a peer of a UDP port may be silent, 1s to 1h [60s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
    pub udp_idle: Option<Duration>,
    /// answer whoever sends from anywhere with more than three times its bytes, as DNS does: others
    /// can then be flooded in their name
    #[argh(switch)]
    pub udp_unlimited_answers: bool,
    /// descriptors at once [4096, or what the limit of open files allows]
    #[argh(option, arg_name = "N")]
    pub fd_budget: Option<usize>,
    /// an origin whose pages may connect besides the kit's own, or *; can be repeated
    #[argh(option, arg_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// a name the kit answers to besides its own, *.suffix or *; can be repeated
    #[argh(option, arg_name = "NAME")]
    pub allow_host: Vec<String>,
    /// an address or CIDR whose X-Forwarded-For is believed, or none; can be repeated [loopback]
    #[argh(option, arg_name = "CIDR")]
    pub trusted_proxy: Vec<String>,
    /// say Via to visitors and local servers; some, as nginx, then stop compressing
    #[argh(switch)]
    pub via: bool,
    /// text or json [text]
    #[argh(option, arg_name = "FORMAT", default = "Format::Text")]
    pub log_format: Format,
    /// print the version and end
    #[argh(switch, short = 'V')]
    pub version: bool,
    #[argh(subcommand)]
    pub command: Option<Command>,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    Health(Health),
    Upgrade(Upgrade),
}

#[derive(FromArgs, Debug)]
/// Have a running kit start the program anew, with its ports and without refusing anybody.
#[argh(subcommand, name = "upgrade", help_triggers("-h", "--help"))]
pub struct Upgrade {
    /// where the kit listens; a wildcard address is asked on loopback [0.0.0.0:50]
    #[argh(option, arg_name = "ADDR:PORT", from_str_fn(parse_listen))]
    pub listen: Option<SocketAddr>,
    /// how long it may take [20s]
    #[argh(
        option,
        arg_name = "TIME",
        from_str_fn(parse_duration),
        default = "Duration::from_secs(20)"
    )]
    pub timeout: Duration,
}

#[derive(FromArgs, Debug)]
/// Ask a running kit whether it is well: exit code 0 or 1, for containers without curl.
#[argh(subcommand, name = "health", help_triggers("-h", "--help"))]
pub struct Health {
    /// where the kit listens; a wildcard address is asked on loopback [0.0.0.0:50]
    #[argh(option, arg_name = "ADDR:PORT", from_str_fn(parse_listen))]
    pub listen: Option<SocketAddr>,
    /// a file with the kit's token
    #[argh(option, arg_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// how long it may take to answer [3s]
    #[argh(
        option,
        arg_name = "TIME",
        from_str_fn(parse_duration),
        default = "Duration::from_secs(3)"
    )]
    pub timeout: Duration,
}

/// An address and a port, both needed.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address and port such as 0.0.0.0:50 or [::1]:5050")
    })
}
