//! Connecting to a Unix socket.
//!
//! The system says at once whether it stands. Only where the server's queue is full is there
//! nothing to wait for but time, so it is tried again now and then.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use mio::net::UnixStream;
use mio::{Registry, Token};

use crate::clock::Instant;
use crate::limits::DIAL_TIMEOUT;
use crate::machine::IoFailure;

use super::socket::{Socket, failure, kind, sentence};

/// A Unix socket that does not stand yet.
#[derive(Debug)]
pub(super) struct Knock {
    path: PathBuf,
    give_up: Instant,
}

impl Knock {
    pub(super) fn new(path: PathBuf, now: Instant) -> Knock {
        Knock {
            path,
            give_up: now + DIAL_TIMEOUT,
        }
    }

    /// Tries it; nothing where it is to be tried again.
    pub(super) fn again(
        &self,
        registry: &Registry,
        token: Token,
        now: Instant,
    ) -> Result<Option<Socket>, IoFailure> {
        match UnixStream::connect(&self.path) {
            Ok(stream) => {
                let mut socket = Socket::Unix(stream);
                let registered = socket.register(registry, token);
                registered.map_err(|error| failure(&error))?;
                Ok(Some(socket))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && now < self.give_up => {
                Ok(None)
            }
            Err(error) => Err(IoFailure {
                kind: kind(&error),
                text: self.why(&error),
            }),
        }
    }

    fn why(&self, error: &io::Error) -> String {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::NotFound, _) => "there is no such socket".into(),
            (io::ErrorKind::PermissionDenied, _) => "no permission to use this socket".into(),
            (io::ErrorKind::WouldBlock, _) => "its server accepts no connections".into(),
            // So the system says of files, too.
            (io::ErrorKind::ConnectionRefused, _) if !self.is_socket() => {
                "it is a file, but no socket".into()
            }
            (io::ErrorKind::ConnectionRefused, _) => "no server listens on this socket".into(),
            (_, Some(libc::EPROTOTYPE)) => "it is a socket of another kind, for datagrams".into(),
            _ => sentence(error),
        }
    }

    /// Where that cannot be told it counts as one.
    fn is_socket(&self) -> bool {
        let about = std::fs::metadata(&self.path);
        about.map_or(true, |about| about.file_type().is_socket())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use mio::Poll;

    use super::*;

    /// What a try comes to, at a moment.
    fn knock(path: &std::path::Path, now: Instant) -> Result<Option<Socket>, String> {
        let poll = Poll::new().unwrap();
        let knock = Knock::new(path.to_owned(), Instant::ZERO);
        let tried = knock.again(poll.registry(), Token(1), now);
        tried.map_err(|why| why.text)
    }

    #[test]
    fn each_way_of_being_no_server_has_its_own_sentence() {
        let dir = std::env::temp_dir().join(format!("hoody-knock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let at = |name: &str| dir.join(name);
        let why = |name: &str| knock(&at(name), Instant::ZERO).unwrap_err();
        assert_eq!(why("nothing"), "there is no such socket");
        std::fs::create_dir_all(at("folder")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for no_socket in ["folder", "file"] {
            assert_eq!(why(no_socket), "it is a file, but no socket");
        }
        let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
        assert!(why("datagrams").contains("datagrams"));
        let listener = UnixListener::bind(at("server")).unwrap();
        assert!(matches!(knock(&at("server"), Instant::ZERO), Ok(Some(_))));
        drop(listener);
        assert_eq!(why("server"), "no server listens on this socket");
        std::fs::remove_file(at("server")).unwrap();
        assert_eq!(why("server"), "there is no such socket");
        let _again = UnixListener::bind(at("server")).unwrap();
        assert!(matches!(knock(&at("server"), Instant::ZERO), Ok(Some(_))));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_queue_is_tried_again_and_not_for_ever() {
        use std::os::fd::AsRawFd;
        let path = std::env::temp_dir().join(format!("hoody-queue-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: listen(2) on an open socket, to shorten its queue.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let mut held = Vec::new();
        while let Some(socket) = knock(&path, Instant::ZERO).unwrap() {
            held.push(socket);
            assert!(held.len() < 10);
        }
        let late = Instant::ZERO + DIAL_TIMEOUT;
        assert_eq!(
            knock(&path, late).unwrap_err(),
            "its server accepts no connections"
        );
        drop(listener.accept().unwrap());
        assert!(knock(&path, Instant::ZERO).unwrap().is_some());
        std::fs::remove_file(&path).unwrap();
    }
}
