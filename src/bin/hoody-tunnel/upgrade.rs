//! `hoody-tunnel upgrade`: has a running kit start the program anew, without a visitor noticing.

use std::time::{Duration, Instant};

use hoody_tunnel::reactor::successor;

use crate::flags::{Flags, Upgrade};
use crate::health::Kit;
use crate::settings::{Environment, Trouble};

/// Asks for a successor, and waits until it answers.
pub fn run(flags: &Flags, more: &Upgrade, environment: &Environment) -> Result<(), Trouble> {
    let kit = Kit::find(more.listen.or(flags.listen), flags, None, environment)?;
    let before = pid(&kit, Duration::from_secs(3))?;
    let at = kit.addr();
    match successor::listens(before, at.port()) {
        Ok(true) => {}
        Ok(false) => {
            return Err(Trouble::Failed(format!(
                "{at} says that it is process {before}, but here that process does not listen \
                 there: run this where the kit runs"
            )));
        }
        Err(why) => {
            return Err(Trouble::Failed(format!(
                "cannot see whether process {before} is the kit at {at}: {why}; run this where \
                 the kit runs, as its user"
            )));
        }
    }
    successor::ask(before)
        .map_err(|why| Trouble::Failed(format!("cannot signal process {before}: {why}")))?;
    let until = Instant::now() + more.timeout;
    while Instant::now() < until {
        // While two processes listen either may answer.
        if let Ok(now) = pid(&kit, Duration::from_secs(1))
            && now != before
        {
            return crate::print(&format!("process {now} has taken over from {before}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Trouble::Failed(format!(
        "process {before} still answers after {:?}; its log tells why no other has taken over",
        more.timeout
    )))
}

fn pid(kit: &Kit, timeout: Duration) -> Result<i32, Trouble> {
    let body = kit.health(timeout)?;
    let json: Option<serde_json::Value> = serde_json::from_str(&body).ok();
    let pid = json.and_then(|json| i32::try_from(json["pid"].as_i64()?).ok());
    // 0 and below are groups of processes.
    pid.filter(|pid| *pid > 0)
        .ok_or_else(|| Trouble::Failed("the kit does not tell its process".into()))
}
