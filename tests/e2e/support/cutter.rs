//! A TCP proxy between a client and its kit that cuts what it carries, or falls silent.

use super::client::{Hoody, hoody};
use super::kit::Kit;
use super::tcp::{TcpServer, reset_on_close};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a connection ends.
#[derive(Clone, Copy)]
pub enum Cut {
    /// With a RST on both sides.
    Reset,
    /// With a FIN on both sides.
    Fin,
}

/// Stands between a client and its kit.
pub struct Cutter {
    /// Where clients come to.
    pub server: TcpServer,
    open: Arc<Mutex<Vec<Carried>>>,
}

/// One connection of a client, and the one to the kit.
struct Carried {
    pair: [TcpStream; 2],
    /// Nothing passes, until it does again.
    silent: Arc<AtomicBool>,
}

impl Cutter {
    /// Stands before `kit`.
    pub fn before(kit: &Kit) -> Cutter {
        let open: Arc<Mutex<Vec<Carried>>> = Arc::default();
        let (to, carried) = (kit.port, open.clone());
        let server = TcpServer::start(move |client| {
            let Ok(kit) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else {
                return;
            };
            let _ = kit.set_nodelay(true);
            let twin = |stream: &TcpStream| stream.try_clone().expect("descriptors are left");
            let silent = Arc::new(AtomicBool::new(false));
            carried.lock().expect("no holder panics").push(Carried {
                pair: [twin(&client), twin(&kit)],
                silent: silent.clone(),
            });
            let back = (twin(&kit), twin(&client), silent.clone());
            std::thread::spawn(move || carry(back.0, back.1, &back.2));
            carry(client, kit, &silent);
        });
        Cutter { server, open }
    }

    /// Cuts what is open now, all of it or one. Says how many that were.
    pub fn cut(&self, how: Cut, at: Option<usize>) -> usize {
        let mut open = self.open.lock().expect("no holder panics");
        let cut = match at {
            Some(at) if !open.is_empty() => {
                let at = at % open.len();
                vec![open.remove(at)]
            }
            Some(_) => Vec::new(),
            None => std::mem::take(&mut *open),
        };
        for stream in cut.iter().flat_map(|carried| &carried.pair) {
            if let Cut::Reset = how {
                reset_on_close(stream);
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
        cut.len()
    }

    /// From now on, or not any more, nothing passes on one of the connections, counted from the
    /// oldest that was not cut. What was said meanwhile passes afterwards.
    #[track_caller]
    pub fn silence(&self, at: usize, on: bool) {
        let open = self.open.lock().expect("no holder panics");
        open[at].silent.store(on, Ordering::SeqCst);
    }

    /// How many it has carried that were not cut.
    pub fn carried(&self) -> usize {
        self.open.lock().expect("no holder panics").len()
    }

    /// A client that reaches the kit only through this.
    pub fn hoody(&self, kit: &Kit, args: &[&str], bindings: usize) -> Hoody {
        let url = format!("ws://127.0.0.1:{}/api/v1/tunnel/connect", self.server.port);
        let mut command = hoody();
        command
            .arg("tunnel")
            .args(args)
            .args(["--url", &url, "--json"]);
        if let Some(file) = kit.token_file() {
            command.arg("--token-file").arg(file);
        }
        Hoody::from_command(&mut command, bindings)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut block = [0; 65536];
    while let Ok(count) = from.read(&mut block)
        && count > 0
    {
        while silent.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if to.write_all(&block[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
