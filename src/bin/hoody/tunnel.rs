//! The commands that open tunnels: from their flags to a session with wishes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use hoody_tunnel::client::{
    BindOptions, Error, ForwardOptions, HostHeader, ProxyProtocol, Target, TunnelOptions,
};

use crate::embedded::{self, Embedded};
use crate::files::{self, Root};
use crate::flags::{Expose, Forward, Pull, Serve, Up};
use crate::interrupt::Signals;
use crate::options::{Manner, Reach, Urls};
use crate::places::Places;
use crate::render::Style;
use crate::run::{self, Begin, Outcome};
use crate::state::{self, Asked, State};
use crate::stdio;
use crate::target::Pair;
use crate::wish::{Wish, Wishes, forwarded};
use crate::{complain, ended, environment, refused, usage};

/// What all these commands share.
struct Common {
    reach: Reach,
    manner: Manner,
    json: bool,
    quiet: bool,
}

macro_rules! common {
    ($flags:expr) => {
        Common {
            reach: $flags.reach(),
            manner: $flags.manner(),
            json: $flags.is_json(),
            quiet: $flags.quiet,
        }
    };
}

/// `hoody tunnel expose`
pub fn expose(flags: Expose) -> ExitCode {
    if let Some(why) = odd_with_udp(&flags) {
        return usage(&why);
    }
    let common = common!(flags);
    if flags.tcp && flags.udp {
        return usage("--tcp and --udp are two kinds of port: give one of them");
    }
    if flags.tcp {
        let http_only = [
            ("--host-header", flags.host_header != HostHeader::Rewrite),
            ("--header", !flags.header.is_empty()),
            ("--upstream-ca", flags.upstream_ca.is_some()),
            ("--upstream-insecure", flags.upstream_insecure),
        ];
        if let Some((flag, _)) = http_only.iter().find(|(_, is_given)| *is_given) {
            return usage(&format!(
                "{flag} is for HTTP servers: --tcp looks at no byte"
            ));
        }
    }
    if flags.tcp || flags.udp {
        let (what, make): (_, MakeBind) = match flags.tcp {
            true => ("expose tcp", BindOptions::expose_tcp),
            false => ("expose udp", BindOptions::expose_udp),
        };
        return open(&common, |near| {
            let details = RawDetails {
                label: flags.label.clone(),
                host: None,
                takeover: flags.takeover,
                proxy_protocol: flags.proxy_protocol,
            };
            let (target, port) = (&flags.target, flags.container_port);
            Wishes::bind(raw_wish(what, make, (target, port), details, near))
        });
    }
    open(&common, |near| {
        let details = Details {
            label: flags.label.clone(),
            takeover: flags.takeover,
            host_header: flags.host_header.clone(),
            headers: flags.header.clone(),
            proxy_protocol: flags.proxy_protocol,
            upstream: Upstream {
                ca: flags.upstream_ca.clone(),
                insecure: flags.upstream_insecure,
            },
        };
        let (target, port) = (&flags.target, flags.container_port);
        Wishes::bind(expose_wish(target, port, details, near))
    })
}

/// `hoody tunnel pull`
pub fn pull(flags: Pull) -> ExitCode {
    if flags.udp && flags.proxy_protocol.is_some() {
        return usage("--proxy-protocol is for connections: datagrams have none");
    }
    let common = common!(flags);
    open(&common, |near| {
        let details = RawDetails {
            label: flags.label.clone(),
            host: flags.host.clone(),
            takeover: false,
            proxy_protocol: flags.proxy_protocol,
        };
        let (target, port) = (&flags.target, flags.container_port);
        let (what, make): (_, MakeBind) = match flags.udp {
            true => ("pull udp", BindOptions::pull_udp),
            false => ("pull", BindOptions::pull),
        };
        Wishes::bind(raw_wish(what, make, (target, port), details, near))
    })
}

/// `hoody tunnel forward`
pub fn forward(flags: Forward) -> ExitCode {
    let common = common!(flags);
    if flags.stdio {
        let listens = flags.local_port.is_some() || flags.local_host.is_some();
        if listens || !flags.allow_from.is_empty() {
            return usage(
                "--stdio listens nowhere: leave --local-port, --local-host and --allow-from out",
            );
        }
        return stdio::command(&common.reach, &common.manner, &flags.target);
    }
    let host = |port: ForwardOptions| match flags.local_host {
        Some(host) => port.local_host(host),
        None => port,
    };
    let port = host(forwarded(&flags.target, flags.local_port));
    let allowed = flags.allow_from.iter();
    let port = allowed.fold(port, |port, network| port.allow_from(network));
    open(&common, |_| Wishes {
        binds: Vec::new(),
        forwards: vec![port],
    })
}

