//! Child processes that are read while they run and do not outlive their test.

use super::eventually;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The lines a child has printed so far on one of its outputs.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    /// Reads `source` to its end, on a thread of its own.
    pub fn follow(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                let (all, changed) = &*lines.0;
                all.lock().expect("no reader panics").push(text);
                changed.notify_all();
                line.clear();
            }
        })
    }

    /// All lines so far.
    pub fn all(&self) -> Vec<String> {
        self.0.0.lock().expect("no reader panics").clone()
    }

    /// Waits for a line for which `pick` has an answer, looking from line `from` on.
    pub fn wait_from<T>(
        &self,
        from: usize,
        patience: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let (all, changed) = &*self.0;
        let start = Instant::now();
        let mut lines = all.lock().expect("no reader panics");
        let mut seen = from;
        loop {
            while seen < lines.len() {
                if let Some(found) = pick(&lines[seen]) {
                    return Some(found);
                }
                seen += 1;
            }
            let left = patience.checked_sub(start.elapsed())?;
            lines = changed
                .wait_timeout(lines, left)
                .expect("no reader panics")
                .0;
        }
    }
}

/// A running child in a process group of its own; dropping it kills the group.
pub struct Proc {
    child: Child,
    name: String,
    readers: [JoinHandle<()>; 2],
    /// What it printed on standard output.
    pub out: Lines,
    /// What it printed on standard error.
    pub err: Lines,
}

impl Proc {
    /// Starts `command`.
    #[track_caller]
    pub fn spawn(name: &str, command: &mut Command) -> Proc {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "cannot start {name} ({:?}): {error}; tests/all installs it",
                command
            )
        });
        let (out, err) = (Lines::default(), Lines::default());
        let readers = [
            out.follow(child.stdout.take().expect("it is piped")),
            err.follow(child.stderr.take().expect("it is piped")),
        ];
        Proc {
            child,
            name: name.to_owned(),
            readers,
            out,
            err,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill(2) takes two numbers and touches no memory; the pid is our own child's.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Whether it runs still.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Waits until it has ended, and all that it said is here.
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let name = self.name.clone();
        let status = eventually(&format!("{name} ends"), patience, || {
            self.child.try_wait().expect("our child")
        });
        eventually(&format!("{name}'s last words"), patience, || {
            let read_out = self.readers.iter().all(JoinHandle::is_finished);
            read_out.then_some(())
        });
        status
    }

    /// Resident memory in KiB now.
    pub fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most resident memory in KiB it ever had.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, key: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .expect("the kernel tells");
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .expect("a number of KiB")
    }

    /// How many descriptors it has open.
    pub fn fds(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).expect("the process runs").count()
    }

    /// Everything it printed, for a message.
    pub fn said(&self) -> String {
        let (out, err) = (self.out.all(), self.err.all());
        let tail = |lines: &[String]| lines[lines.len().saturating_sub(40)..].join("\n  ");
        format!(
            "--- {} out:\n  {}\n--- err:\n  {}",
            self.name,
            tail(&out),
            tail(&err)
        )
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
        // SAFETY: as in `signal`; the negative number is the group that only our child leads.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and wants success; tells its standard output.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end, whatever it is.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    command.output().unwrap_or_else(|error| {
        panic!("cannot run {command:?}: {error}; tests/all installs what is needed")
    })
}

/// Runs a bash script that must succeed within `seconds`; tells its standard output.
#[track_caller]
pub fn bash(seconds: u32, script: &str) -> String {
    let mut command = Command::new("timeout");
    command.args([
        &seconds.to_string(),
        "bash",
        "-c",
        &format!("set -euo pipefail\n{script}"),
    ]);
    ok(&mut command)
}

/// A program of ours.
pub fn kit_program() -> &'static str {
    env!("CARGO_BIN_EXE_hoody-tunnel")
}

/// The laptop's program.
pub fn hoody_program() -> &'static str {
    env!("CARGO_BIN_EXE_hoody")
}
