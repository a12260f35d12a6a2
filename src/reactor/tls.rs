//! TLS as a client, over a standing socket. Verified, unless the machine says that nobody is in
//! between.
//!
//! rustls holds bytes on both sides: ciphertext that did not fit into the socket, and plaintext
//! that did not fit into the machine's space. So a quiet socket does not mean that there is nothing
//! to read, and `transmitted` does not mean that it left; the second is why a closed connection may
//! linger as [`Departing`].

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::limits::{CLIENT_BINDINGS, TLS_STAGE};
use crate::machine::{NO_TLS, Trust};

use super::secure::{Connector, Secured};
use super::socket::{Got, Socket, retry};

/// A socket and the TLS session on it.
struct Tls {
    socket: Socket,
    session: ClientConnection,
    /// Ciphertext from the socket; `staged` of it waits for rustls.
    stage: Vec<u8>,
    staged: std::ops::Range<usize>,
    /// The last read from the socket left nothing there.
    drained: bool,
    /// A short read proves nothing: a FIN waits behind it, or urgent data.
    thorough: bool,
    /// The socket has given its FIN.
    fin: bool,
    /// The peer has said something.
    heard: bool,
    goodbye: bool,
    shut: bool,
}

impl Tls {
    /// Begins TLS on `socket`.
    fn start(socket: Socket, server_name: &str, config: &Arc<ClientConfig>) -> io::Result<Tls> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let session = ClientConnection::new(Arc::clone(config), name).map_err(broken)?;
        Ok(Tls {
            socket,
            session,
            stage: vec![0; TLS_STAGE],
            staged: 0..0,
            drained: true,
            thorough: false,
            fin: false,
            heard: false,
            goodbye: false,
            shut: false,
        })
    }

    /// Hands rustls some ciphertext, from the stage or else from the socket; false when there is
    /// none.
    fn feed(&mut self) -> io::Result<bool> {
        if self.staged.is_empty() {
            if self.drained || self.fin {
                return Ok(false);
            }
            match self.socket.read(&mut self.stage) {
                Ok(count) => {
                    self.staged = 0..count;
                    self.drained = count < self.stage.len() && !self.thorough;
                    self.fin = count == 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.drained = true;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        let mut rest = &self.stage[self.staged.clone()];
        if !self.heard {
            self.heard = true;
            if rest.first().is_some_and(|first| !RECORDS.contains(first)) {
                let text = format!("TLS: {NO_TLS}, as of a plain server");
                return Err(broken_off(&text));
            }
        }
        let before = rest.len();
        self.session.read_tls(&mut rest)?;
        self.staged.start += before - rest.len();
        if let Err(error) = self.session.process_new_packets() {
            // The alert tells the peer why; whether it arrives does not matter any more.
            let _ = self.flush();
            return Err(broken(error));
        }
        // Where nothing can be written any more, what the peer said before may still be read.
        // Whoever writes next is told.
        let _ = self.flush();
        Ok(before > 0)
    }
}

impl Secured for Tls {
    fn handshake(&mut self) -> io::Result<bool> {
        while self.session.is_handshaking() {
            self.flush()?;
            if !self.session.is_handshaking() {
                break;
            }
            if !self.feed()? {
                if self.fin {
                    return Err(cut("the peer closed before TLS stood"));
                }
                return Ok(false);
            }
        }
        self.flush()?;
        Ok(true)
    }

    fn read(&mut self, space: &mut [u8]) -> io::Result<Got> {
        let mut count = 0;
        let mut fetched = false;
        while count < space.len() {
            match self.session.reader().read(&mut space[count..]) {
                Ok(0) if count > 0 => return Ok(Got { count, more: true }),
                Ok(0) => return Ok(Got { count, more: false }),
                Ok(more) => {
                    count += more;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if count > 0 => return Ok(Got { count, more: true }),
                Err(_) => return Err(cut("the peer ended TLS without a goodbye")),
            }
            if self.staged.is_empty() {
                if fetched {
                    break;
                }
                fetched = true;
            }
            match self.feed() {
                Ok(true) => {}
                Ok(false) if self.fin => {}
                Ok(false) => break,
                // What was decrypted before the error is told first; the error stays.
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        let more = count == space.len() || !self.staged.is_empty() || !self.drained;
        if count == 0 && !more {
            // A record that is not whole yet.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Got { count, more })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.session.writer().write(bytes)?;
        self.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Out(&mut self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn finish(&mut self) -> io::Result<bool> {
        if !self.goodbye {
            self.goodbye = true;
            self.session.send_close_notify();
        }
        let through = self.flush()?;
        if through && !self.shut {
            self.shut = true;
            self.socket.finish();
        }
        Ok(through)
    }

    fn stirred(&mut self, thorough: bool) {
        self.drained = false;
        self.thorough |= thorough;
    }

    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

/// A socket as rustls wants it, with one `writev` for all records.
struct Out<'a>(&'a mut Socket);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        retry(|| match self.0 {
            Socket::Tcp(stream) => stream.write_vectored(slices),
            Socket::Unix(stream) => stream.write_vectored(slices),
            Socket::Inside(inside) => inside.write(slices.first().map_or(&[], |slice| slice)),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS as a client that trusts the system's roots and the certificates in `ca_pem`. A file that
/// cannot work is refused here and not at the first connection; the system's roots are read for the
/// first connection that wants them, for that takes a while.
pub fn connector(ca_pem: Option<Vec<u8>>) -> io::Result<Connector> {
    if let Some(pem) = &ca_pem {
        certificates(pem)?;
    }
    let mut made: Vec<(Trust, Arc<ClientConfig>)> = Vec::new();
    Ok(Connector::new(move |socket, name, trust| {
        let known = made.iter().find(|(of, _)| of == trust);
        let config = match known.map(|(_, config)| Arc::clone(config)) {
            Some(config) => config,
            None => {
                let config = match trust {
                    Trust::Kit => client_config(ca_pem.as_deref())?,
                    Trust::System => client_config(None)?,
                    Trust::Also(pem) => client_config(Some(pem))?,
                    Trust::Anyone => trusting_config()?,
                };
                if made.len() > CLIENT_BINDINGS {
                    // Those of bindings that are gone.
                    made.clear();
                }
                made.push((trust.clone(), Arc::clone(&config)));
                config
            }
        };
        Ok(Box::new(Tls::start(socket, name, &config)?))
    }))
}

/// For a server whose certificate says nothing that matters: the line to it ends on this machine,
/// or the user wants it so.
fn trusting_config() -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes every certificate of whoever holds its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

impl Anyone {
    fn algorithms(&self) -> &rustls::crypto::WebPkiSupportedAlgorithms {
        &self.0.signature_verification_algorithms
    }
}

/// What a client trusts: the system's roots, and the certificates in `ca_pem`.
fn client_config(ca_pem: Option<&[u8]>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    // One odd certificate among the system's hundred is no reason to refuse all others.
    roots.add_parsable_certificates(system.certs);
    if let Some(pem) = ca_pem {
        for cert in certificates(pem)? {
            roots.add(cert).map_err(broken)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(broken)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates in a PEM file; an error when it has none.
fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certs {
        Ok(certs) if certs.is_empty() => Err(invalid("no certificate in the CA file".into())),
        Ok(certs) => Ok(certs),
        Err(error) => Err(invalid(format!("the CA file is not valid PEM: {error}"))),
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("TLS: {error}"))
}

fn cut(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

fn broken_off(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// How a record of TLS may begin (RFC 8446 §5.1).
const RECORDS: std::ops::RangeInclusive<u8> = 20..=23;
