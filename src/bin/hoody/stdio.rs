//! `forward --stdio`: standard input and output are one connection to a service of the container,
//! as `ProxyCommand` of ssh wants it. Nothing else is printed there.
//!
//! The bytes go through a Unix socket in a folder that only this user can enter, and that is gone
//! as soon as the connection stands.

use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use hoody_tunnel::client::{Error, SessionEvent, Target, TunnelOptions, TunnelSession};

use crate::interrupt::Signals;
use crate::options::{Manner, Reach};
use crate::run::Outcome;
use crate::{complain, ended, environment, usage};

/// `hoody tunnel forward --stdio`
pub fn command(reach: &Reach, manner: &Manner, target: &Target) -> ExitCode {
    let urls = match reach.kit(&environment) {
        Ok(Some(urls)) => urls,
        Ok(None) => return usage("no kit is named: give --url, --container or HOODY_TUNNEL_URL"),
        Err(why) => return usage(&why),
    };
    let options = manner.apply(reach.options(&urls, &environment));
    ended(options.check().and_then(|()| run(options, target)))
}

/// Connects, and ends when both directions have.
fn run(options: TunnelOptions, target: &Target) -> Result<Outcome, Error> {
    let failed = |error: io::Error| Error::Io(format!("cannot make a connection: {error}"));
    let signals = Signals::block().map_err(failed)?;
    let place = Place::make().map_err(failed)?;
    let listener = UnixListener::bind(place.socket()).map_err(failed)?;
    let session = TunnelSession::start(options)?;
    let events = session.events();
    let (gone, ends) = std::sync::mpsc::sync_channel(4);
    let signal = gone.clone();
    signals
        .watch(move || {
            let _ = signal.send(End::Asked);
        })
        .map_err(failed)?;
    session.connect_socket(target.clone(), place.socket())?;
    let stream = accept(&listener).map_err(failed)?;
    drop((listener, place));
    let output = carry(stream).map_err(failed)?;
    thread::spawn(move || {
        for event in events {
            let end = match event {
                SessionEvent::StreamClosed(record) => End::Over(record.cut),
                SessionEvent::Closed { error } => End::Over(error.map(|why| why.to_string())),
                _ => continue,
            };
            let _ = gone.send(end);
        }
    });
    match ends.recv() {
        Ok(End::Over(None)) => {
            // What has come is still to be written.
            let _ = output.join();
            let _ = session.close();
            Ok(Outcome::Stopped)
        }
        Ok(End::Over(Some(why))) => {
            complain(&why);
            Ok(Outcome::Failed)
        }
        Ok(End::Asked) | Err(_) => Ok(Outcome::Failed),
    }
}

/// The session's connection, which it has begun.
fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let until = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Why it ends.
enum End {
    /// Both directions have, or the connection broke.
    Over(Option<String>),
    /// By a signal.
    Asked,
}

/// Carries bytes between the socket and our standard streams, by two threads; gives the one that
/// writes.
fn carry(stream: UnixStream) -> io::Result<thread::JoinHandle<()>> {
    let twin = stream.try_clone()?;
    thread::spawn(move || {
        let (mut stdin, mut to) = (io::stdin().lock(), twin);
        copy(&mut stdin, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    Ok(thread::spawn(move || {
        let (mut from, mut stdout) = (stream, io::stdout().lock());
        copy(&mut from, &mut stdout);
        // Where nobody reads us any more the other side is to know.
        let _ = from.shutdown(Shutdown::Read);
    }))
}

/// Until the end of either.
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block) {
            Ok(0) => return,
            Ok(count) => {
                if to
                    .write_all(&block[..count])
                    .and_then(|()| to.flush())
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A folder of ours, gone when this is dropped.
struct Place(PathBuf);

impl Place {
    fn make() -> io::Result<Place> {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let base = base.filter(|dir| dir.is_dir());
        let base = base.unwrap_or_else(std::env::temp_dir);
        let pid = std::process::id();
        let mut tries = 0;
        loop {
            let dir = base.join(format!("hoody-{pid}-{tries}"));
            // What is there already is somebody else's.
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(Place(dir)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn socket(&self) -> PathBuf {
        Path::new(&self.0).join("stdio")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How long our own session may take to come to our socket.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes at once.
const BLOCK: usize = 64 * 1024;
/// Names that are tried.
const TRIES: u32 = 100;
