//! The served directory, as a jail: what is opened lies below it, whatever symbolic links say.
//!
//! Linux resolves the whole path below the directory by itself (`openat2` with `RESOLVE_BENEATH`),
//! so that nothing can be swapped between a look and the opening. Elsewhere, and on kernels before
//! 5.6, the path is resolved first and compared with the directory.
//!
//! Nothing is opened to find out what it is: that alone lets go a program that waits to write into
//! a FIFO, and a device may do anything. So a path is looked at first, and then opened if what it
//! leads to is a file or a directory.
//!
//! What was opened is looked at once more under its real name, because a link may lead to what is
//! hidden, and by its number in the file system, because the program's own secrets have many names.

use std::ffi::OsString;
use std::fs::{DirEntry, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::path::is_hidden;

/// A directory that is served, held open.
#[derive(Debug)]
pub struct Root {
    handle: File,
    path: PathBuf,
    secrets: Vec<Secret>,
    /// A directory of which nothing is served.
    secret_dir: Option<PathBuf>,
}

/// A file that is never served, under any name.
#[derive(Debug)]
struct Secret {
    path: PathBuf,
    /// What it was at the start; it may have been replaced or moved since.
    first: Option<Identity>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Root {
    /// Opens `path`, which must be a directory.
    pub fn open(path: &Path) -> io::Result<Root> {
        let path = path.canonicalize()?;
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&path)?;
        Ok(Root {
            handle,
            path,
            secrets: Vec::new(),
            secret_dir: None,
        })
    }

    /// The same directory without the files at these paths, whatever else they are called.
    pub fn without(mut self, files: Vec<PathBuf>) -> Root {
        let secret = |path: PathBuf| Secret {
            first: identity_at(&path),
            path,
        };
        self.secrets.extend(files.into_iter().map(secret));
        self
    }

    /// The same directory without this one and all that lies in it.
    pub fn without_dir(mut self, dir: Option<PathBuf>) -> Root {
        self.secret_dir = dir;
        self
    }

    /// Where it is, in full.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what lies at `below`, a path without `..` and without a root; empty is the directory
    /// itself. Only regular files and directories are opened that are neither hidden nor secret;
    /// the rest does not exist here.
    pub fn file(&self, below: &Path) -> io::Result<(File, Metadata)> {
        let (file, metadata) = self.open_below(below)?;
        let is_served = !self.is_secret(&metadata)
            && !self.is_in_secret_dir(&file, &metadata, below)
            && self.real_name(&file, below).is_some_and(is_shown);
        match is_served {
            true => Ok((file, metadata)),
            false => Err(nothing_here()),
        }
    }

    fn is_secret(&self, metadata: &Metadata) -> bool {
        let it = Some(identity(metadata));
        let mut secrets = self.secrets.iter();
        secrets.any(|secret| secret.first == it || identity_at(&secret.path) == it)
    }

    /// Whether something is the secret directory, lies in it, or is a file there under a second
    /// name. Files come and go there, so this is asked each time.
    fn is_in_secret_dir(&self, file: &File, metadata: &Metadata, below: &Path) -> bool {
        let Some(dir) = &self.secret_dir else {
            return false;
        };
        let Some(it) = identity_at(dir) else {
            return false;
        };
        let named = self.path.join(below);
        let real = held_name(file).or_else(|| named.canonicalize().ok());
        let real = real.unwrap_or(named);
        if real.ancestors().any(|above| identity_at(above) == Some(it)) {
            return true;
        }
        let same = |entry: io::Result<DirEntry>| {
            entry.is_ok_and(|entry| identity_at(&entry.path()) == Some(identity(metadata)))
        };
        metadata.nlink() > 1
            && metadata.is_file()
            && std::fs::read_dir(dir).is_ok_and(|mut entries| entries.any(same))
    }

    /// Where below this directory an opened file really lies, links resolved; `None` when it does
    /// not.
    fn real_name(&self, file: &File, below: &Path) -> Option<PathBuf> {
        let (root, real) = match (held_name(&self.handle), held_name(file)) {
            (Some(root), Some(real)) => (root, real),
            // Without /proc, the name that has just been looked at has to do.
            _ => (
                self.path.clone(),
                self.path.join(below).canonicalize().ok()?,
            ),
        };
        Some(real.strip_prefix(root).ok()?.to_owned())
    }

    /// Names in a directory that [`Root::file`] opened from `below`, in no order, at most `most`.
    pub fn names(&self, directory: &File, below: &Path, most: usize) -> io::Result<Vec<OsString>> {
        // The open directory's own name, so that it cannot be swapped either; without /proc the
        // path that has just been looked at has to do.
        let held = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let entries =
            std::fs::read_dir(held).or_else(|_| std::fs::read_dir(self.path.join(below)))?;
        entries
            .take(most)
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn open_below(&self, below: &Path) -> io::Result<(File, Metadata)> {
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        #[cfg(target_os = "linux")]
        match beneath::open(&self.handle, below, libc::O_PATH) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
            seen => {
                let seen = seen?;
                let metadata = seen.metadata()?;
                return opened_as_seen(&metadata, || match reopen(&seen) {
                    // Without /proc, by its name once more.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        beneath::open(&self.handle, below, libc::O_RDONLY | CAREFUL)
                    }
                    outcome => outcome,
                });
            }
        }
        self.open_checked(below)
    }

    fn open_checked(&self, below: &Path) -> io::Result<(File, Metadata)> {
        let resolved = self.path.join(below).canonicalize()?;
        if !resolved.starts_with(&self.path) {
            return Err(nothing_here());
        }
        // Links have been resolved.
        let metadata = resolved.symlink_metadata()?;
        opened_as_seen(&metadata, || {
            OpenOptions::new()
                .read(true)
                .custom_flags(CAREFUL | libc::O_NOFOLLOW)
                .open(&resolved)
        })
    }
}

