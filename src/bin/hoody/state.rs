//! What outlives this process: the id of its session and the ports of its tunnels, so that a
//! client that was killed comes back to them.
//!
//! One file for each kit and set of tunnels, in a directory that is nobody else's. Whoever has the
//! lock on it has the session; a second process with the same tunnels makes one of its own. The id
//! is a capability, and no token stands there.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hoody_tunnel::limits::STATE_BYTES;
use serde::{Deserialize, Serialize};

use crate::options::Env;

/// A file of our own, locked.
#[derive(Debug)]
pub struct State {
    file: File,
    path: PathBuf,
    kept: Kept,
    /// What is in the file.
    written: Vec<u8>,
}

/// The same for several threads: until it cannot be written any more.
#[derive(Debug, Clone)]
pub struct Keeper(Arc<Mutex<Option<State>>>);

impl Keeper {
    pub fn new(state: Option<State>) -> Keeper {
        Keeper(Arc::new(Mutex::new(state)))
    }

    /// Looks at it, if there is one.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> Option<T>) -> Option<T> {
        self.lock().as_ref().and_then(look)
    }

    /// Writes something down. Where that fails it is told once, and nothing is kept from then on.
    pub fn keep(&self, write: impl FnOnce(&mut State) -> io::Result<()>) -> Result<(), String> {
        let mut state = self.lock();
        let outcome = state.as_mut().map_or(Ok(()), write);
        outcome.map_err(|error| {
            *state = None;
            format!("a next start will not find this session: its state is lost: {error}")
        })
    }

    /// There is nothing to come back to.
    pub fn forget(&self) {
        if let Some(state) = self.lock().take() {
            state.forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        // Whatever a thread left here is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Which kit: not its URL, in which a secret may stand.
    kit: u64,
    /// The session's whole id, once it stood.
    session: Option<String>,
    tunnels: Vec<KeptTunnel>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptTunnel {
    /// What was asked for.
    name: String,
    /// What it got; 0 is nothing yet.
    port: u16,
}

/// Where all such files are. No part of the environment is believed that is no whole path.
pub fn dir(env: Env<'_>) -> Option<PathBuf> {
    let whole = |name: &str| env(name).map(PathBuf::from).filter(|it| it.is_absolute());
    let base = whole("XDG_STATE_HOME").or_else(|| Some(whole("HOME")?.join(".local/state")));
    Some(base?.join("hoody-tunnel"))
}

impl State {
    /// What is known of these tunnels to this kit. None where another process has them open.
    pub fn open(dir: &Path, kit: &str, tunnels: Vec<String>) -> io::Result<Option<State>> {
        ensure_dir(dir)?;
        let names = tunnels.iter().map(String::as_str);
        let name = format!("{:016x}.json", number([kit].into_iter().chain(names)));
        let asked = Kept {
            kit: number([kit].into_iter()),
            session: None,
            tunnels: tunnels.into_iter().map(KeptTunnel::new).collect(),
        };
        let path = dir.join(name);
        // Who removes a file holds its lock: then the next look finds another one there, or none.
        for _ in 0..RACES {
            let file = open_own(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if is_still_there(&file, &path) {
                let written = read(&file)?;
                let kept = Kept::parse(&written).filter(|kept| kept.is_of(&asked));
                return Ok(Some(State {
                    file,
                    path,
                    kept: kept.unwrap_or(asked),
                    written,
                }));
            }
        }
        Ok(None)
    }

    /// The session to come back to.
    pub fn session(&self) -> Option<&str> {
        self.kept.session.as_deref()
    }

    /// The port that a tunnel had.
    pub fn port(&self, index: usize) -> Option<u16> {
        let tunnel = self.kept.tunnels.get(index);
        tunnel.map(|tunnel| tunnel.port).filter(|port| *port != 0)
    }

    /// The session stands.
    pub fn stands(&mut self, session: &str) -> io::Result<()> {
        self.kept.session = Some(session.to_owned());
        self.write()
    }

    /// A tunnel has this port.
    pub fn bound(&mut self, index: usize, port: u16) -> io::Result<()> {
        if let Some(tunnel) = self.kept.tunnels.get_mut(index) {
            tunnel.port = port;
        }
        self.write()
    }

    /// There is nothing to come back to.
    pub fn forget(self) {
        // Whoever cannot remove it will not be believed by the kit: the session is over there.
        let _ = std::fs::remove_file(&self.path);
    }

    /// In one call, so that no end of this process leaves half of it. What is left behind it of
    /// something longer is not read.
    fn write(&mut self) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(&self.kept)?;
        bytes.push(b'\n');
        if bytes != self.written {
            self.file.write_all_at(&bytes, 0)?;
            self.file.set_len(bytes.len() as u64)?;
            self.written = bytes;
        }
        Ok(())
    }
}

impl KeptTunnel {
    fn new(name: String) -> KeptTunnel {
        KeptTunnel { name, port: 0 }
    }
}

impl Kept {
    /// The first JSON value in a file, if it is what we write.
    fn parse(bytes: &[u8]) -> Option<Kept> {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter();
        values.next()?.ok()
    }

    /// Whether it is about the same kit and tunnels.
    fn is_of(&self, asked: &Kept) -> bool {
        fn names(kept: &Kept) -> impl Iterator<Item = &str> {
            kept.tunnels.iter().map(|tunnel| tunnel.name.as_str())
        }
        self.kit == asked.kit && names(self).eq(names(asked))
    }
}

/// A number for some texts (FNV-1a): two kits or sets of tunnels that share one lose each other's
/// state, and nothing else.
fn number<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let octets = texts.flat_map(|text| text.bytes().chain(std::iter::once(0)));
    octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How often a file may be removed by its owner between our look and our lock.
const RACES: usize = 8;

/// Makes the directory, or makes sure that it is one that nobody else can put files into.
fn ensure_dir(dir: &Path) -> io::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    // It may be there as something else, which is told below.
    if made.is_err() && dir.symlink_metadata().is_err() {
        return made;
    }
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)?;
    let metadata = handle.metadata()?;
    match metadata.uid() == own_user() && metadata.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(io::Error::other("others may put files into it")),
    }
}

