//! Options, checked and resolved: what the machine works from.

use std::time::Duration;

use crate::client::Error;
use crate::client::options::{Proxy, TunnelOptions};
use crate::client::reach::proxy::{self, ProxyServer};
use crate::client::reach::url::{Host, Url};
use crate::http::{HeadLimits, is_name, is_value};
use crate::limits::{
    CLIENT_CA_BYTES, CLIENT_KEEPALIVE_MAX, CLIENT_KEEPALIVE_MIN, CLIENT_KEPT, CLIENT_TOKEN_BYTES,
    CLIENT_WAYS, LEAST_FIELDS, LEAST_HEAD, LONGEST_HEAD, MAX_LANES, MAX_REPLAY_BUFFER,
    MAX_SESSION_ID, MIN_REPLAY_BUFFER, MOST_FIELDS,
};
use crate::secrets;
use crate::units::show_size;
use crate::wire::control::{Secret, SessionId};

/// The way to a kit.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// TLS, verified.
    pub secure: bool,
    pub host: Host,
    pub port: u16,
    pub proxy: Option<ProxyServer>,
    /// Path and query of the upgrade request.
    pub path: String,
}

/// What a session works from.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Where the kit is, by one way or several.
    pub endpoints: Vec<Endpoint>,
    pub token: Option<Secret>,
    pub headers: Vec<(String, String)>,
    pub connections: u32,
    pub keepalive: Duration,
    pub retry_for: Option<Duration>,
    pub replay_buffer: u32,
    /// How large the head of an answer may be.
    pub answer_heads: HeadLimits,
    pub resume: Option<SessionId>,
    /// Certificates to trust besides the system's.
    pub ca_pem: Option<Vec<u8>>,
}

impl TunnelOptions {
    /// What is unwise about the token, though it works: one that can be guessed, or a file that
    /// others may read. A sentence each, without the token.
    ///
    /// ```
    /// use hoody_tunnel::client::TunnelOptions;
    ///
    /// let advice = TunnelOptions::new("wss://kit.example").token("1234").advice();
    /// assert_eq!(advice.len(), 1, "it can be guessed");
    /// ```
    pub fn advice(&self) -> Vec<String> {
        // A pipe gives what it has only once, and is nobody else's to read.
        let is_pipe = |file: &std::path::PathBuf| !file.is_file();
        if self.token_file.as_ref().is_some_and(is_pipe) {
            return Vec::new();
        }
        match read_token(self) {
            Ok(Some(token)) => secrets::advice(token.expose(), self.token_file.as_deref()),
            // Options that cannot work are told by [`TunnelOptions::check`].
            _ => Vec::new(),
        }
    }

    /// Whether these can work: reads the files, parses the URLs, opens no connection.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] says which option cannot work, and why.
    ///
    /// ```
    /// use hoody_tunnel::client::TunnelOptions;
    ///
    /// assert!(TunnelOptions::new("wss://kit.example").check().is_ok());
    /// assert!(TunnelOptions::new("ftp://kit.example").check().is_err());
    /// ```
    pub fn check(&self) -> Result<(), Error> {
        Config::new(self).map(|_| ())
    }
}

impl Config {
    /// Checks the options, and reads the files and the environment that they name.
    pub(super) fn new(options: &TunnelOptions) -> Result<Config, Error> {
        let env = |name: &str| std::env::var(name).ok();
        Config::with_env(options, env)
    }