/// Should a FIFO or a terminal have come there since the look, it is neither waited for nor ours.
const CAREFUL: libc::c_int = libc::O_NONBLOCK | libc::O_NOCTTY;

/// Opens what was seen, if it is a file or a directory, and makes sure that it is still the same.
fn opened_as_seen(
    seen: &Metadata,
    open: impl FnOnce() -> io::Result<File>,
) -> io::Result<(File, Metadata)> {
    if !seen.is_file() && !seen.is_dir() {
        return Err(nothing_here());
    }
    let file = open()?;
    let metadata = file.metadata()?;
    match identity(&metadata) == identity(seen) {
        true => Ok((file, metadata)),
        false => Err(nothing_here()),
    }
}

/// Opens for reading what was only looked at: this very thing, whatever its name leads to by now.
#[cfg(target_os = "linux")]
fn reopen(seen: &File) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(CAREFUL)
        .open(format!("/proc/self/fd/{}", seen.as_raw_fd()))
}

fn nothing_here() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

/// The name under which the kernel knows an open file.
fn held_name(file: &File) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Whether no part of a path below the directory is hidden.
fn is_shown(below: PathBuf) -> bool {
    below.iter().all(|piece| !is_hidden(piece.as_bytes()))
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

fn identity_at(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().as_ref().map(identity)
}

#[cfg(target_os = "linux")]
mod beneath {
    use std::ffi::CString;
    use std::fs::File;
    use std::io;
    use std::mem;
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// Opens `below` with these flags, without ever leaving `directory`.
    pub fn open(directory: &File, below: &Path, flags: libc::c_int) -> io::Result<File> {
        let name = CString::new(below.as_os_str().as_bytes())
            .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        // SAFETY: all zeroes is a valid open_how.
        let mut how: libc::open_how = unsafe { mem::zeroed() };
        how.flags = (flags | libc::O_CLOEXEC) as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        // SAFETY: the name ends in a zero octet, `how` and its size belong together, and both live
        // through the call.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                name.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made this descriptor, and nobody else owns it.
        Ok(unsafe { File::from_raw_fd(opened as libc::c_int) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::listing;
    use crate::files::path::Below;
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    type Opener = fn(&Root, &Path) -> io::Result<(File, Metadata)>;

    /// Both ways in have to keep everybody in.
    fn openers() -> [Opener; 2] {
        [Root::open_below, Root::open_checked]
    }

    #[test]
    fn links_that_lead_out_are_not_followed() {
        let dir = TempDir::new();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        let served = dir.path().join("served");
        fs::create_dir(&served).unwrap();
        fs::write(served.join("page"), "page").unwrap();
        symlink("../secret", served.join("up")).unwrap();
        symlink(dir.path().join("secret"), served.join("away")).unwrap();
        symlink("..", served.join("parent")).unwrap();
        symlink("page", served.join("inside")).unwrap();
        symlink("loop", served.join("loop")).unwrap();
        let root = Root::open(&served).unwrap();
        for open in openers() {
            assert!(open(&root, Path::new("page")).is_ok());
            assert!(open(&root, Path::new("inside")).is_ok());
            for out in ["up", "away", "parent", "parent/secret", "loop", "../secret"] {
                assert!(open(&root, Path::new(out)).is_err(), "{out}");
            }
        }
    }

    #[test]
    fn nothing_of_the_secret_directory_is_served_whatever_it_is_called() {
        let dir = TempDir::new();
        let at = |name: &str| dir.path().join(name);
        let secret = at("state/hoody-tunnel");
        let root = Root::open(dir.path())
            .unwrap()
            .without_dir(Some(secret.clone()));
        fs::create_dir(at("state")).unwrap();
        fs::write(at("page"), "page").unwrap();
        fs::hard_link(at("page"), at("page-too")).unwrap();
        assert!(
            root.file(Path::new("page-too")).is_ok(),
            "it is not there yet"
        );
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("a.json"), "a").unwrap();
        fs::hard_link(secret.join("a.json"), at("hard")).unwrap();
        symlink("state/hoody-tunnel", at("soft-dir")).unwrap();
        symlink("state/hoody-tunnel/a.json", at("soft")).unwrap();
        for name in [
            "state/hoody-tunnel",
            "state/hoody-tunnel/a.json",
            "hard",
            "soft",
            "soft-dir",
            "soft-dir/a.json",
        ] {
            assert!(root.file(Path::new(name)).is_err(), "{name}");
        }
        for name in ["", "page", "page-too", "state"] {
            assert!(root.file(Path::new(name)).is_ok(), "{name}");
        }
        for inside in ["", "deeper"] {
            let inside = secret.join(inside);
            fs::create_dir_all(&inside).unwrap();
            fs::write(inside.join("page"), "page").unwrap();
            let root = Root::open(&inside)
                .unwrap()
                .without_dir(Some(secret.clone()));
            assert!(root.file(Path::new("page")).is_err(), "{inside:?}");
            assert!(root.file(Path::new("")).is_err(), "{inside:?}");
        }
    }

    #[test]
    fn links_to_what_is_hidden_lead_nowhere() {
        let dir = TempDir::new();
        // The directory itself may lie below a hidden one.
        let served = dir.path().join(".cache/site");
        fs::create_dir_all(served.join(".git/objects")).unwrap();
        fs::create_dir(served.join("open")).unwrap();
        fs::write(served.join(".env"), "key").unwrap();
        fs::write(served.join(".git/objects/pack"), "key").unwrap();
        fs::write(served.join("open/page"), "page").unwrap();
        for (to, link) in [
            (".env", "env"),
            ("env", "env-again"),
            ("../.env", "open/env"),
            (".git", "repository"),
            (".git/objects", "objects"),
            (".git/objects/pack", "pack"),
            ("open", "also-open"),
            (".git/../open/page", "page"),
        ] {
            symlink(to, served.join(link)).unwrap();
        }
        let root = Root::open(&served).unwrap();
        for hidden in [
            "env",
            "env-again",
            "open/env",
            "also-open/env",
            "repository",
            "repository/objects/pack",
            "objects",
            "objects/pack",
            "pack",
        ] {
            let refused = root.file(Path::new(hidden)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NotFound, "{hidden}");
        }
        for shown in ["", "open", "also-open", "also-open/page", "page"] {
            assert!(root.file(Path::new(shown)).is_ok(), "{shown}");
        }
    }

    #[test]
    fn the_programs_own_secrets_are_not_served_under_any_name() {
        let dir = TempDir::new();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("token"), "key").unwrap();
        fs::write(at("page"), "page").unwrap();
        fs::hard_link(at("token"), at("hard")).unwrap();
        symlink("token", at("soft")).unwrap();
        symlink("hard", at("soft-to-hard")).unwrap();
        // The flag may name the file by a link, too.
        symlink(at("token"), at("flag")).unwrap();
        let root = Root::open(dir.path()).unwrap().without(vec![at("flag")]);
        let is_served = |name: &str| root.file(Path::new(name)).is_ok();
        for name in ["token", "hard", "soft", "soft-to-hard", "flag"] {
            assert!(!is_served(name), "{name}");
        }
        assert!(is_served("page"));
        // Moved away, the old one stays what it was; the new one is a secret as well.
        fs::rename(at("token"), at("old")).unwrap();
        fs::write(at("token"), "new key").unwrap();
        for name in ["old", "hard", "token", "soft"] {
            assert!(!is_served(name), "{name}");
        }
    }

    #[test]
    fn a_directory_next_door_with_a_longer_name_is_outside() {
        let dir = TempDir::new();
        let served = dir.path().join("site");
        fs::create_dir(&served).unwrap();
        fs::create_dir(dir.path().join("site-private")).unwrap();
        fs::write(dir.path().join("site-private/key"), "key").unwrap();
        symlink("../site-private/key", served.join("key")).unwrap();
        let root = Root::open(&served).unwrap();
        for open in openers() {
            assert!(open(&root, Path::new("key")).is_err());
        }
    }

    fn make_pipe(name: &Path) {
        let status = std::process::Command::new("mkfifo").arg(name).status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn a_pipe_is_not_waited_for_and_does_not_exist() {
        let dir = TempDir::new();
        make_pipe(&dir.path().join("pipe"));
        let root = Root::open(dir.path()).unwrap();
        for open in openers() {
            let refused = open(&root, Path::new("pipe")).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NotFound);
        }
    }

    /// Whoever opens a FIFO lets its writer go, who then finds nobody.
    #[test]
    fn who_waits_to_write_into_a_pipe_goes_on_waiting() {
        let dir = TempDir::new();
        let name = dir.path().join("pipe");
        make_pipe(&name);
        let (tell, told) = mpsc::channel();
        let pipe = name.clone();
        let writer = thread::spawn(move || {
            let outcome = OpenOptions::new().write(true).open(pipe);
            tell.send(outcome.is_ok()).unwrap();
        });
        // A writer that has not come yet would not notice: it gets time to.
        let moment = Duration::from_millis(200);
        assert!(told.recv_timeout(moment).is_err(), "nobody reads");
        let root = Root::open(dir.path()).unwrap();
        for open in openers() {
            assert!(open(&root, Path::new("pipe")).is_err());
        }
        let below = Below::parse("/").unwrap();
        let (handle, _) = root.file(below.path()).unwrap();
        let page = listing::page(&root, &below, &handle).unwrap();
        assert!(!page.contains("pipe"));
        assert!(told.recv_timeout(moment).is_err(), "it was let go");
        drop(File::open(&name).unwrap());
        assert!(told.recv_timeout(moment * 10).unwrap());
        writer.join().unwrap();
    }

    #[test]
    fn what_was_changed_since_the_look_is_not_served() {
        let dir = TempDir::new();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("page"), "page").unwrap();
        fs::write(at("other"), "other").unwrap();
        let seen = at("page").metadata().unwrap();
        assert!(opened_as_seen(&seen, || File::open(at("page"))).is_ok());
        assert!(opened_as_seen(&seen, || File::open(at("other"))).is_err());
    }

    #[test]
    fn a_file_cannot_be_served_as_a_directory() {
        let dir = TempDir::new();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(Root::open(&dir.path().join("file")).is_err());
        assert!(Root::open(&dir.path().join("missing")).is_err());
    }
}
