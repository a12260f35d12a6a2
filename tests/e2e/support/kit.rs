//! A kit on a free port of loopback.

use super::http::{Reply, Talk};
use super::proc::{Proc, kit_program};
use super::{PATIENCE, TempDir, at_rest, becomes, eventually, free_port};
use serde_json::Value;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const PERMITS: &str = "hoody_tunnel_fd_permits_available";

/// The token of every kit here that wants one.
pub const TOKEN: &str = "e2e-token-0123456789abcdef";

/// A running kit; dropping it kills it.
pub struct Kit {
    /// Its process.
    pub proc: Proc,
    /// Where it listens.
    pub port: u16,
    /// The address it listens on.
    pub address: Ipv4Addr,
    with_token: bool,
    dir: TempDir,
}

impl Kit {
    /// A kit with a token and nothing else said.
    pub fn start() -> Kit {
        Kit::with(&[])
    }

    /// A kit with a token and more flags.
    pub fn with(flags: &[&str]) -> Kit {
        KitPlan::new().flags(flags).start()
    }

    /// A kit without a token, with more flags.
    pub fn open(flags: &[&str]) -> Kit {
        KitPlan::new().no_token().flags(flags).start()
    }

    /// The URL that clients dial.
    pub fn url(&self) -> String {
        format!("ws://{}:{}/api/v1/tunnel/connect", self.address, self.port)
    }

    /// The file with its token, if it has one.
    pub fn token_file(&self) -> Option<PathBuf> {
        self.with_token.then(|| self.dir.join("token"))
    }

    /// One admin request with the token.
    pub fn admin(&self, method: &str, path: &str) -> Reply {
        self.admin_with(method, path, &format!("Authorization: Bearer {TOKEN}\r\n"))
    }

    /// One admin request with these header lines.
    pub fn admin_with(&self, method: &str, path: &str, lines: &str) -> Reply {
        let mut talk = Talk::to(self.address, self.port);
        let host = format!("{}:{}", self.address, self.port);
        let host = if lines.contains("Host:") {
            String::new()
        } else {
            format!("Host: {host}\r\n")
        };
        talk.say(format!(
            "{method} /api/v1/tunnel/{path} HTTP/1.1\r\n{host}{lines}\r\n"
        ));
        talk.reply(method == "HEAD")
    }

    /// The JSON of an admin GET.
    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let reply = self.admin("GET", path);
        assert_eq!(reply.status, 200, "GET {path}: {}", reply.text());
        serde_json::from_slice(&reply.body).expect("admin answers are JSON")
    }

    /// One number of the metrics: the sum of all series of that name whose line holds `label`.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.admin("GET", "metrics").text();
        text.lines()
            .filter(|line| !line.starts_with('#') && line.contains(label))
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            })
            .filter_map(|line| {
                line.rsplit(' ')
                    .next()
                    .and_then(|value| value.parse::<f64>().ok())
            })
            .sum()
    }

    /// Permits that are free once those who left a moment ago are forgotten.
    pub fn permits(&self) -> u64 {
        let still = Duration::from_millis(100);
        at_rest("the free permits", still, || {
            self.metric(PERMITS, "") as u64
        })
    }

    /// Waits until `home` permits are free again.
    #[track_caller]
    pub fn all_permits_are_home(&self, home: u64) {
        self.counts(PERMITS, "", home);
    }

    /// Waits until a number of the metrics is what it should be.
    #[track_caller]
    pub fn settles(&self, name: &str, want: u64) {
        becomes(name, want, || self.metric(name, "") as u64);
    }

    /// Waits until a number of the metrics, of lines that hold `label`, is at least `least`.
    #[track_caller]
    pub fn counts(&self, name: &str, label: &str, least: u64) {
        becomes(&format!("{name} of {least} or more"), true, || {
            self.metric(name, label) >= least as f64
        });
    }

    /// Waits until so many sessions are there, parked ones among them.
    #[track_caller]
    pub fn has_sessions(&self, count: u64) {
        becomes("the sessions", Some(count), || {
            self.json("sessions")["total"].as_u64()
        });
    }

    /// Waits until so many sessions are parked.
    #[track_caller]
    pub fn has_parked(&self, count: u64) {
        becomes("the parked sessions", Some(count), || self.parked());
    }

    /// How many sessions are parked now.
    pub fn parked(&self) -> Option<u64> {
        self.json("tunnels")["orphanedSessions"].as_u64()
    }
}

/// How a kit will be started.
pub struct KitPlan {
    flags: Vec<String>,
    with_token: bool,
    address: Ipv4Addr,
    port: Option<u16>,
    open_files: Option<u32>,
}

impl KitPlan {
    /// Loopback, a free port, a token.
    pub fn new() -> KitPlan {
        KitPlan {
            flags: Vec::new(),
            with_token: true,
            address: Ipv4Addr::LOCALHOST,
            port: None,
            open_files: None,
        }
    }

    /// Without a token.
    pub fn no_token(mut self) -> KitPlan {
        self.with_token = false;
        self
    }

    /// On this address.
    pub fn on(mut self, address: Ipv4Addr) -> KitPlan {
        self.address = address;
        self
    }

    /// On this port, so that a kit can come back where it was.
    pub fn port(mut self, port: u16) -> KitPlan {
        self.port = Some(port);
        self
    }

    /// More flags.
    pub fn flags(mut self, flags: &[&str]) -> KitPlan {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// Under this `ulimit -n`.
    pub fn open_files(mut self, count: u32) -> KitPlan {
        self.open_files = Some(count);
        self
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(self) -> Kit {
        let dir = TempDir::new();
        let port = self.port.unwrap_or_else(free_port);
        let mut command = match self.open_files {
            None => Command::new(kit_program()),
            Some(count) => {
                let mut command = Command::new("bash");
                let script = format!("ulimit -n {count}; exec \"$0\" \"$@\"");
                command.args(["-c", &script, kit_program()]);
                command
            }
        };
        command.args(["--listen", &format!("{}:{port}", self.address)]);
        command.args(["--expose-host", &self.address.to_string()]);
        if self.with_token {
            let file = dir.write("token", format!("{TOKEN}\n"));
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&file, private).expect("it is ours");
            command.arg("--token-file").arg(file);
            // Visitors of these tests ask for hosts of all names.
            command.args(["--allow-host", "*"]);
        } else if !self.address.is_loopback() {
            command.arg("--no-auth");
        }
        command.args(&self.flags).env_remove("HOODY_TUNNEL_TOKEN");
        let mut proc = Proc::spawn("kit", &mut command);
        eventually("the kit listens", PATIENCE, || {
            assert!(proc.running(), "the kit ended at once\n{}", proc.said());
            let address = (self.address, port).into();
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
        });
        Kit {
            proc,
            port,
            address: self.address,
            with_token: self.with_token,
            dir,
        }
    }
}