/// `hoody tunnel serve`
pub fn serve(flags: Serve) -> ExitCode {
    let common = common!(flags);
    let root = match Root::open(&flags.dir) {
        Ok(root) => Arc::new(
            root.without(common.reach.files())
                .without_dir(state::dir(&environment)),
        ),
        Err(error) => return usage(&cannot_serve(&flags.dir, &error)),
    };
    let (label, takeover) = (flags.label.clone(), flags.takeover);
    open(&common, |_| {
        let target = root.path().display().to_string();
        let root = Arc::clone(&root);
        let make = move |port| {
            let root = Arc::clone(&root);
            let options = BindOptions::expose(port)
                .takeover(takeover)
                .handler(move |request| files::handle(&root, &request));
            labelled(options, label.as_deref())
        };
        Wishes::bind(Wish {
            name: format!("serve {target}"),
            target,
            port: flags.container_port.unwrap_or(0),
            any_port: false,
            takes_over: takeover,
            on: None,
            make: Box::new(make),
        })
    })
}

fn cannot_serve(dir: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotADirectory => "it is no directory".to_owned(),
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        _ => error.to_string(),
    };
    format!("{} cannot be served: {why}", dir.display())
}

/// `hoody tunnel up`
pub fn up(flags: Up) -> ExitCode {
    let no_udp = flags.expose_udp.is_empty() && flags.pull_udp.is_empty();
    let no_raw = flags.expose_tcp.is_empty() && flags.pull.is_empty() && no_udp;
    if flags.expose.is_empty() && no_raw && flags.forward.is_empty() {
        return usage(
            "nothing to open: give --expose, --expose-tcp, --pull or --forward, each as often as \
             you like",
        );
    }
    let upstream = Upstream {
        ca: flags.upstream_ca.clone(),
        insecure: flags.upstream_insecure,
    };
    let mut targets = flags.expose.iter().map(|pair| &pair.target);
    if upstream != Upstream::default() && targets.all(|target| target.scheme() == "http") {
        return usage("--upstream-ca and --upstream-insecure are for https targets: there is none");
    }
    if flags.proxy_protocol.is_some() && no_raw {
        return usage(
            "--proxy-protocol is for TCP services here: there is no --pull and no --expose-tcp",
        );
    }
    let common = common!(flags);
    open(&common, |near| {
        let expose = flags.expose.iter().map(|pair| {
            let details = Details {
                label: None,
                takeover: flags.takeover,
                host_header: flags.host_header.clone(),
                headers: flags.header.clone(),
                proxy_protocol: None,
                upstream: match pair.target.scheme() {
                    "https" => upstream.clone(),
                    _ => Upstream::default(),
                },
            };
            expose_wish(&pair.target, pair.port, details, near)
        });
        let tcp = flags.proxy_protocol;
        let raw = |name: &'static str, make: MakeBind, takeover, proxy_protocol| {
            move |pair: &Pair| {
                let details = RawDetails {
                    label: None,
                    host: None,
                    takeover,
                    proxy_protocol,
                };
                raw_wish(name, make, (&pair.target, pair.port), details, near)
            }
        };
        let expose_tcp = raw("expose tcp", BindOptions::expose_tcp, flags.takeover, tcp);
        let expose_tcp = flags.expose_tcp.iter().map(expose_tcp);
        let pull = raw("pull", BindOptions::pull, false, tcp);
        let pull = flags.pull.iter().map(pull);
        let expose_udp = raw("expose udp", BindOptions::expose_udp, flags.takeover, None);
        let expose_udp = flags.expose_udp.iter().map(expose_udp);
        let pull_udp = raw("pull udp", BindOptions::pull_udp, false, None);
        let udp = expose_udp.chain(flags.pull_udp.iter().map(pull_udp));
        let forwards = flags.forward.iter();
        Wishes {
            binds: expose.chain(expose_tcp).chain(pull).chain(udp).collect(),
            forwards: forwards.map(|it| forwarded(&it.target, it.port)).collect(),
        }
    })
}

