//! A kit that takes over from another one, or hands over to one (SIGUSR2, `hoody-tunnel upgrade`),
//! and sockets that systemd opens.
//!
//! The kit before starts the program anew, with its listening sockets open in it and a socket to
//! talk on. It writes one line of JSON there; the new one writes a line once it listens, and only
//! then the kit before lets go. Whatever goes wrong until then costs nothing: it stays.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use hoody_tunnel::kit::handover::Handover;
use hoody_tunnel::kit::{Kit, KitOrder};
use hoody_tunnel::reactor::{Handle, Inherited, Reactor, from_systemd, logging, successor};
use log::{error, info, warn};
use serde::{Deserialize, Serialize};

use crate::settings::Trouble;

/// What the kit before tells.
#[derive(Serialize, Deserialize)]
struct Message {
    sockets: Vec<Given>,
    handover: Handover,
}

/// A listening socket that is open in this process.
#[derive(Serialize, Deserialize)]
struct Given {
    fd: RawFd,
    #[serde(default)]
    stays: bool,
}

/// What this program was started with.
#[derive(Default)]
pub struct Start {
    /// Sockets that listen already.
    pub sockets: Vec<Inherited>,
    /// What the kit before has told.
    pub handover: Option<Handover>,
    predecessor: Option<UnixStream>,
}

impl Start {
    /// Finds out.
    pub fn find() -> Result<Start, Trouble> {
        let failed =
            |what: &'static str| move |why: io::Error| Trouble::Failed(format!("{what}: {why}"));
        let Some(predecessor) = successor::predecessor().map_err(failed("cannot succeed"))? else {
            let sockets = from_systemd().map_err(failed("LISTEN_FDS"))?;
            return Ok(Start {
                sockets,
                ..Start::default()
            });
        };
        let read = failed("cannot read what the kit before tells");
        let message = listen_to(&predecessor).map_err(&read)?;
        let sockets = message.sockets.iter();
        let sockets = sockets.map(|it| Inherited::take(it.fd, it.stays)).collect();
        Ok(Start {
            sockets: Result::map_err(sockets, &read)?,
            handover: Some(message.handover),
            predecessor: Some(predecessor),
        })
    }

    /// The address of the kit's own listener, where systemd has opened it: the first of all.
    pub fn listen(&self) -> Option<SocketAddr> {
        Some(self.sockets.first()?.addr())
    }

    /// This kit listens: the one before may go.
    pub fn stands(&mut self) {
        tell_systemd("READY=1");
        if let Some(mut predecessor) = self.predecessor.take()
            && let Err(why) = predecessor.write_all(STANDS)
        {
            warn!("the kit before cannot be told that it may go: {why}");
        }
    }
}

fn listen_to(predecessor: &UnixStream) -> io::Result<Message> {
    predecessor.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(predecessor.take(MOST)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Whether a successor is being started.
static STARTING: AtomicBool = AtomicBool::new(false);
/// The process that has taken over.
static SUCCESSOR: AtomicU32 = AtomicU32::new(0);

/// Starts a successor, and has the kit let go once that one stands.
pub fn hand_over(handover: Handover, reactor: &Reactor<Kit>) {
    if STARTING.swap(true, Ordering::SeqCst) {
        return warn!("a successor is being started already");
    }
    let (given, sockets): (Vec<Given>, Vec<BorrowedFd<'_>>) = reactor
        .sockets()
        .map(|(_, socket, stays)| {
            let fd = socket.as_raw_fd();
            (Given { fd, stays }, socket)
        })
        .unzip();
    let message = Message {
        sockets: given,
        handover,
    };
    match begin(&message, &sockets) {
        Ok((child, ours)) => {
            let handle = reactor.handle();
            // It may wait; the loop may not.
            std::thread::spawn(move || await_successor(child, &ours, &handle));
        }
        Err(why) => gave_up(&why.to_string()),
    }
}

fn begin(message: &Message, sockets: &[BorrowedFd<'_>]) -> io::Result<(Child, UnixStream)> {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let program = std::env::current_exe()
        .ok()
        .and_then(|path| match path.exists() {
            true => Some(path),
            // Where the file was replaced, the system tells where it was, with a word behind it.
            false => Some(path.to_str()?.strip_suffix(GONE)?.into()),
        });
    let program = program.unwrap_or_else(|| name.into());
    let mut command = Command::new(program);
    command
        .args(args)
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS");
    let (mut child, mut ours) = successor::start(&mut command, sockets)?;
    let line = serde_json::to_string(message)? + "\n";
    ours.set_write_timeout(Some(PATIENCE))?;
    ours.set_read_timeout(Some(PATIENCE))?;
    if let Err(why) = ours.write_all(line.as_bytes()) {
        end(&mut child);
        return Err(why);
    }
    Ok((child, ours))
}

fn await_successor(mut child: Child, mut ours: &UnixStream, handle: &Handle<KitOrder>) {
    let mut answer = [0; STANDS.len()];
    match ours.read_exact(&mut answer) {
        Ok(()) if answer == STANDS => {
            let pid = child.id();
            info!("process {pid} has taken over");
            SUCCESSOR.store(pid, Ordering::SeqCst);
            // It speaks for itself only where systemd hears others than the main process.
            tell_systemd(&format!("MAINPID={pid}\nREADY=1"));
            // Where the kit is gone by now there is nothing left to let go.
            let _ = handle.send(KitOrder::Succeeded);
        }
        _ => {
            end(&mut child);
            gave_up("it did not begin to listen; its own words tell why");
        }
    }
}

/// Ends what would not take over, once it had a moment to say why.
fn end(child: &mut Child) {
    for _ in 0..50 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn gave_up(why: &str) {
    error!("no successor could be started, and this kit stays: {why}");
    STARTING.store(false, Ordering::SeqCst);
}

/// Has systemd know (sd_notify(3)), where it started this program and wants to.
fn tell_systemd(what: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| send_to(&socket, what, &path));
    if let Err(why) = sent {
        warn!("cannot tell systemd: {why}");
    }
}

fn send_to(socket: &UnixDatagram, what: &str, path: &std::ffi::OsStr) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::net::SocketAddr;
        if let Some(name) = path.as_bytes().strip_prefix(b"@") {
            let name = SocketAddr::from_abstract_name(name)?;
            return socket.send_to_addr(what.as_bytes(), &name);
        }
    }
    socket.send_to(what.as_bytes(), path)
}

/// The end of a kit that was succeeded. The first process of a container stays for the others, for
/// they end with it.
pub fn afterwards() -> Option<u8> {
    let succeeded = SUCCESSOR.load(Ordering::SeqCst) != 0;
    (succeeded && successor::is_init()).then(|| {
        logging::flush();
        successor::look_after_others() as u8
    })
}

/// How long the two programs wait for each other.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a successor says once it listens.
const STANDS: &[u8] = b"stands\n";
/// Bytes of what a kit tells its successor, at most: more than all sessions with all bindings.
const MOST: u64 = 16 * 1024 * 1024;
/// What Linux says behind the path of a program whose file is not there any more.
const GONE: &str = " (deleted)";
