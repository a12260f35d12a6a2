//! One question to a kit's HTTP endpoints, from one call.

use std::time::Duration;

use crate::client::admin::{AdminReply, AdminRequest, Fetch};
use crate::client::config::{Config, Endpoint};
use crate::client::error::Error;
use crate::client::options::TunnelOptions;
use crate::reactor::{self, Reactor};

/// Asks once and waits for the whole answer, at most for `timeout`. Where several URLs lead to the
/// kit, the next is asked when one does not. A refusal by the kit is a
/// reply; an error is when there was none.
///
/// # Errors
///
/// [`Error::Options`] where the options cannot work, [`Error::Timeout`] where no whole answer came
/// in
/// time, [`Error::Tls`], [`Error::Proxy`] and [`Error::Io`] where the kit was not reached.
///
/// ```no_run
/// # use hoody_tunnel::client::{self, *};
/// # fn main() -> Result<(), client::Error> {
/// let options = TunnelOptions::new("wss://kit.example").token("secret");
/// let second = std::time::Duration::from_secs(1);
/// let reply = client::fetch(&options, &AdminRequest::Health, second)?;
/// println!("{} {}", reply.status, String::from_utf8_lossy(&reply.body));
/// # Ok(())
/// # }
/// ```
pub fn fetch(
    options: &TunnelOptions,
    request: &AdminRequest,
    timeout: Duration,
) -> Result<AdminReply, Error> {
    let config = Config::new(options)?;
    let (until, count) = (reactor::now() + timeout, config.endpoints.len());
    let mut outcome = Err(Error::Options("The kit has no URL.".into()));
    for (index, endpoint) in config.endpoints.iter().enumerate() {
        let rest = until.since(reactor::now()) / (count - index) as u32;
        outcome = ask(&config, endpoint, request, rest);
        match &outcome {
            // Another way may be open.
            Err(Error::Io(_) | Error::Timeout(_) | Error::Tls(_) | Error::Proxy(_)) => {}
            _ => return outcome,
        }
    }
    outcome
}

fn ask(
    config: &Config,
    endpoint: &Endpoint,
    request: &AdminRequest,
    timeout: Duration,
) -> Result<AdminReply, Error> {
    let fail = |error: std::io::Error| Error::Io(format!("cannot ask: {error}"));
    let host = reactor::Options {
        tls: Some(reactor::connector(config.ca_pem.clone()).map_err(fail)?),
        ..reactor::Options::default()
    };
    let machine = Fetch::new(config, endpoint, request, reactor::now() + timeout)?;
    let mut reactor = Reactor::new(machine, host).map_err(fail)?;
    let mut outcome = None;
    reactor.run(|reply| outcome = Some(reply)).map_err(fail)?;
    outcome.unwrap_or_else(|| Err(Error::Io("the request ended without an answer".into())))
}
