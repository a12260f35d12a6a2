//! What a session is to do, checked before anything is opened.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::client::error::Error;
use crate::client::forwards::ForwardSpec;
use crate::client::handler::{Handler, Request, Response};
use crate::client::target::Target;
use crate::http::trail::{Network, Proxies};
use crate::limits::{DEFAULT_REPLAY_BUFFER, LONGEST_HEAD, MOST_FIELDS};
use crate::wire::control::Secret;
use crate::wire::service::Service;

/// How to reach a kit and how to behave. Made with [`TunnelOptions::new`] and changed by the
/// methods that take and give it; [`TunnelOptions::check`] says what cannot work.
///
/// ```
/// use hoody_tunnel::client::{Proxy, TunnelOptions};
/// use std::time::Duration;
///
/// let options = TunnelOptions::new("wss://kit.example")
///     .token("0123456789abcdef")
///     .proxy(Proxy::None)
///     .connections(2)
///     .keepalive(Duration::from_secs(5))
///     .retry_for(Some(Duration::from_secs(600)))
///     .descriptors(256)
///     .header("x-route", "blue");
/// assert!(options.check().is_ok());
/// ```
#[derive(Clone)]
pub struct TunnelOptions {
    pub(super) urls: Vec<String>,
    pub(super) token: Option<Secret>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) ca_files: Vec<PathBuf>,
    pub(super) ca_pem: Vec<u8>,
    pub(super) proxy: Proxy,
    pub(super) connections: u32,
    pub(super) keepalive: Duration,
    pub(super) retry_for: Option<Duration>,
    pub(super) replay_buffer: u32,
    pub(super) max_head: usize,
    pub(super) max_fields: usize,
    pub(super) resume: Option<String>,
    pub(super) descriptors: Option<usize>,
    pub(super) headers: Vec<(String, String)>,
}

/// Neither the token nor the values of headers, which may be secrets too.
impl fmt::Debug for TunnelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("TunnelOptions")
            .field("token", &self.token)
            .field("token_file", &self.token_file)
            .field("ca_files", &self.ca_files)
            .field("proxy", &self.proxy)
            .field("connections", &self.connections)
            .field("keepalive", &self.keepalive)
            .field("retry_for", &self.retry_for)
            .field("replay_buffer", &self.replay_buffer)
            .field("max_head", &self.max_head)
            .field("max_fields", &self.max_fields)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// Which proxy to use.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Proxy {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case.
    #[default]
    FromEnv,
    /// None, whatever the environment says.
    None,
    /// This one: `http://user:password@host:port`.
    Url(String),
}

/// A proxy's URL may hold a password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proxy::FromEnv => "FromEnv",
            Proxy::None => "None",
            Proxy::Url(_) => "Url(…)",
        })
    }
}

impl TunnelOptions {
    /// A kit's URL: `wss://host/api/v1/tunnel/connect`, or `ws://…`. `https` and `http` are taken
    /// for them, and a URL without a path gets the usual one.
    pub fn new(url: impl Into<String>) -> TunnelOptions {
        TunnelOptions {
            urls: vec![url.into()],
            token: None,
            token_file: None,
            ca_files: Vec::new(),
            ca_pem: Vec::new(),
            proxy: Proxy::FromEnv,
            connections: 1,
            keepalive: DEFAULT_KEEPALIVE,
            retry_for: None,
            replay_buffer: DEFAULT_REPLAY_BUFFER,
            max_head: LONGEST_HEAD,
            max_fields: MOST_FIELDS,
            resume: None,
            descriptors: None,
            headers: Vec::new(),
        }
    }

    /// Another URL of the same kit, through another network or proxy. A connection that is lost is
    /// dialled by the best one, and several ([`TunnelOptions::connections`]) are spread over all.
    ///
    /// ```
    /// use hoody_tunnel::client::TunnelOptions;
    ///
    /// let options = TunnelOptions::new("wss://kit.example").also_at("ws://10.0.0.7:5050");
    /// assert!(options.check().is_ok());
    /// ```
    pub fn also_at(mut self, url: impl Into<String>) -> TunnelOptions {
        self.urls.push(url.into());
        self
    }

