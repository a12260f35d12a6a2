//! `hoody tunnel …` with `--json`, read line by line.

use super::PATIENCE;
use super::kit::Kit;
use super::proc::{Proc, hoody_program};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A running client; dropping it kills it.
pub struct Hoody {
    /// Its process.
    pub proc: Proc,
    /// Its bindings, in the order in which they were ready.
    pub ready: Vec<Value>,
}

/// A `hoody` command that knows nothing of this machine's own settings.
pub fn hoody() -> Command {
    let mut command = Command::new(hoody_program());
    for name in [
        "HOODY_TUNNEL_URL",
        "HOODY_TUNNEL_TOKEN",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
    ] {
        command.env_remove(name);
    }
    command.env("XDG_STATE_HOME", state_home());
    command
}

/// Where the clients of this test process keep their sessions.
pub fn state_home() -> PathBuf {
    let name = format!("state-{}", std::process::id());
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// `hoody tunnel ARGS… --url … --token-file …` for this kit.
pub fn hoody_at(kit: &Kit, args: &[&str]) -> Command {
    let mut command = hoody();
    command.arg("tunnel").args(args).args(["--url", &kit.url()]);
    if let Some(file) = kit.token_file() {
        command.arg("--token-file").arg(file);
    }
    command
}

/// The name of an event line.
pub fn event(line: &str) -> Option<(String, Value)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let name = value.get("event")?.as_str()?.to_owned();
    Some((name, value))
}

impl Hoody {
    /// Starts one that should have `bindings` ready soon.
    #[track_caller]
    pub fn start(kit: &Kit, args: &[&str], bindings: usize) -> Hoody {
        let mut command = hoody_at(kit, args);
        command.arg("--json");
        Hoody::from_command(&mut command, bindings)
    }

    /// The same from a command that is whole already.
    #[track_caller]
    pub fn from_command(command: &mut Command, bindings: usize) -> Hoody {
        let proc = Proc::spawn("hoody", command);
        let mut hoody = Hoody {
            proc,
            ready: Vec::new(),
        };
        for index in 0..bindings {
            let mut seen = 0;
            let ready = hoody.proc.out.wait_from(0, PATIENCE, |line| {
                let (name, value) = event(line)?;
                seen += usize::from(name == "ready");
                (name == "ready" && seen == index + 1).then_some(value)
            });
            let said = hoody.proc.said();
            hoody
                .ready
                .push(ready.unwrap_or_else(|| panic!("binding {index} not ready\n{said}")));
        }
        hoody
    }

    /// `expose TARGET` on a port the kit picks.
    #[track_caller]
    pub fn expose(kit: &Kit, target: u16) -> Hoody {
        Hoody::expose_with(kit, target, &[])
    }

    /// The same with more flags.
    #[track_caller]
    pub fn expose_with(kit: &Kit, target: u16, flags: &[&str]) -> Hoody {
        let target = format!("127.0.0.1:{target}");
        let mut args = vec!["expose", &target, "--container-port", "0"];
        args.extend(flags);
        Hoody::start(kit, &args, 1)
    }

    /// `pull TARGET` on a port the kit picks.
    #[track_caller]
    pub fn pull(kit: &Kit, target: u16) -> Hoody {
        let target = format!("127.0.0.1:{target}");
        Hoody::start(kit, &["pull", &target, "--container-port", "0"], 1)
    }

    /// The port of its first binding.
    pub fn port(&self) -> u16 {
        self.port_of(0)
    }

    /// The port of a binding.
    pub fn port_of(&self, index: usize) -> u16 {
        let port = self.ready[index]["containerPort"]
            .as_u64()
            .expect("ready tells the port");
        u16::try_from(port).expect("ports have 16 bits")
    }

    /// How many lines it has printed.
    pub fn mark(&self) -> usize {
        self.proc.out.all().len()
    }

    /// Waits for an event after line `from`.
    #[track_caller]
    pub fn wait_event(&self, from: usize, want: &str, patience: Duration) -> Value {
        let found = self.proc.out.wait_from(from, patience, |line| {
            event(line)
                .filter(|(name, _)| name == want)
                .map(|(_, value)| value)
        });
        found.unwrap_or_else(|| panic!("no `{want}` in {patience:?}\n{}", self.proc.said()))
    }

    /// Waits for a state after line `from`.
    #[track_caller]
    pub fn wait_state(&self, from: usize, want: &str, patience: Duration) -> Value {
        let found = self.proc.out.wait_from(from, patience, |line| {
            event(line)
                .map(|(_, value)| value)
                .filter(|value| value["state"] == want)
        });
        found.unwrap_or_else(|| panic!("never `{want}` in {patience:?}\n{}", self.proc.said()))
    }
}