    pub(super) fn with_env(
        options: &TunnelOptions,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, Error> {
        let wrong = |text: String| Err(Error::Options(text));
        if options.urls.len() > CLIENT_WAYS {
            return wrong(format!("At most {CLIENT_WAYS} URLs may lead to the kit."));
        }
        let endpoints = options.urls.iter();
        let endpoints = endpoints.map(|url| Endpoint::new(url, &options.proxy, &env));
        let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, Error>>()?;
        if !(1..=MAX_LANES as u32).contains(&options.connections) {
            return wrong(format!("connections must be 1 to {MAX_LANES}."));
        }
        if !(CLIENT_KEEPALIVE_MIN..=CLIENT_KEEPALIVE_MAX).contains(&options.keepalive) {
            return wrong(format!(
                "keepalive must be {CLIENT_KEEPALIVE_MIN:?} to {CLIENT_KEEPALIVE_MAX:?}."
            ));
        }
        let kept = options.replay_buffer;
        if kept != 0 && !(MIN_REPLAY_BUFFER..=MAX_REPLAY_BUFFER).contains(&kept) {
            let [least, most] = [MIN_REPLAY_BUFFER, MAX_REPLAY_BUFFER].map(u64::from);
            return wrong(format!(
                "replay-buffer must be 0, or {} to {}.",
                show_size(least),
                show_size(most)
            ));
        }
        let (octets, fields) = (options.max_head, options.max_fields);
        if !(LEAST_HEAD..=LONGEST_HEAD).contains(&octets) {
            let [least, most] = [LEAST_HEAD, LONGEST_HEAD].map(|size| show_size(size as u64));
            return wrong(format!("max-head must be {least} to {most}."));
        }
        if !(LEAST_FIELDS..=MOST_FIELDS).contains(&fields) {
            let why = format!("max-fields must be {LEAST_FIELDS} to {MOST_FIELDS}.");
            return wrong(why);
        }
        let resume = options.resume.as_deref().map(str::trim);
        if resume.is_some_and(|id| !is_id(id)) {
            return wrong(NO_ID.into());
        }
        check_headers(&options.headers)?;
        Ok(Config {
            endpoints,
            token: read_token(options)?,
            headers: options.headers.clone(),
            connections: options.connections,
            keepalive: options.keepalive,
            retry_for: options.retry_for,
            replay_buffer: options.replay_buffer,
            answer_heads: HeadLimits { octets, fields },
            resume: resume.map(SessionId::new),
            ca_pem: read_ca(options)?,
        })
    }

    /// Bytes that are kept of each lane until the kit has them (PROTOCOL §9), if any are.
    pub(super) fn keeps(&self) -> Option<u32> {
        let kept = self.replay_buffer.min(most_kept(self.connections));
        (kept > 0).then_some(kept)
    }
}

/// Whether a text may be the id of a session.
pub(super) fn is_id(text: &str) -> bool {
    (1..=MAX_SESSION_ID).contains(&text.len()) && text.is_ascii()
}

/// What is said of one that cannot be.
pub(super) const NO_ID: &str = "That is not the id of a session; it looks like S-… .";

/// Bytes that may be kept of each of so many lanes.
pub(super) fn most_kept(lanes: u32) -> u32 {
    CLIENT_KEPT / lanes.max(1)
}

impl Endpoint {
    fn new(
        url: &str,
        proxy: &Proxy,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Endpoint, Error> {
        let wrong = |text: String| Err(Error::Options(text));
        let url = Url::parse(url.trim())
            .map_err(|fault| Error::Options(format!("The tunnel's URL cannot be used: {fault}")))?;
        let secure = match url.scheme.as_str() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return wrong("The tunnel's URL must begin with wss:// or ws://.".into()),
        };
        if url.credentials.is_some() {
            return wrong("The tunnel's URL must not hold credentials; give the token.".into());
        }
        let port = url.port.unwrap_or(if secure { 443 } else { 80 });
        let proxy = proxy::choose(proxy, &url.host, port, secure, env)?;
        Ok(Endpoint {
            secure,
            host: url.host,
            port,
            proxy,
            path: match url.path.as_str() {
                "" | "/" => USUAL_PATH.to_owned(),
                path if path.starts_with('?') => format!("{USUAL_PATH}{path}"),
                path => path.to_owned(),
            },
        })
    }

    /// The path of another resource of the same kit.
    pub(super) fn beside(&self, name: &str) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let base = path.strip_suffix("connect").unwrap_or(path);
        match base.ends_with('/') {
            true => format!("{base}{name}"),
            false => format!("{base}/{name}"),
        }
    }