    /// The token to prove, itself.
    pub fn token(mut self, token: impl Into<String>) -> TunnelOptions {
        self.token = Some(Secret::new(token));
        self
    }

    /// The file that holds the token; white space around it does not count.
    pub fn token_file(mut self, file: impl AsRef<Path>) -> TunnelOptions {
        self.token_file = Some(file.as_ref().to_owned());
        self
    }

    /// A file with certificates in PEM to trust besides the system's. May be said again.
    pub fn ca_file(mut self, file: impl AsRef<Path>) -> TunnelOptions {
        self.ca_files.push(file.as_ref().to_owned());
        self
    }

    /// Certificates in PEM to trust besides the system's. May be said again.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> TunnelOptions {
        self.ca_pem.extend_from_slice(pem.as_ref());
        self.ca_pem.push(b'\n');
        self
    }

    /// Which proxy to use.
    pub fn proxy(mut self, proxy: Proxy) -> TunnelOptions {
        self.proxy = proxy;
        self
    }

    /// How many connections to spread streams over, 1 to 16.
    pub fn connections(mut self, count: u32) -> TunnelOptions {
        self.connections = count;
        self
    }

    /// After how much silence to look whether the kit is still there, 100 ms to 60 s.
    pub fn keepalive(mut self, quiet: Duration) -> TunnelOptions {
        self.keepalive = quiet;
        self
    }

    /// For how long to try again after a loss; `None` is for ever.
    pub fn retry_for(mut self, span: Option<Duration>) -> TunnelOptions {
        self.retry_for = span;
        self
    }

    /// How many bytes of each connection are kept until the kit has them, so that streams survive
    /// its loss: 512 KiB to 64 MiB, 4 MiB by default, or 0 for none. It is lowered to what the
    /// session's memory carries, 32 MiB for all its connections.
    ///
    /// ```
    /// use hoody_tunnel::client::TunnelOptions;
    ///
    /// let kit = || TunnelOptions::new("wss://kit.example");
    /// assert!(kit().replay_buffer(16 << 20).check().is_ok());
    /// assert!(kit().replay_buffer(0).check().is_ok(), "a loss costs every stream");
    /// assert!(kit().replay_buffer(1000).check().is_err(), "too little to be of use");
    /// ```
    pub fn replay_buffer(mut self, bytes: u32) -> TunnelOptions {
        self.replay_buffer = bytes;
        self
    }

    /// How large the head of a local server's answer may be, and how many fields it may have: 4 to
    /// 256 KiB and 16 to 1,000, by default the most. A larger one is answered with `502`.
    pub fn answer_heads(mut self, max_head: usize, max_fields: usize) -> TunnelOptions {
        (self.max_head, self.max_fields) = (max_head, max_fields);
        self
    }

    /// The whole id of an earlier session to come back to, see
    /// [`TunnelSession::id`](crate::client::TunnelSession::id).
    pub fn resume_session_id(mut self, id: impl Into<String>) -> TunnelOptions {
        self.resume = Some(id.into());
        self
    }

    /// How many file descriptors the session may open, where others in this process need some too;
    /// all that the process has left by default. Visitors beyond them get `503`.
    pub fn descriptors(mut self, count: usize) -> TunnelOptions {
        self.descriptors = Some(count);
        self
    }

    /// One more field for the upgrade request, for a proxy in front of the kit.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> TunnelOptions {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// What to bind.
