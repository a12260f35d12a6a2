//! A kit inside this process, so that a tunnel works on a machine where nothing is set up.
//!
//! It listens on loopback only, at a port that the system picks, and wants a token that nobody else
//! knows: other users of the machine can reach its port as well as we can.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use hoody_tunnel::kit::config::{About, Config, Usage};
use hoody_tunnel::kit::public_url::PublicUrl;
use hoody_tunnel::kit::{Kit, KitNotice, KitOrder};
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
    /// Starts it, and returns when it listens.
    pub fn start() -> Result<Embedded, String> {
        let token = random_token();
        let config = config(&token)?;
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
            Ok(KitNotice::MemoryFreed) | Err(_) => {
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

/// 256 bits as hexadecimal digits.
fn random_token() -> String {
    let octets: [u8; 32] = os_entropy().octets();
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn config(token: &str) -> Result<Config, String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let started_unix = since.map_or(0, |since| since.as_secs());
    let config = Config {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        expose_host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        token: Some(Secret::new(token)),
        public_url: Some(PublicUrl::parse("http://127.0.0.1:{port}").map_err(text)?),
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

    #[test]
    fn the_kits_configuration_is_one_that_it_takes() {
        let token = random_token();
        assert!(config(&token).is_ok());
        assert_eq!(token.len(), 64);
        assert_ne!(token, random_token());
    }

    #[test]
    fn it_starts_on_loopback_and_ends_when_it_is_dropped() {
        let kit = Embedded::start().unwrap();
        let addr = kit.url().trim_start_matches("ws://");
        let addr: SocketAddr = addr.split('/').next().unwrap().parse().unwrap();
        assert!(addr.ip().is_loopback());
        assert!(std::net::TcpStream::connect(addr).is_ok());
        drop(kit);
        assert!(std::net::TcpStream::connect(addr).is_err());
    }
}
