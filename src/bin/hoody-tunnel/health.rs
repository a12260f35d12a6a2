//! `hoody-tunnel health`: one request to a running kit, for containers without curl.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use hoody_tunnel::http::parse_response;
use hoody_tunnel::limits::MAX_HEALTH_ANSWER;
use hoody_tunnel::text::visible_lines;

use crate::flags::{Flags, Health};
use crate::settings::{Environment, Trouble, listen, token};

/// Asks, and prints the answer when the kit is well.
pub fn ask(flags: &Flags, more: &Health, environment: &Environment) -> Result<(), Trouble> {
    let addr = more.listen.or(flags.listen);
    let kit = Kit::find(addr, flags, more.token_file.as_deref(), environment)?;
    crate::print(&visible_lines(&kit.health(more.timeout)?))
}

/// A kit that runs on this machine, as its flags and variables tell.
pub struct Kit {
    addr: SocketAddr,
    request: String,
}

impl Kit {
    /// The one at `addr`, or where the environment says.
    pub fn find(
        addr: Option<SocketAddr>,
        flags: &Flags,
        token_file: Option<&Path>,
        environment: &Environment,
    ) -> Result<Kit, Trouble> {
        let addr = reachable(listen(addr, environment)?);
        let file = token_file.or(flags.token_file.as_deref());
        let proof = match token(file, environment)? {
            Some(token) => format!("Authorization: Bearer {}\r\n", token.expose()),
            None => String::new(),
        };
        let request = format!(
            "GET /api/v1/tunnel/health HTTP/1.1\r\nHost: {addr}\r\n{proof}Connection: close\r\n\r\n"
        );
        Ok(Kit { addr, request })
    }

    /// Where it is asked.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it tells of its health.
    pub fn health(&self, timeout: Duration) -> Result<String, Trouble> {
        let addr = self.addr;
        let answer = exchange(addr, self.request.as_bytes(), timeout)
            .map_err(|error| Trouble::Failed(format!("no answer from {addr}: {error}")))?;
        judge(&answer).map_err(|why| Trouble::Failed(format!("{addr}: {why}")))
    }
}

/// The body of an answer that says that all is well.
fn judge(answer: &[u8]) -> Result<String, String> {
    let Ok(Some((head, length))) = parse_response(answer) else {
        return Err("the answer is no HTTP".to_string());
    };
    let body = answer.get(length..).unwrap_or_default();
    let body = String::from_utf8_lossy(body).trim_end().to_string();
    if head.status != 200 {
        return Err(format!("status {}", head.status));
    }
    let json: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    match json {
        Some(json) if json["service"] == "hoody-tunnel" && json["status"] == "ok" => Ok(body),
        _ => Err("the answer is not that of a kit that is well".to_string()),
    }
}

/// Everything until the other side closes, within `timeout` as a whole.
fn exchange(addr: SocketAddr, request: &[u8], timeout: Duration) -> std::io::Result<Vec<u8>> {
    let timeout = timeout.max(Duration::from_millis(1));
    let until = Instant::now() + timeout;
    let mut stream = TcpStream::connect_timeout(&addr, timeout)?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(request)?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.len() < MAX_HEALTH_ANSWER {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut piece) {
            Ok(count) => count,
            // Linux says "try again" when the time is up.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        if count == 0 {
            break;
        }
        answer.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    Ok(answer)
}

/// The address to ask for a kit that listens on all of them.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kit_on_all_addresses_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:50", "127.0.0.1:50"),
            ("[::]:50", "[::1]:50"),
            ("10.0.0.1:5050", "10.0.0.1:5050"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn only_a_kit_that_says_so_is_well() {
        let answer = |status: &str, body: &str| {
            judge(format!("HTTP/1.1 {status}\r\ncontent-type: x\r\n\r\n{body}").as_bytes())
        };
        let well = r#"{"status":"ok","service":"hoody-tunnel"}"#;
        assert_eq!(answer("200 OK", well), Ok(well.to_string()));
        assert_eq!(answer("403 Forbidden", well), Err("status 403".to_string()));
        assert!(answer("200 OK", r#"{"status":"ok"}"#).is_err());
        assert!(answer("200 OK", "It works!").is_err());
        assert!(judge(b"SSH-2.0-OpenSSH").is_err());
        assert!(judge(b"").is_err());
    }
}