///
/// ```
/// use hoody_tunnel::client::{BindOptions, HostHeader, Request, Response};
///
/// let web = BindOptions::expose(3000)
///     .to(8080)
///     .label("web")
///     .takeover(true)
///     .any_port(true)
///     .host_header(HostHeader::Keep);
/// let database = BindOptions::pull(5432).host("localhost");
/// let hello = BindOptions::expose(0).handler(|_: Request| Response::text(200, "Hello"));
/// for options in [web, database, hello] {
///     assert!(options.check().is_ok());
/// }
/// ```
#[derive(Clone)]
pub struct BindOptions {
    pub(super) service: Service,
    pub(super) container_port: u16,
    pub(super) any_port: bool,
    pub(super) to: Option<To>,
    pub(super) label: Option<String>,
    pub(super) takeover: bool,
    pub(super) host: Option<String>,
    pub(super) host_header: HostHeader,
    pub(super) headers: Vec<(String, String)>,
    pub(super) proxy_protocol: Option<ProxyProtocol>,
    pub(super) replaces: Option<String>,
    pub(super) upstream_ca: Option<PathBuf>,
    pub(super) upstream_insecure: bool,
}

/// Where streams of a binding go.
#[derive(Clone)]
pub(super) enum To {
    /// A local server.
    Target(Target),
    /// A function of this process.
    Handler(Handler),
}

/// What the local server sees as `Host`.
///
/// Unless it is kept, what else names the visitor's own scheme and host follows in requests
/// (`Origin`, `Referer`, `Destination`), and in answers what names the local authority (`Location`,
/// `Content-Location`, `Refresh`, a cookie's `Domain`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The target's own name, so that development servers accept it unchanged.
    #[default]
    Rewrite,
    /// What the visitor asked for.
    Keep,
    /// This name.
    Name(String),
}

/// How a local server is told who is calling: HAProxy's PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// `1` or `2`.
impl FromStr for ProxyProtocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<ProxyProtocol, Error> {
        match text {
            "1" => Ok(ProxyProtocol::V1),
            "2" => Ok(ProxyProtocol::V2),
            _ => Err(Error::Options(
                "The PROXY protocol has versions 1 and 2.".into(),
            )),
        }
    }
}

impl BindOptions {
    /// The kit's port `container_port` shall lead to a local HTTP server; 0 has the kit pick a
    /// port.
    pub fn expose(container_port: u16) -> BindOptions {
        BindOptions::new(Service::HttpExpose, container_port)
    }

    /// The kit's port `container_port` shall lead to a local TCP service, whatever it speaks: no
    /// byte is looked at. 0 has the kit pick a port. A kit that knows no such ports, or whose
    /// operator wants none, refuses it when it is bound.
    ///
    /// ```
    /// use hoody_tunnel::client::{BindOptions, ProxyProtocol};
    ///
    /// let ssh = BindOptions::expose_tcp(2222).to(22).proxy_protocol(ProxyProtocol::V1);
    /// assert!(ssh.check().is_ok());
    /// let fields = BindOptions::expose_tcp(2222).to(22).header("X-A", "b");
    /// assert!(fields.check().is_err());
    /// ```
    pub fn expose_tcp(container_port: u16) -> BindOptions {
        BindOptions::new(Service::TcpExpose, container_port)
    }

    /// The kit's loopback port `container_port` shall lead to a local TCP service; 0 has the kit
    /// pick a port.
    pub fn pull(container_port: u16) -> BindOptions {
        BindOptions::new(Service::TcpPull, container_port)
    }

    /// The kit's UDP port `container_port` shall lead to a local UDP service; 0 has the kit pick a
    /// port. Its operator has to allow it. TCP and UDP ports have nothing to do with each other.
    ///
    /// ```
    /// use hoody_tunnel::client::BindOptions;
    ///
    /// assert!(BindOptions::expose_udp(20053).to(53).check().is_ok());
    /// ```
    pub fn expose_udp(container_port: u16) -> BindOptions {
        BindOptions::new(Service::UdpExpose, container_port)
    }

    /// The kit's loopback UDP port `container_port` shall lead to a local UDP service; 0 has the
    /// kit pick a port.
    pub fn pull_udp(container_port: u16) -> BindOptions {
        BindOptions::new(Service::UdpPull, container_port)
    }