    /// What the upgrade request says as `Host`.
    pub(super) fn authority(&self) -> String {
        let host = self.host.bracketed();
        match (self.secure, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Where kits listen for tunnels (PROTOCOL §1).
const USUAL_PATH: &str = "/api/v1/tunnel/connect";

fn check_headers(headers: &[(String, String)]) -> Result<(), Error> {
    for (name, value) in headers {
        if !is_name(name.as_bytes()) || !is_value(value.as_bytes()) {
            let text = "A header's name or value has characters that cannot be sent.";
            return Err(Error::Options(text.into()));
        }
        let lower = name.to_ascii_lowercase();
        let is_ours = matches!(
            lower.as_str(),
            "host" | "connection" | "upgrade" | "authorization" | "content-length"
        );
        if is_ours || lower == "transfer-encoding" || lower.starts_with("sec-websocket-") {
            return Err(Error::Options(format!(
                "The header {lower} is written by the tunnel itself."
            )));
        }
    }
    Ok(())
}

/// The token, as it is given or as its file holds it.
pub(super) fn read_token(options: &TunnelOptions) -> Result<Option<Secret>, Error> {
    let token = match (&options.token, &options.token_file) {
        (Some(_), Some(_)) => {
            let text = "Give the token or the file that holds it, not both.";
            return Err(Error::Options(text.into()));
        }
        (Some(token), None) => token.expose().to_owned(),
        (None, Some(file)) => read_text(file, CLIENT_TOKEN_BYTES, "token")?,
        (None, None) => return Ok(None),
    };
    let token = token.trim();
    if token.is_empty() {
        return Err(Error::Options("The token is empty.".into()));
    }
    // It goes into a header field, in which white space ends it for some readers.
    if token.len() > CLIENT_TOKEN_BYTES || !token.bytes().all(|octet| octet.is_ascii_graphic()) {
        let text = "The token must be one line of printable ASCII without spaces.";
        return Err(Error::Options(text.into()));
    }
    Ok(Some(Secret::new(token)))
}

fn read_ca(options: &TunnelOptions) -> Result<Option<Vec<u8>>, Error> {
    let mut pem = options.ca_pem.clone();
    for file in &options.ca_files {
        pem.extend_from_slice(read_text(file, CLIENT_CA_BYTES, "CA")?.as_bytes());
        pem.push(b'\n');
    }
    Ok((!pem.is_empty()).then_some(pem))
}

pub(super) fn read_text(file: &std::path::Path, bound: usize, what: &str) -> Result<String, Error> {
    secrets::read(file, bound).map_err(|why| {
        let file = file.display();
        Error::Options(format!("The {what} file {file} cannot be read: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Proxy;

    fn config(options: TunnelOptions) -> Result<Config, Error> {
        Config::with_env(&options, |_| None)
    }

    #[test]
    fn a_url_without_a_path_gets_the_usual_one() {
        let options = TunnelOptions::new("https://kit.example");
        let config = config(options.also_at("ws://[::1]:50/x/connect?a=b")).unwrap();
        let [usual, odd] = &config.endpoints[..] else {
            panic!("there are two");
        };
        assert_eq!(usual.path, "/api/v1/tunnel/connect");
        assert_eq!(usual.authority(), "kit.example");
        assert_eq!(usual.beside("health"), "/api/v1/tunnel/health");
        assert_eq!(odd.path, "/x/connect?a=b");
        assert_eq!(odd.beside("sessions"), "/x/sessions");
        assert_eq!(odd.authority(), "[::1]:50");
    }

    #[test]
    fn what_is_kept_is_lowered_to_what_all_connections_may_have() {
        let keeps = |bytes: u32, connections: u32| {
            let options = TunnelOptions::new("ws://kit.example");
            let options = options.replay_buffer(bytes).connections(connections);
            config(options).unwrap().keeps()
        };
        const MIB: u32 = 1 << 20;
        assert_eq!(keeps(4 * MIB, 1), Some(4 * MIB));
        assert_eq!(keeps(4 * MIB, 8), Some(4 * MIB));
        assert_eq!(keeps(4 * MIB, 16), Some(2 * MIB));
        assert_eq!(keeps(64 * MIB, 1), Some(32 * MIB));
        assert_eq!(keeps(MIB / 2, 16), Some(MIB / 2));
        assert_eq!(keeps(0, 1), None);
    }

    #[test]
    fn what_cannot_work_is_refused_before_a_socket_is_opened() {
        let base = || TunnelOptions::new("wss://kit.example");
        for (options, word) in [
            (TunnelOptions::new("ftp://kit.example"), "wss://"),
            (base().also_at("ftp://kit.example"), "wss://"),
            (
                (0..16).fold(base(), |it, _| it.also_at("ws://a")),
                "16 URLs",
            ),
            (TunnelOptions::new("kit.example"), "scheme"),
            (TunnelOptions::new("wss://u:p@kit.example"), "credentials"),
            (base().connections(0), "1 to 16"),
            (base().connections(17), "1 to 16"),
            (base().keepalive(Duration::ZERO), "keepalive"),
            (base().replay_buffer(1), "512 KiB to 64 MiB"),
            (base().replay_buffer(u32::MAX), "replay-buffer"),
            (base().answer_heads(4095, 16), "4 KiB to 256 KiB"),
            (base().answer_heads((256 << 10) + 1, 16), "max-head"),
            (base().answer_heads(4096, 15), "16 to 1000"),
            (base().answer_heads(4096, 1001), "max-fields"),
            (base().token("a b"), "printable"),
            (base().token("a\r\nx: y"), "printable"),
            (base().token(" "), "empty"),
            (base().token("x").token_file("/x"), "not both"),
            (base().token_file("/does/not/exist"), "/does/not/exist"),
            (base().ca_file("/does/not/exist"), "/does/not/exist"),
            (base().header("x y", "z"), "header"),
            (base().header("x", "z\r\na: b"), "header"),
            (base().header("Authorization", "z"), "authorization"),
            (base().resume_session_id(""), "id"),
            (base().proxy(Proxy::Url("socks5://p".into())), "proxies"),
        ] {
            let refused = config(options).unwrap_err();
            assert_eq!(refused.kind(), "options");
            assert!(refused.to_string().contains(word), "{refused}");
        }
    }
}
