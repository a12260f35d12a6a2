//! Which kit, and how to reach it: flags and environment become the library's options.
//!
//! The environment is handed in, so that tests need no process of their own. Nothing is read from
//! the working directory, and the token never stands on a command line, where every user of the
//! machine could read it.

use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hoody_tunnel::client::TunnelOptions;
use hoody_tunnel::limits::{CLIENT_TOKEN_BYTES, LONGEST_HEAD, MOST_FIELDS};
use hoody_tunnel::secrets;

/// The flags that say which kit is meant.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// `--url`, each time it is given.
    pub urls: Vec<String>,
    /// `--container`.
    pub container: Option<String>,
    /// `--token-file`.
    pub token_file: Option<PathBuf>,
    /// `--ca`.
    pub ca: Option<PathBuf>,
}

/// The flags that say how a session behaves.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// `--connections`.
    pub connections: Option<u32>,
    /// `--keepalive`.
    pub keepalive: Option<Duration>,
    /// `--retry-for`.
    pub retry_for: Option<Duration>,
    /// `--replay-buffer`.
    pub replay_buffer: Option<u32>,
    /// `--max-head`.
    pub max_head: Option<u32>,
    /// `--max-fields`.
    pub max_fields: Option<usize>,
    /// `--no-state`.
    pub no_state: bool,
}

/// One kit's URLs: there is one at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Urls(String, Vec<String>);

impl Urls {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let others = self.1.iter().map(String::as_str);
        std::iter::once(self.0.as_str()).chain(others)
    }

    /// The host of the first.
    pub fn host(&self) -> &str {
        host_of(&self.0)
    }

    /// Whether one leads to this machine: then the kit is there, by whatever way it is reached.
    pub fn are_local(&self) -> bool {
        self.iter().any(is_local)
    }

    /// Whether bytes can be read on one of the ways.
    pub fn are_plain_and_far(&self) -> bool {
        self.iter().any(is_plain_and_far)
    }
}

/// Reads a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variable with the kit's URL.
pub const URL: &str = "HOODY_TUNNEL_URL";
/// The variable with the token.
pub const TOKEN: &str = "HOODY_TUNNEL_TOKEN";

impl Reach {
    /// The URLs of the kit that is meant; `None` when nobody named one.
    pub fn kit(&self, env: Env<'_>) -> Result<Option<Urls>, String> {
        match (&self.urls[..], &self.container) {
            ([_, ..], Some(_)) => Err("--url and --container name a kit each: give one".into()),
            ([first, others @ ..], None) => {
                self.urls.iter().try_for_each(|url| refuse_secrets(url))?;
                Ok(Some(Urls(first.clone(), others.to_vec())))
            }
            ([], Some(host)) => Ok(Some(Urls(container_url(host)?, Vec::new()))),
            ([], None) => {
                let all = env(URL).unwrap_or_default();
                let named = |url: &&str| !url.is_empty();
                let mut urls = all
                    .split(',')
                    .map(str::trim)
                    .filter(named)
                    .map(str::to_owned);
                Ok(urls.next().map(|first| Urls(first, urls.collect())))
            }
        }
    }

    /// The library's options for the kit at `urls`.
    pub fn options(&self, urls: &Urls, env: Env<'_>) -> TunnelOptions {
        let options = TunnelOptions::new(&urls.0);
        let others = urls.1.iter();
        let mut options = others.fold(options, |options, url| options.also_at(url));
        if let Some(file) = &self.token_file {
            options = match piped(file) {
                Some(token) => options.token(token),
                None => options.token_file(file),
            };
        } else if let Some(token) = env(TOKEN).filter(|token| !token.is_empty()) {
            options = options.token(token.trim());
        }
        if let Some(file) = &self.ca {
            options = options.ca_file(file);
        }
        options
    }

    /// Whether a token will be shown to the kit.
    pub fn has_token(&self, env: Env<'_>) -> bool {
        self.token_file.is_some() || env(TOKEN).is_some_and(|token| !token.is_empty())
    }