    fn new(service: Service, container_port: u16) -> BindOptions {
        BindOptions {
            service,
            container_port,
            any_port: container_port == 0,
            to: None,
            label: None,
            takeover: false,
            host: None,
            host_header: HostHeader::Rewrite,
            headers: Vec::new(),
            proxy_protocol: None,
            replaces: None,
            upstream_ca: None,
            upstream_insecure: false,
        }
    }

    /// The local server; `127.0.0.1` and the container's port when nothing is said.
    pub fn to(mut self, target: impl Into<Target>) -> BindOptions {
        self.to = Some(To::Target(target.into()));
        self
    }

    /// A function of this process instead of a local server; for `expose` of HTTP only. Its panics
    /// are its visitors' alone: see [`serve`](crate::client::serve()).
    pub fn handler(
        mut self,
        handler: impl Fn(Request) -> Response + Send + Sync + 'static,
    ) -> BindOptions {
        self.to = Some(To::Handler(Arc::new(handler)));
        self
    }

    /// A name for people.
    pub fn label(mut self, label: impl Into<String>) -> BindOptions {
        self.label = Some(label.into());
        self
    }

    /// Take the port from whichever session has it; for `expose` only.
    pub fn takeover(mut self, takeover: bool) -> BindOptions {
        self.takeover = takeover;
        self
    }

    /// Another port will do where this one is refused: the kit picks it then, also when the binding
    /// is made again after a reconnect. So it is anyway where the kit picks the first one.
    pub fn any_port(mut self, any_port: bool) -> BindOptions {
        self.any_port = any_port || self.container_port == 0;
        self
    }

    /// Which loopback address of the kit a `pull` listens on: `127.0.0.1`, `::1` or `localhost`.
    pub fn host(mut self, host: impl Into<String>) -> BindOptions {
        self.host = Some(host.into());
        self
    }

    /// The whole id of a session that a program lost which had the port: the kit then gives it to
    /// this one, a `pull` too, as long as nobody has come back to that session (PROTOCOL §3).
    pub fn replaces(mut self, session_id: impl Into<String>) -> BindOptions {
        self.replaces = Some(session_id.into());
        self
    }

    /// A file with certificates in PEM that an `https` target may have besides the system's.
    /// Without it any certificate will do where the connection ends on this machine's loopback, and
    /// nowhere else.
    ///
    /// ```
    /// use hoody_tunnel::client::{BindOptions, Target};
    ///
    /// let target: Target = "https://app.lan:8443".parse()?;
    /// assert!(BindOptions::expose(0).to(target.clone()).check().is_ok());
    /// let both = BindOptions::expose(0).to(target).upstream_ca_file("ca.pem");
    /// assert!(both.upstream_insecure(true).check().is_err());
    /// # Ok::<(), hoody_tunnel::client::Error>(())
    /// ```
    pub fn upstream_ca_file(mut self, file: impl AsRef<Path>) -> BindOptions {
        self.upstream_ca = Some(file.as_ref().to_owned());
        self
    }

    /// Take any certificate of an `https` target, wherever it is: whoever is in between can then
    /// read and change all.
    pub fn upstream_insecure(mut self, insecure: bool) -> BindOptions {
        self.upstream_insecure = insecure;
        self
    }

    /// Tell the local server who is calling, ahead of everything else on each connection to it, TLS
    /// too. It must have been told to expect this (`listen … proxy_protocol` in nginx,
    /// `accept-proxy` in HAProxy). An exposed server then gets a connection for each visitor's.
    ///
    /// ```
    /// use hoody_tunnel::client::{BindOptions, ProxyProtocol};
    ///
    /// let options = BindOptions::pull(22).proxy_protocol(ProxyProtocol::V2);
    /// assert!(options.check().is_ok());
    /// ```
    pub fn proxy_protocol(mut self, version: ProxyProtocol) -> BindOptions {
        self.proxy_protocol = Some(version);
        self
    }

    /// What the local server sees as `Host`.
    pub fn host_header(mut self, host_header: HostHeader) -> BindOptions {
        self.host_header = host_header;
        self
    }