/// Opens a file that is ours alone, or makes it. Links are not followed, and what is no file is not
/// waited for.
fn open_own(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    let is_ours = metadata.is_file() && metadata.nlink() <= 1 && metadata.uid() == own_user();
    match is_ours && metadata.mode() & 0o077 == 0 {
        true => Ok(file),
        false => Err(io::Error::other("it is not this user's alone (mode 0600)")),
    }
}

fn own_user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether the name still leads to the file that we hold.
fn is_still_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(STATE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const KIT: &str = "ws://kit/";

    fn open(dir: &Path) -> Option<State> {
        let tunnels = vec!["expose 0 a".to_owned(), "pull 5432 b".to_owned()];
        State::open(dir, KIT, tunnels).unwrap()
    }

    fn only_file(dir: &Path) -> PathBuf {
        let mut entries = std::fs::read_dir(dir).unwrap();
        let path = entries.next().expect("a file").unwrap().path();
        assert!(entries.next().is_none());
        path
    }

    #[test]
    fn it_is_where_the_environment_says_and_nowhere_for_half_a_path() {
        for (state_home, home, wanted) in [
            ("/s", "/h", Some("/s/hoody-tunnel")),
            ("", "/h", Some("/h/.local/state/hoody-tunnel")),
            ("s", "/h", Some("/h/.local/state/hoody-tunnel")),
            ("s", "h", None),
            ("", "", None),
        ] {
            let env = |name: &str| match name {
                "HOME" => Some(home.to_owned()),
                _ => Some(state_home.to_owned()),
            };
            assert_eq!(dir(&env), wanted.map(PathBuf::from));
        }
        assert_eq!(dir(&|_| None), None);
    }

    #[test]
    fn what_was_kept_is_there_again_for_the_same_tunnels_and_no_others() {
        let dir = TempDir::new();
        let dir = dir.path().join("deep/hoody-tunnel");
        let mut state = open(&dir).expect("nobody has it");
        assert_eq!((state.session(), state.port(0)), (None, None));
        state.stands("S-1").unwrap();
        state.bound(0, 23_456).unwrap();
        state.bound(9, 1).unwrap();
        assert!(open(&dir).is_none(), "one process at a time");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&only_file(&dir)), 0o600);
        assert_eq!(mode(&dir), 0o700);
        drop(state);
        let mut state = open(&dir).expect("it is free again");
        assert_eq!(state.session(), Some("S-1"));
        assert_eq!((state.port(0), state.port(1)), (Some(23_456), None));
        // Shorter than before, and without the rest of it.
        state.stands("S").unwrap();
        drop(state);
        assert_eq!(open(&dir).unwrap().session(), Some("S"));
        let other = |kit: &str, tunnels: &[&str]| {
            let tunnels = tunnels.iter().map(|name| (*name).to_owned()).collect();
            State::open(&dir, kit, tunnels).unwrap().unwrap()
        };
        for other in [
            other("ws://other/", &["expose 0 a", "pull 5432 b"]),
            other(KIT, &["expose 0 a"]),
            other(KIT, &["pull 5432 b", "expose 0 a"]),
            other(KIT, &["expose 0 apull 5432 b"]),
            other(KIT, &[]),
        ] {
            assert_eq!((other.session(), other.port(0)), (None, None));
        }
        open(&dir).unwrap().forget();
        assert_eq!(open(&dir).unwrap().session(), None);
    }

    #[test]
    fn what_is_not_ours_is_not_touched() {
        let dir = TempDir::new();
        let target = dir.path().join("target");
        std::fs::write(&target, "precious").unwrap();
        let states = dir.path().join("states");
        open(&states).unwrap().stands("S-1").unwrap();
        let path = only_file(&states);
        let refused = || {
            State::open(
                &states,
                KIT,
                vec!["expose 0 a".into(), "pull 5432 b".into()],
            )
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refused().is_err(), "others have read the id");
        std::fs::remove_file(&path).unwrap();
        symlink(&target, &path).unwrap();
        assert!(refused().is_err(), "a link");
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&target, &path).unwrap();
        assert!(refused().is_err(), "another name of a file");
        std::fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(refused().is_err(), "a pipe");
        std::fs::remove_file(&path).unwrap();
        std::fs::set_permissions(&states, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused().is_err(), "a directory of everybody's");
        let link = dir.path().join("link");
        std::fs::set_permissions(&states, std::fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&states, &link).unwrap();
        assert!(State::open(&link, KIT, Vec::new()).is_err(), "a link");
        assert!(State::open(&target, KIT, Vec::new()).is_err(), "a file");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn whatever_else_is_in_the_file_is_as_nothing() {
        let dir = TempDir::new();
        let mut state = open(dir.path()).unwrap();
        state.stands("S-1").unwrap();
        let path = only_file(dir.path());
        let good = std::fs::read(&path).unwrap();
        drop(state);
        for cut in 0..good.len() - 2 {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert_eq!(open(dir.path()).unwrap().session(), None, "{cut}");
        }
        let noise = [
            b"\0".repeat(3 << 20),
            b"[1]".to_vec(),
            b"{\"kit\":\"x\"}".to_vec(),
        ];
        for noise in noise {
            std::fs::write(&path, noise).unwrap();
            let mut state = open(dir.path()).unwrap();
            assert_eq!(state.session(), None);
            state.stands("S-2").unwrap();
            drop(state);
            assert_eq!(open(dir.path()).unwrap().session(), Some("S-2"));
        }
    }
}