/// What has nothing to do with datagrams.
fn odd_with_udp(flags: &Expose) -> Option<String> {
    let odd = [
        ("--host-header", flags.host_header != HostHeader::Rewrite),
        ("--header", !flags.header.is_empty()),
        ("--proxy-protocol", flags.proxy_protocol.is_some()),
        ("--upstream-ca", flags.upstream_ca.is_some()),
        ("--upstream-insecure", flags.upstream_insecure),
    ];
    let odd = odd.into_iter().find(|(_, is_given)| flags.udp && *is_given);
    odd.map(|(flag, _)| format!("{flag} is not for datagrams: leave it out, or --udp"))
}

/// How an exposed server is bound.
struct Details {
    label: Option<String>,
    takeover: bool,
    host_header: HostHeader,
    headers: Vec<(String, String)>,
    proxy_protocol: Option<ProxyProtocol>,
    upstream: Upstream,
}

/// Makes the bind for a port.
type MakeBind = fn(u16) -> BindOptions;

/// How a service of raw TCP or of UDP is bound.
struct RawDetails {
    label: Option<String>,
    host: Option<String>,
    takeover: bool,
    proxy_protocol: Option<ProxyProtocol>,
}

/// Whose certificates a server may have that speaks TLS.
#[derive(Default, Clone, PartialEq)]
struct Upstream {
    ca: Option<PathBuf>,
    insecure: bool,
}

impl Upstream {
    /// What is to be said aloud where not every certificate is checked.
    fn warning(&self, target: &Target) -> Option<String> {
        if target.scheme() == "http" || self.ca.is_some() {
            return None;
        }
        Some(match self.insecure {
            true => format!("any certificate of {target} is taken, whoever answers there"),
            false => format!(
                "the certificate of {target} is not checked where it is on this machine's loopback"
            ),
        })
    }
}

fn expose_wish(target: &Target, port: Option<u16>, details: Details, near: bool) -> Wish {
    let to = target.clone();
    let (first, any_port) = first_port(target, port, near);
    if let Some(warning) = details.upstream.warning(target) {
        complain(&format!("warning: {warning}"));
    }
    Wish {
        name: format!("expose {target}{}", at(port)),
        target: target.to_string(),
        port: first,
        // Taking over means this very port.
        any_port: any_port && !details.takeover,
        takes_over: details.takeover,
        on: None,
        make: Box::new(move |port| {
            let options = BindOptions::expose(port)
                .to(to.clone())
                .takeover(details.takeover)
                .host_header(details.host_header.clone())
                .upstream_insecure(details.upstream.insecure);
            let headers = details.headers.iter();
            let options = headers.fold(options, |options, (name, value)| {
                options.header(name, value)
            });
            let options = match &details.upstream.ca {
                Some(file) => options.upstream_ca_file(file),
                None => options,
            };
            let options = greeting(options, details.proxy_protocol);
            labelled(options, details.label.as_deref())
        }),
    }
}

fn raw_wish(
    what: &str,
    bind: MakeBind,
    (target, port): (&Target, Option<u16>),
    details: RawDetails,
    near: bool,
) -> Wish {
    let to = target.clone();
    let (first, any_port) = first_port(target, port, near);
    let on = details
        .host
        .as_ref()
        .map_or_else(String::new, |host| format!(" on {host}"));
    Wish {
        name: format!("{what} {target}{}{on}", at(port)),
        target: target.to_string(),
        port: first,
        // Taking over means this very port.
        any_port: any_port && !details.takeover,
        takes_over: details.takeover,
        on: details.host.clone(),
        make: Box::new(move |port| {
            let options = bind(port).to(to.clone());
            let mut options = options.takeover(details.takeover);
            if let Some(host) = &details.host {
                options = options.host(host.clone());
            }
            let options = greeting(options, details.proxy_protocol);
            labelled(options, details.label.as_deref())
        }),
    }
}

/// The port that somebody wants, as a part of a tunnel's name.
fn at(port: Option<u16>) -> String {
    port.map_or_else(String::new, |port| format!(" at {port}"))
}

/// The port to ask for, and whether another one will do. Without a wish it is the target's own. But
/// where the kit is `near`, on this machine, its ports are ours: then a server that is not up yet
/// would find its port taken by the tunnel that leads to it.
fn first_port(target: &Target, port: Option<u16>, near: bool) -> (u16, bool) {
    match port {
        Some(port) => (port, false),
        None if near => (0, false),
        // A Unix socket has none.
        None => (target.port().unwrap_or(0), true),
    }
}

fn greeting(options: BindOptions, version: Option<ProxyProtocol>) -> BindOptions {
    match version {
        Some(version) => options.proxy_protocol(version),
        None => options,
    }
}

fn labelled(options: BindOptions, label: Option<&str>) -> BindOptions {
    match label {
        Some(label) => options.label(label),
        None => options,
    }
}

