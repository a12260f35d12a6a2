//! Where TLS plugs in.
//!
//! The loop knows TLS only by what it must do for it, so a program whose machine never asks for TLS
//! (the kit) carries none of its code.

use std::io;

use crate::clock::Instant;
use crate::machine::Trust;

use super::socket::{Got, Socket};

/// A socket with TLS on it. It holds bytes on both sides: ciphertext that did not fit into the
/// socket, and plaintext that did not fit into the machine's space.
pub(super) trait Secured: Send {
    /// Goes on with the handshake; true when TLS stands.
    fn handshake(&mut self) -> io::Result<bool>;
    /// Reads once from the socket at most, and decrypts into `space`.
    fn read(&mut self, space: &mut [u8]) -> io::Result<Got>;
    /// Encrypts some of `bytes`, and sends what fits.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Sends ciphertext; true when none is left.
    fn flush(&mut self) -> io::Result<bool>;
    /// Says goodbye, and sends FIN after it; true when that is done.
    fn finish(&mut self) -> io::Result<bool>;
    /// Told: the socket had an edge, so it is not known to be drained any more.
    fn stirred(&mut self, thorough: bool);
    /// The socket underneath.
    fn socket(&self) -> &Socket;
    /// The socket underneath, to register it anew.
    fn socket_mut(&mut self) -> &mut Socket;
}

/// Begins TLS on a socket, for the server of this name.
type Start = dyn FnMut(Socket, &str, &Trust) -> io::Result<Box<dyn Secured>> + Send;

/// Makes TLS connections; [`Options::tls`](super::Options) has one where a machine needs it.
pub struct Connector(Box<Start>);

impl Connector {
    #[cfg(feature = "client")]
    pub(super) fn new(
        start: impl FnMut(Socket, &str, &Trust) -> io::Result<Box<dyn Secured>> + Send + 'static,
    ) -> Connector {
        Connector(Box::new(start))
    }

    pub(super) fn start(
        &mut self,
        socket: Socket,
        name: &str,
        trust: &Trust,
    ) -> io::Result<Box<dyn Secured>> {
        (self.0)(socket, name, trust)
    }
}

/// A connection that was closed while ciphertext waited: it goes when that is out.
pub(super) struct Departing {
    pub link: Box<dyn Secured>,
    pub until: Instant,
}
