//! What outlives this process: the id of its session and the ports of its tunnels, so that a
//! client that was killed comes back to them.
//!
//! One file for each kit and set of tunnels, in a directory that is nobody else's. Whoever has the
//! lock on it has the session; a second process with the same tunnels makes one of its own. The id
//! is a capability, and no token stands there.
//!
//! Who starts with other tunnels than before has another file. So files that processes left which
//! are gone are looked through too: the session of the one with most of the tunnels is come back
//! to, and ports of the others are asked for with their sessions' ids as proof.

use std::cmp::Reverse;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hoody_tunnel::limits::{STATE_BYTES, STATE_FILES};
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
    /// What others left that had tunnels of ours.
    left: Vec<Left>,
}

/// The state of a process that is gone and had tunnels of ours.
#[derive(Debug)]
struct Left {
    state: State,
    /// Which of its tunnels are which of ours.
    pairs: Vec<(usize, usize)>,
    /// Whether that is all it had.
    all: bool,
}

/// A tunnel that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What it is among the tunnels of other runs.
    pub name: String,
    /// The port that it must have; 0 where several will do.
    pub port: u16,
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

impl Asked {
    /// Whether both cannot be had.
    pub fn is_for_the_port_of(&self, other: &Asked) -> bool {
        self.port != 0 && self.port == other.port && is_pull(&self.name) == is_pull(&other.name)
    }
}

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    pub fn open(dir: &Path, kit: &str, tunnels: &[Asked]) -> io::Result<Option<State>> {
        ensure_dir(dir)?;
        let names = tunnels.iter().map(|tunnel| tunnel.name.as_str());
        let name = format!("{:016x}.json", number([kit].into_iter().chain(names)));
        let asked = Kept {
            kit: number([kit].into_iter()),
            session: None,
            tunnels: tunnels.iter().map(KeptTunnel::new).collect(),
        };
        let path = dir.join(name);
        // Who removes a file holds its lock: then the next look finds another one there, or none.
        for _ in 0..RACES {
            let file = open_own(&path, true)?;
            if !lock(&file)? {
                return Ok(None);
            }
            if is_still_there(&file, &path) {
                let mut state = State::read(file, path)?;
                if !state.kept.is_of(&asked) {
                    state.kept = asked;
                }
                state.look_around(dir, tunnels);
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// What a file of ours says.
    fn read(file: File, path: PathBuf) -> io::Result<State> {
        let mut written = Vec::new();
        (&file).take(STATE_BYTES).read_to_end(&mut written)?;
        Ok(State {
            file,
            path,
            kept: Kept::parse(&written).unwrap_or_default(),
            written,
            left: Vec::new(),
        })
    }

    /// Finds what others left that had tunnels of ours. What cannot be looked at is nobody's.
    fn look_around(&mut self, dir: &Path, tunnels: &[Asked]) {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let others = entries
            .map(|entry| entry.path())
            .filter(|path| is_name(path));
        for path in others.filter(|path| *path != self.path).take(STATE_FILES) {
            let Ok(file) = open_own(&path, false) else {
                continue;
            };
            if !matches!(lock(&file), Ok(true)) || !is_still_there(&file, &path) {
                continue;
            }
            let Ok(state) = State::read(file, path) else {
                continue;
            };
            let pairs = state.kept.pairs(tunnels);
            let is_of_use = state.kept.kit == self.kept.kit && state.kept.session.is_some();
            if is_of_use && !pairs.is_empty() {
                let all = pairs.len() == state.kept.tunnels.len();
                self.left.push(Left { state, pairs, all });
            }
        }
        self.left.sort_by_key(|left| Reverse(left.pairs.len()));
        if self.kept.session.is_none()
            && let Some(left) = self.left.first()
        {
            self.kept.session.clone_from(&left.state.kept.session);
            for (theirs, ours) in &left.pairs {
                self.kept.tunnels[*ours].port = left.state.kept.tunnels[*theirs].port;
            }
        }
    }

    /// The session to come back to.
    pub fn session(&self) -> Option<&str> {
        self.kept.session.as_deref()
    }

    /// The port that a tunnel had.
    pub fn port(&self, index: usize) -> Option<u16> {
        let own = self.kept.tunnels.get(index).map(|tunnel| tunnel.port);
        let own = own.filter(|port| *port != 0);
        own.or_else(|| self.left_with(index).map(|(_, port)| port))
    }

    /// The id of another session than ours that had a tunnel, and perhaps has it yet.
    pub fn replaces(&self, index: usize) -> Option<&str> {
        let session = self.left_with(index).map(|(session, _)| session);
        session.filter(|id| Some(*id) != self.session())
    }

    fn left_with(&self, index: usize) -> Option<(&str, u16)> {
        self.left.iter().find_map(|left| {
            let (theirs, _) = left.pairs.iter().find(|(_, ours)| *ours == index)?;
            let port = left.state.kept.tunnels[*theirs].port;
            Some((left.state.session()?, port)).filter(|_| port != 0)
        })
    }

    /// The session stands.
    pub fn stands(&mut self, session: &str) -> io::Result<()> {
        let before = self.kept.session.replace(session.to_owned());
        self.write()?;
        // Whatever was left of the one that it goes on from is in our file now.
        for left in self
            .left
            .extract_if(.., |left| left.state.kept.session == before)
        {
            left.state.forget();
        }
        Ok(())
    }

    /// A tunnel has this port.
    pub fn bound(&mut self, index: usize, port: u16) -> io::Result<()> {
        if let Some(tunnel) = self.kept.tunnels.get_mut(index) {
            tunnel.port = port;
        }
        self.write()?;
        for left in &mut self.left {
            left.pairs.retain(|(_, ours)| *ours != index);
        }
        // A session that has tunnels left is there for whoever asks for those.
        for left in self.left.extract_if(.., |left| left.pairs.is_empty()) {
            if left.all {
                left.state.forget();
            }
        }
        Ok(())
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
    fn new(asked: &Asked) -> KeptTunnel {
        KeptTunnel {
            name: asked.name.clone(),
            port: 0,
        }
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

    /// Which of these tunnels are which of those that are asked for: the same, or the port's.
    fn pairs(&self, asked: &[Asked]) -> Vec<(usize, usize)> {
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (ours, asked) in asked.iter().enumerate() {
            let is_it = |(theirs, kept): &(usize, &KeptTunnel)| {
                let is_named = kept.name == asked.name;
                let has_port = asked.port != 0
                    && kept.port == asked.port
                    && is_pull(&kept.name) == is_pull(&asked.name);
                (is_named || has_port) && pairs.iter().all(|(taken, _)| taken != theirs)
            };
            let found = self.tunnels.iter().enumerate().find(is_it);
            pairs.extend(found.map(|(theirs, _)| (theirs, ours)));
        }
        pairs
    }
}

/// The ports of pulls are others than those of what is exposed.
fn is_pull(name: &str) -> bool {
    name.starts_with("pull ")
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

/// Opens a file that is ours alone, or makes it where it is to be made. Links are not followed, and
/// what is no file is not waited for.
fn open_own(path: &Path, create: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
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

/// Whether a file's lock could be had.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a path ends in a name that we give.
fn is_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_suffix(".json"));
    number.is_some_and(|it| it.len() == 16 && it.bytes().all(|octet| octet.is_ascii_hexdigit()))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
