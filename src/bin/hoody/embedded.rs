//! A kit inside this process, so that a tunnel works on a machine where nothing is set up.
//!
//! It listens on loopback only, at a port that the system picks, and wants a token that nobody else
//! knows: other users of the machine can reach its port as well as we can.
//!
//! Both halves of the tunnel then live on the descriptors of one process, and are told before they
//! start how many of them are theirs: whoever took the other's last one would silence it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use hoody_tunnel::kit::config::{About, Config, Usage};
use hoody_tunnel::kit::public_url::PublicUrl;
use hoody_tunnel::kit::{Kit, KitNotice, KitOrder};
use hoody_tunnel::limits::{HOST_DESCRIPTORS, MAX_LANES, MIN_FD_BUDGET};
use hoody_tunnel::reactor::logging::{self, rfc3339};
use hoody_tunnel::reactor::{self, Handle, Options, Reactor, os_entropy, process};
use hoody_tunnel::wire::control::Secret;

/// A kit that runs on a thread of its own. Dropping it ends the kit.
pub struct Embedded {
    url: String,
    token: String,
    handle: Handle<KitOrder>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Starts it with so many descriptors, and returns when it listens.
    pub fn start(descriptors: usize) -> Result<Embedded, String> {
        let token = random_token();
        let config = config(&token, descriptors)?;
        let kit = Kit::new(config, os_entropy(), reactor::now());
        let mut reactor = Reactor::new(kit, Options::default())
            .map_err(|error| format!("no kit can run inside this process: {error}"))?;
        let handle = reactor.handle();
        let (tell, told) = mpsc::channel();
        let running = move || {
            let outcome = reactor.run(|notice| match notice {
                KitNotice::MemoryFreed => process::give_memory_back(),
                // Whoever started us has heard the first one, and needs no other.
                notice => drop(tell.send(notice)),
            });
            if let Err(error) = outcome {
                crate::complain(&format!("the kit inside this process ended: {error}"));
            }
        };
        let thread = thread::Builder::new()
            .name("kit".into())
            .spawn(running)
            .map_err(|error| format!("no thread for the kit: {error}"))?;
        match told.recv() {
            Ok(KitNotice::Listening(addr)) => Ok(Embedded {
                url: format!("ws://{addr}/api/v1/tunnel/connect"),
                token,
                handle,
                thread: Some(thread),
            }),
            Ok(KitNotice::CannotListen(why)) => Err(why),
            Ok(KitNotice::MemoryFreed | KitNotice::HandOver(_)) | Err(_) => {
                Err("the kit inside this process ended at once".into())
            }
        }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it wants to be shown.
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The session has said goodbye by now, so nothing has to be waited for: the second call is
        // for visitors that still hold a connection.
        let _ = self.handle.shutdown();
        let _ = self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many descriptors each half of the tunnel may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Halves {
    /// For [`Embedded::start`].
    pub kit: usize,
    /// For `TunnelOptions::descriptors`.
    pub client: usize,
    /// How many visitors the client serves at once with them.
    visitors: usize,
}

impl Halves {
    /// A sentence for the user where they are fewer than a kit has elsewhere.
    pub fn notice(self) -> Option<String> {
        let limit = process::raise_descriptor_limit(0).ok()?;
        let few = self.kit < Config::default().fd_budget;
        few.then(|| {
            format!(
                "the limit of open files is {limit} (`ulimit -n`): up to {} visitors are served at \
                 once, and others get 503",
                self.visitors
            )
        })
    }
}

/// Divides what this process may still open, for a session of so many connections; the error is a
/// sentence for the user.
pub fn halves(connections: u32) -> Result<Halves, String> {
    // Where the system does not tell there is no bound that we know of.
    let spare = process::spare_descriptors().unwrap_or(usize::MAX);
    divide(spare, connections).map_err(|missing| {
        let limit = process::raise_descriptor_limit(0).unwrap_or(0);
        let least = limit.saturating_add(missing as u64);
        format!(
            "the limit of open files is {limit} (ulimit -n), and a tunnel with a kit inside this \
             process needs at least {least}"
        )
    })
}

/// Divides `spare` descriptors, or tells how many are missing.
///
/// A visitor at work costs one in the kit, and one in the client: a local connection, or the file
/// that it is sent. The kit gets seven tenths, because it keeps up to three eighths of its own for
/// listeners, newcomers and lanes, an eighth of the rest for saying no, and an eighth of what is
/// left for addresses with few visitors. So the client is the first to have no more, which tells
/// the user.
fn divide(spare: usize, connections: u32) -> Result<Halves, usize> {
    let connections = (connections as usize).clamp(1, MAX_LANES);
    // One end here and one in the client, and one more there while it changes its connection.
    let fixed = HOST_DESCRIPTORS + 3 * connections;
    let needed = fixed + (MIN_FD_BUDGET * 10).div_ceil(7);
    let missing = needed.saturating_sub(spare);
    if missing > 0 {
        return Err(missing);
    }
    let kit = connections + (spare - fixed).saturating_mul(7) / 10;
    let kit = kit.min(Config::default().fd_budget);
    Ok(Halves {
        kit,
        // What the process itself needs is in here.
        client: spare - kit,
        visitors: spare - fixed - (kit - connections),
    })
}

/// 256 bits as hexadecimal digits.
fn random_token() -> String {
    let octets: [u8; 32] = os_entropy().octets();
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn config(token: &str, fd_budget: usize) -> Result<Config, String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let started_unix = since.map_or(0, |since| since.as_secs());
    let config = Config {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        expose_host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        token: Some(Secret::new(token)),
        fd_budget,
        public_url: Some(PublicUrl::parse("http://127.0.0.1:{port}").map_err(text)?),
        public_tcp: Some(PublicUrl::parse_tcp("tcp://127.0.0.1:{port}").map_err(text)?),
        about: About {
            started: rfc3339(SystemTime::now()),
            started_unix,
            pid: std::process::id(),
            usage,
            ..About::default()
        },
        ..Config::default()
    };
    config.validate().map_err(text)?;
    Ok(config)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn usage() -> Usage {
    Usage {
        rss: process::resident_bytes().unwrap_or(0),
        fds: process::open_descriptors().unwrap_or(0),
        log_lines_dropped: logging::dropped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hoody_tunnel::kit::budget::{Class, FdBudget};

    /// Both halves fit into what there is, and each has what it needs.
    #[test]
    fn descriptors_are_divided_so_that_both_halves_fit() {
        for connections in [1, 2, 16] {
            let lanes = connections as usize;
            let least = divide(0, connections).unwrap_err();
            assert_eq!(divide(least - 1, connections), Err(1));
            for spare in (least..2000).chain([20_000, 1 << 20, usize::MAX]) {
                let halves = divide(spare, connections).unwrap();
                assert!(config("t", halves.kit).is_ok(), "{spare}: {halves:?}");
                assert_eq!(halves.kit + halves.client, spare);
                // What is left to the client for visitors, see `Client::with_descriptors`.
                let slots = halves.client - HOST_DESCRIPTORS - 2 * lanes;
                assert_eq!(slots, halves.visitors);
                assert!(slots >= 11, "{spare}: {halves:?}");
            }
        }
    }

    #[test]
    fn the_client_has_no_more_before_the_kit_has_none() {
        for spare in 54..4000 {
            let halves = divide(spare, 1).unwrap();
            let needs = config("t", halves.kit).unwrap().descriptor_needs();
            let mut budget = FdBudget::new(halves.kit, needs);
            let listeners = [(); 2].map(|()| budget.take(Class::Listener));
            let lane = budget.take(Class::Lane);
            assert!(listeners.iter().all(Option::is_some) && lane.is_some());
            // It keeps an eighth for addresses with few visitors.
            let visits = budget.for_visits() - budget.for_visits() / 8;
            assert!(visits > halves.visitors, "{spare}: {halves:?}, {visits}");
        }
    }

    #[test]
    fn the_kits_configuration_is_one_that_it_takes() {
        let token = random_token();
        assert!(config(&token, MIN_FD_BUDGET).is_ok());
        assert_eq!(token.len(), 64);
        assert_ne!(token, random_token());
    }

    #[test]
    fn it_starts_on_loopback_and_ends_when_it_is_dropped() {
        let kit = Embedded::start(64).unwrap();
        let addr = kit.url().trim_start_matches("ws://");
        let addr: SocketAddr = addr.split('/').next().unwrap().parse().unwrap();
        assert!(addr.ip().is_loopback());
        assert!(std::net::TcpStream::connect(addr).is_ok());
        drop(kit);
        assert!(std::net::TcpStream::connect(addr).is_err());
    }
}
