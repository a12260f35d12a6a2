//! Tests that change their whole process run in one of their own.

use std::process::Command;

/// In the process that was made for the test `name`: true. Elsewhere: makes that process, waits for
/// it to succeed, and gives false.
pub fn is_child(name: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    run(Command::new(exe), name);
    false
}

/// The same, in a network of its own; false where that is forbidden.
pub fn is_child_with_own_network(name: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("-rn");
        command
    };
    let allowed = unshare().arg("true").status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("no network namespaces here: skipped");
        return false;
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap());
    run(command, name);
    false
}

/// Runs the test `name` in a process of its own under strace, and gives the names of the system
/// calls that the thread called `reactor` made. `None` in that process, and where there is no
/// strace.
pub fn system_calls_of_reactor(name: &str) -> Option<Vec<String>> {
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let traceable = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .status();
    if !traceable.is_ok_and(|status| status.success()) {
        println!("no strace here: skipped");
        return None;
    }
    let folder = std::env::temp_dir().join(format!("hoody-trace-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new("strace");
    // -ff: one file a thread.
    command.args(["-ff", "-o"]).arg(folder.join("thread"));
    command.arg(std::env::current_exe().unwrap());
    run(command, name);
    let mut calls = None;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        if text.contains("PR_SET_NAME, \"reactor\"") {
            let name = |line: &str| Some(line.split_once('(')?.0.to_owned());
            calls = Some(text.lines().filter_map(name).collect());
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    Some(calls.expect("no thread is called reactor"))
}

fn run(mut command: Command, name: &str) {
    let output = command
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "{text}\n{errors}");
}

/// Lets this process open no descriptor with a number of `count` or more.
pub fn lower_descriptor_limit(count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: `limit` lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
}

const MARK: &str = "HOODY_TEST_CHILD";
