//! The served directory, as a jail: what is opened lies below it, whatever symbolic links say.
//!
//! Linux resolves the whole path below the directory by itself (`openat2` with `RESOLVE_BENEATH`),
//! so that nothing can be swapped between a look and the opening. Elsewhere, and on kernels before
//! 5.6, the path is resolved first and compared with the directory.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A directory that is served, held open.
#[derive(Debug)]
pub struct Root {
    handle: File,
    path: PathBuf,
}

impl Root {
    /// Opens `path`, which must be a directory.
    pub fn open(path: &Path) -> io::Result<Root> {
        let path = path.canonicalize()?;
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(&path)?;
        Ok(Root { handle, path })
    }

    /// Where it is, in full.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what lies at `below`, a path without `..` and without a root; empty is the directory
    /// itself. Only regular files and directories are opened; the rest does not exist here.
    pub fn file(&self, below: &Path) -> io::Result<(File, Metadata)> {
        let file = self.open_below(below)?;
        let metadata = file.metadata()?;
        if metadata.is_file() || metadata.is_dir() {
            return Ok((file, metadata));
        }
        Err(io::Error::from(io::ErrorKind::NotFound))
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

    fn open_below(&self, below: &Path) -> io::Result<File> {
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        #[cfg(target_os = "linux")]
        match beneath::open(&self.handle, below) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
            outcome => return outcome,
        }
        self.open_checked(below)
    }

    fn open_checked(&self, below: &Path) -> io::Result<File> {
        let resolved = self.path.join(below).canonicalize()?;
        if !resolved.starts_with(&self.path) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        OpenOptions::new()
            .read(true)
            // Opening a FIFO waits for a writer otherwise. Links have been resolved.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
            .open(resolved)
    }
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

    /// Opens `below` for reading, without ever leaving `directory`.
    pub fn open(directory: &File, below: &Path) -> io::Result<File> {
        let name = CString::new(below.as_os_str().as_bytes())
            .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        // SAFETY: all zeroes is a valid open_how.
        let mut how: libc::open_how = unsafe { mem::zeroed() };
        // Opening a FIFO waits for a writer without O_NONBLOCK.
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        how.flags = flags as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        // SAFETY: the name ends in a zero octet, `how` and its size belong together, and both live
        // through the call.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                name.as_ptr(),
                &raw const how,
                mem::size_of::<libc::open_how>(),
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
    use crate::testing::TempDir;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// Both ways in have to keep everybody in.
    fn openers() -> [fn(&Root, &Path) -> io::Result<File>; 2] {
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

    #[test]
    fn a_pipe_is_not_waited_for_and_does_not_exist() {
        let dir = TempDir::new();
        let name = dir.path().join("pipe");
        let status = std::process::Command::new("mkfifo").arg(&name).status();
        assert!(status.unwrap().success());
        let root = Root::open(dir.path()).unwrap();
        let refused = root.file(Path::new("pipe")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_cannot_be_served_as_a_directory() {
        let dir = TempDir::new();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(Root::open(&dir.path().join("file")).is_err());
        assert!(Root::open(&dir.path().join("missing")).is_err());
    }
}