    /// The files that these flags name, which are nobody else's business.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = [&self.token_file, &self.ca];
        files.into_iter().flatten().cloned().collect()
    }

    /// Whether there are flags that only make sense for a kit elsewhere.
    pub fn expects_a_kit(&self) -> bool {
        self.token_file.is_some() || self.ca.is_some()
    }
}

impl Manner {
    /// `options` with these flags taken over.
    pub fn apply(&self, mut options: TunnelOptions) -> TunnelOptions {
        if let Some(count) = self.connections {
            options = options.connections(count);
        }
        if let Some(quiet) = self.keepalive {
            options = options.keepalive(quiet);
        }
        if let Some(bytes) = self.replay_buffer {
            options = options.replay_buffer(bytes);
        }
        if self.max_head.is_some() || self.max_fields.is_some() {
            let octets = self.max_head.map_or(LONGEST_HEAD, |octets| octets as usize);
            options = options.answer_heads(octets, self.max_fields.unwrap_or(MOST_FIELDS));
        }
        options.retry_for(self.retry_for)
    }
}

/// What a pipe has, such as a shell's `<(command)`: it gives it only once, and files are read more
/// often. What is no pipe, or gives nothing that can be a token, is left to be told as a file is.
fn piped(file: &Path) -> Option<String> {
    let metadata = std::fs::metadata(file).ok()?;
    if !metadata.file_type().is_fifo() {
        return None;
    }
    let token = secrets::read(file, CLIENT_TOKEN_BYTES).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Whether the kit at `url` runs on this machine, so that its ports and ours are the same ones.
fn is_local(url: &str) -> bool {
    is_loopback(host_of(url))
}

/// Whether bytes to the kit at `url` can be read on the way.
fn is_plain_and_far(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    let plain = lower.starts_with("ws://") || lower.starts_with("http://");
    plain && !is_local(url)
}

/// The URL for `--container HOST`: encrypted, but for hosts that no certificate is made for.
fn container_url(given: &str) -> Result<String, String> {
    if let Ok(IpAddr::V6(ip)) = given.parse() {
        return Ok(format!("ws://[{ip}]{CONNECT}"));
    }
    let Some(host) = checked_host(given) else {
        let given = given.escape_debug();
        return Err(format!(
            "`{given}` is not a host: write NAME, NAME:PORT or an address, or use --url"
        ));
    };
    let plain = host.parse::<IpAddr>().is_ok() || !host.contains('.') || is_loopback(host);
    let scheme = if plain { "ws" } else { "wss" };
    Ok(format!("{scheme}://{given}{CONNECT}"))
}

/// The host in `host`, `host:port`, `[v6]` or `[v6]:port`, if it is that.
fn checked_host(given: &str) -> Option<&str> {
    let (host, rest) = match given.strip_prefix('[') {
        Some(inside) => {
            let (host, rest) = inside.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => {
            let (host, rest) = given.split_at(given.find(':').unwrap_or(given.len()));
            let is_plain =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if host.is_empty() || !host.bytes().all(is_plain) {
                return None;
            }
            (host.trim_end_matches('.'), rest)
        }
    };
    if !rest.is_empty() {
        crate::target::parse_port(rest.strip_prefix(':')?).ok()?;
    }
    Some(host)
}

const CONNECT: &str = "/api/v1/tunnel/connect";

/// A URL on a command line is no place for a password.
fn refuse_secrets(url: &str) -> Result<(), String> {
    let authority = authority_of(url);
    match authority.contains('@') {
        true => Err(format!(
            "--url holds a user or password, which everyone on this machine can read; put the \
             token in a file (--token-file) or in {TOKEN}"
        )),
        false => Ok(()),
    }
}

fn authority_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

fn host_of(url: &str) -> &str {
    let authority = authority_of(url);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let named = host == "localhost" || host.ends_with(".localhost");
    named || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(host: &str) -> Option<String> {
        container_url(host).ok()
    }

    fn reach(url: Option<&str>, container: Option<&str>, variable: &str) -> Option<String> {
        let reach = Reach {
            urls: url.iter().map(|url| (*url).to_owned()).collect(),
            container: container.map(str::to_owned),
            ..Reach::default()
        };
        let env = |name: &str| (name == URL).then(|| variable.to_owned());
        let urls = reach.kit(&env).unwrap()?;
        Some(urls.iter().collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_container_is_reached_over_tls_unless_no_certificate_can_name_it() {
        for (host, scheme) in [
            ("app.example.com", "wss"),
            ("app.example.com:8443", "wss"),
            ("web", "ws"),
            ("web:50", "ws"),
            ("localhost", "ws"),
            ("app.localhost", "ws"),
            ("127.0.0.1:50", "ws"),
            ("10.0.0.7", "ws"),
            ("203.0.113.9", "ws"),
            ("[::1]:50", "ws"),
            ("[2001:db8::1]", "ws"),
        ] {
            let wanted = format!("{scheme}://{host}/api/v1/tunnel/connect");
            assert_eq!(container(host), Some(wanted));
        }
        let bare = container("::1").unwrap();
        assert_eq!(bare, "ws://[::1]/api/v1/tunnel/connect");
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for host in [
            "", ":50", "a/b", "http://a", "a b", "a:", "a:x", "a:70000", "a@b", "[::1", "::1]",
            "[a]", "a:1:2", "a?b", "a#b", "é",
        ] {
            assert_eq!(container(host), None, "{host}");
        }
    }

    #[test]
    fn flags_go_before_the_environment_and_empty_is_unset() {
        let env = "ws://env/";
        assert_eq!(
            reach(Some("ws://flag/"), None, env),
            Some("ws://flag/".into())
        );
        let container = reach(None, Some("web"), env).unwrap();
        assert_eq!(container, "ws://web/api/v1/tunnel/connect");
        assert_eq!(reach(None, None, env), Some(env.into()));
        for nothing in ["", ",", " , "] {
            assert_eq!(reach(None, None, nothing), None);
        }
        let several = reach(None, None, "ws://a/, ws://b/?c=d,").unwrap();
        assert_eq!(several, "ws://a/ ws://b/?c=d");
    }

    #[test]
    fn two_kits_and_secrets_on_the_command_line_are_refused() {
        let env = |_: &str| None;
        let reach = |url: &str, container: Option<&str>| Reach {
            urls: vec!["wss://first/".into(), url.into()],
            container: container.map(str::to_owned),
            ..Reach::default()
        };
        assert!(reach("ws://a/", Some("b")).kit(&env).is_err());
        assert!(reach("wss://user:secret@a/", None).kit(&env).is_err());
        let urls = reach("wss://a/x@y", None).kit(&env).unwrap().unwrap();
        assert_eq!(
            urls.iter().collect::<Vec<_>>(),
            ["wss://first/", "wss://a/x@y"]
        );
        assert!(!urls.are_local() && !urls.are_plain_and_far());
        let urls = reach("ws://[::1]/", None).kit(&env).unwrap().unwrap();
        assert!(urls.are_local() && !urls.are_plain_and_far());
        let urls = reach("ws://a/", None).kit(&env).unwrap().unwrap();
        assert!(!urls.are_local() && urls.are_plain_and_far());
    }

    #[test]
    fn this_machine_is_known_by_all_its_names() {
        for url in [
            "ws://127.0.0.1:50/x",
            "ws://127.9.9.9/",
            "ws://localhost:50",
            "ws://LOCALHOST./",
            "ws://[::1]:50/",
            "wss://kit.localhost/",
        ] {
            assert!(is_local(url), "{url}");
            assert!(!is_plain_and_far(url), "{url}");
        }
        for url in [
            "ws://10.0.0.1/",
            "wss://localhost.example/",
            "ws://[2001:db8::1]/",
        ] {
            assert!(!is_local(url), "{url}");
        }
        assert!(is_plain_and_far("ws://10.0.0.1/"));
        assert!(is_plain_and_far("HTTP://kit.example/"));
        assert!(!is_plain_and_far("wss://kit.example/"));
    }
}