/// Finds the kit, or starts one, and runs a session with the wishes that `wishes` makes; it is told
/// whether the kit is on this machine.
fn open(common: &Common, wishes: impl FnOnce(bool) -> Wishes) -> ExitCode {
    let urls = match common.reach.kit(&environment) {
        Ok(urls) => urls,
        Err(why) => return usage(&why),
    };
    // Before any thread is made.
    let signals = match Signals::block() {
        Ok(signals) => signals,
        Err(error) => return refused(&Error::Io(format!("signals cannot be watched: {error}"))),
    };
    match urls {
        Some(urls) => {
            let options = common.reach.options(&urls, &environment);
            if urls.are_plain_and_far() && common.reach.has_token(&environment) {
                complain(
                    "warning: the URL is ws://, so the token travels unencrypted (use wss://)",
                );
            }
            for advice in options.advice() {
                complain(&format!("warning: {advice}"));
            }
            let wishes = checked(wishes(urls.are_local()));
            ended(wishes.and_then(|wishes| {
                let mut notices = Vec::new();
                let state = match common.manner.no_state {
                    true => None,
                    false => kept(&urls, &wishes.binds, &mut notices),
                };
                let begin = Begin {
                    notices,
                    state,
                    places: Places {
                        host: Some(urls.host().to_owned()),
                    },
                    ..Begin::default()
                };
                session(common, options, wishes, signals, begin)
            }))
        }
        None => {
            if common.reach.expects_a_kit() {
                return usage(
                    "--token-file and --ca say how to reach a kit, but none is named: \
                     give --url, --container or HOODY_TUNNEL_URL",
                );
            }
            let wishes = checked(wishes(true));
            ended(wishes.and_then(|wishes| embedded(common, wishes, signals)))
        }
    }
}

/// What cannot be bound at all is told before anything is started for it.
fn checked(all: Wishes) -> Result<Wishes, Error> {
    for forward in &all.forwards {
        forward.check()?;
    }
    let wishes = &all.binds;
    for (index, wish) in wishes.iter().enumerate() {
        (wish.make)(wish.port).check()?;
        let asked = wish.asked();
        let same = |before: &&Wish| before.asked().is_for_the_port_of(&asked);
        if let Some(before) = wishes[..index].iter().find(same) {
            return Err(Error::Options(format!(
                "Port {} of the container cannot lead to both {} and {}.",
                wish.port, before.target, wish.target
            )));
        }
    }
    Ok(all)
}

fn embedded(common: &Common, wishes: Wishes, signals: Signals) -> Result<Outcome, Error> {
    let connections = common.manner.connections.unwrap_or(1);
    let halves = embedded::halves(connections).map_err(Error::Options)?;
    let kit = Embedded::start(halves.kit).map_err(Error::Io)?;
    let options = TunnelOptions::new(kit.url())
        .token(kit.token())
        .descriptors(halves.client);
    let notice = "no kit is named (--url, --container, HOODY_TUNNEL_URL): one runs inside this \
                  process, reachable from this machine only";
    let notices = std::iter::once(notice.to_owned()).chain(halves.notice());
    // Its kit ends with it: there is nothing to come back to. And it says all addresses.
    let begin = Begin {
        notices: notices.collect(),
        ..Begin::default()
    };
    session(common, options, wishes, signals, begin)
}

/// What a run before has left of these tunnels, if it can be had.
fn kept(urls: &Urls, wishes: &[Wish], notices: &mut Vec<String>) -> Option<State> {
    // Ports of this machine are nobody else's.
    if wishes.is_empty() {
        return None;
    }
    let dir = state::dir(&environment)?;
    let asked: Vec<Asked> = wishes.iter().map(Wish::asked).collect();
    let kit = urls.iter().collect::<Vec<_>>().join(" ");
    State::open(&dir, &kit, &asked).unwrap_or_else(|error| {
        let dir = dir.display();
        notices.push(format!(
            "a next start will not find this session: its state cannot be kept in {dir}: {error}"
        ));
        None
    })
}

fn session(
    common: &Common,
    options: TunnelOptions,
    wishes: Wishes,
    signals: Signals,
    begin: Begin,
) -> Result<Outcome, Error> {
    let options = common.manner.apply(options);
    options.check()?;
    let style = Style::of_stdout(common.json, common.quiet, wishes.len() > 1, &environment);
    let begin = Begin {
        connections: common.manner.connections.unwrap_or(1),
        ..begin
    };
    run::run(options, wishes, signals, style, begin)
}