    /// One more field of every request to the local server, in the place of the visitor's of that
    /// name. It may be a secret: it is shown nowhere, and a `TRACE`, which is echoed, has neither.
    /// Not what frames a message or ends at the next hop, nor `Host`, which
    /// [`BindOptions::host_header`] says; each name once, and 8 KiB of them in all.
    ///
    /// ```
    /// use hoody_tunnel::client::BindOptions;
    ///
    /// let options = BindOptions::expose(3000).header("X-Forwarded-Prefix", "/app");
    /// assert!(options.check().is_ok());
    /// assert!(BindOptions::expose(3000).header("Connection", "close").check().is_err());
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> BindOptions {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl fmt::Debug for BindOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, mode) = (self.service.kind(), self.service.mode());
        write!(f, "BindOptions({kind} {mode} {})", self.container_port)
    }
}

/// What to forward: a port of this machine that leads to a service of the container. Made with
/// [`ForwardOptions::to`] and changed by the methods that take and give it.
///
/// ```
/// use hoody_tunnel::client::ForwardOptions;
///
/// // The container's PostgreSQL at 127.0.0.1:15432.
/// let options = ForwardOptions::to("db:5432".parse()?).local_port(15432);
/// assert!(options.check().is_ok());
/// # Ok::<(), hoody_tunnel::client::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    target: Target,
    host: IpAddr,
    port: Option<u16>,
    allowed: Vec<String>,
}

impl ForwardOptions {
    /// A service as the container sees it. Without more it is had at 127.0.0.1 and the same port,
    /// or the next one that is free.
    pub fn to(target: Target) -> ForwardOptions {
        ForwardOptions {
            target,
            host: Ipv4Addr::LOCALHOST.into(),
            port: None,
            allowed: Vec::new(),
        }
    }

    /// The port to listen on, and no other; 0 is the system's choice.
    pub fn local_port(mut self, port: u16) -> ForwardOptions {
        self.port = Some(port);
        self
    }

    /// The address to listen on. Beyond loopback, [`ForwardOptions::allow_from`] has to say who may
    /// come.
    pub fn local_host(mut self, host: IpAddr) -> ForwardOptions {
        self.host = host;
        self
    }

    /// A network whose callers are let in, an address or `10.0.0.0/8`; may be said again. Without
    /// it only callers of this machine are.
    ///
    /// ```
    /// use hoody_tunnel::client::{ForwardOptions, Target};
    ///
    /// let far = ForwardOptions::to(Target::from(5432)).local_host([0, 0, 0, 0].into());
    /// assert!(far.check().is_err(), "who may come?");
    /// assert!(far.allow_from("192.168.1.0/24").check().is_ok());
    /// ```
    pub fn allow_from(mut self, network: impl Into<String>) -> ForwardOptions {
        self.allowed.push(network.into());
        self
    }

    /// Whether these options can work.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] says what cannot, and why.
    pub fn check(&self) -> Result<(), Error> {
        self.clone().spec().map(|_| ())
    }

    pub(super) fn spec(self) -> Result<ForwardSpec, Error> {
        self.target.beyond()?;
        let network = |text: &String| {
            text.parse::<Network>().map_err(|why| {
                let text = text.escape_debug();
                Error::Options(format!("`{text}` says nobody who may call: it is {why}."))
            })
        };
        let networks: Vec<Network> = self.allowed.iter().map(network).collect::<Result<_, _>>()?;
        if networks.is_empty() && !self.host.to_canonical().is_loopback() {
            return Err(Error::Options(format!(
                "Others than this machine could call at {}: say who may, with the networks that \
                 they come from (--allow-from).",
                self.host
            )));
        }
        let port = self.port.or_else(|| self.target.port()).unwrap_or(0);
        Ok(ForwardSpec {
            target: self.target,
            local: SocketAddr::new(self.host, port),
            any_port: self.port.is_none(),
            allowed: (!networks.is_empty()).then(|| Proxies::new(networks)),
        })
    }
}

/// See [`TunnelOptions::keepalive`] (PROTOCOL §6).
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(2);
