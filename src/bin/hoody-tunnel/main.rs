//! `hoody-tunnel`: the daemon in the container.
//!
//! Exit codes: 0 when it was asked to stop, 1 when it failed, 2 when the command line or the
//! environment makes no sense. What went wrong is one line on standard error.

mod flags;
mod handover;
mod health;
mod settings;
mod upgrade;

use std::io::{self, Write};
use std::process::ExitCode;

use argh::{EarlyExit, FromArgs};
use hoody_tunnel::kit::config::Config;
use hoody_tunnel::kit::{Kit, KitNotice};
use hoody_tunnel::limits::{HOST_DESCRIPTORS, MIN_FD_BUDGET};
use hoody_tunnel::reactor::{self, Options, Reactor, logging, os_entropy, process, successor};
use hoody_tunnel::secrets;
use hoody_tunnel::text::visible;
use hoody_tunnel::units::split_values;

use flags::{Command, Flags};
use handover::Start;
use settings::{Environment, Trouble, settings};

fn main() -> ExitCode {
    let args: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.into_string())
        .collect();
    let Ok(args) = args else {
        return complain(2, "the command line is not UTF-8");
    };
    let args = split_values(args);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let flags = match Flags::from_args(&["hoody-tunnel"], &args) {
        Ok(flags) => flags,
        Err(early) => return end_early(&early),
    };
    if flags.version {
        return end(print(concat!("hoody-tunnel ", env!("CARGO_PKG_VERSION"))));
    }
    let outcome = match &flags.command {
        Some(Command::Health(more)) => health::ask(&flags, more, &Environment::real()),
        Some(Command::Upgrade(more)) => upgrade::run(&flags, more, &Environment::real()),
        None => start(&flags),
    };
    match handover::afterwards() {
        Some(code) => ExitCode::from(code),
        None => end(outcome),
    }
}

fn end(outcome: Result<(), Trouble>) -> ExitCode {
    match outcome {
        Ok(()) => {
            logging::flush();
            ExitCode::SUCCESS
        }
        Err(Trouble::Usage(why)) => complain(2, &why),
        Err(Trouble::Failed(why)) => complain(1, &why),
    }
}

/// What was asked for, on standard output. A reader that went away has seen enough.
fn print(text: &str) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| Trouble::Failed(format!("cannot print: {error}"))),
    }
}

/// Runs the kit until somebody asks it to stop.
fn start(flags: &Flags) -> Result<(), Trouble> {
    let start = Start::find()?;
    if successor::is_init() {
        let failed = |why| Trouble::Failed(format!("cannot look after children: {why}"));
        successor::forget_children().map_err(failed)?;
    }
    let mut config = settings(flags, &Environment::real(), start.listen())?;
    // Before the first thread, so that its few bytes come from where all others do.
    process::return_large_buffers();
    logging::init(flags.log_format, None);
    if let Some(token) = &config.token {
        for advice in secrets::advice(token.expose(), flags.token_file.as_deref()) {
            log::warn!("{advice}");
        }
    }
    config.fd_budget = affordable(config.fd_budget)?;
    run(config, start)
}

fn run(config: Config, mut start: Start) -> Result<(), Trouble> {
    if config.no_auth && config.token.is_none() {
        log::warn!(
            "anybody who reaches {} may open ports here (--no-auth)",
            config.listen
        );
    }
    let forwards = config.allow_forward.to_string();
    if config.token.is_none() && !config.allow_forward.is_off() {
        log::warn!(
            "anybody who reaches {} may connect from here (--allow-forward {forwards})",
            config.listen
        );
    }
    if config.hold_visitors > config.takeover_grace {
        log::warn!(
            "visitors are held for {:?} and not {:?}: after --takeover-grace nobody comes back",
            config.takeover_grace,
            config.hold_visitors
        );
    }
    if start.handover.is_none() {
        for unused in start.sockets.iter().skip(1) {
            log::info!("{} is open for whoever binds it", unused.addr());
        }
    }
    let (entropy, now) = (os_entropy(), reactor::now());
    let kit = match start.handover.take() {
        Some(handover) => Kit::successor(config, entropy, now, handover),
        None => Kit::new(config, entropy, now),
    };
    let options = Options {
        signals: true,
        upgrades: true,
        inherited: std::mem::take(&mut start.sockets),
        ..Options::default()
    };
    let failed = |error| Trouble::Failed(format!("the event loop failed: {error}"));
    let mut reactor = Reactor::new(kit, options).map_err(failed)?;
    let mut refused = None;
    let outcome = reactor.run_with(|reactor, notice| match notice {
        KitNotice::Listening(_) => {
            log::info!("clients may reach from here: {forwards}");
            start.stands();
            process::forget_startup_code();
        }
        KitNotice::HandOver(handover) => handover::hand_over(handover, reactor),
        KitNotice::MemoryFreed => process::give_memory_back(),
        KitNotice::CannotListen(why) => refused = Some(why),
    });
    match refused {
        Some(why) => Err(Trouble::Failed(why)),
        None => outcome.map_err(failed),
    }
}

/// As much of the budget as the limit of open files allows, raised first as far as that goes.
fn affordable(wanted: usize) -> Result<usize, Trouble> {
    let needed = (wanted + HOST_DESCRIPTORS) as u64;
    let failed = |error| Trouble::Failed(format!("cannot read the limit of open files: {error}"));
    let limit = process::raise_descriptor_limit(needed).map_err(failed)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let budget = wanted.min(limit.saturating_sub(HOST_DESCRIPTORS));
    if budget < MIN_FD_BUDGET {
        return Err(Trouble::Failed(format!(
            "the limit of open files is {limit} (ulimit -n), and at least {} are needed",
            MIN_FD_BUDGET + HOST_DESCRIPTORS
        )));
    }
    if budget < wanted {
        log::info!("the descriptor budget is {budget}: the limit of open files is {limit}");
    }
    Ok(budget)
}

/// Help that was asked for, or a command line that is not understood.
fn end_early(early: &EarlyExit) -> ExitCode {
    if early.status.is_ok() {
        return end(print(&early.output));
    }
    // The parser lists what is missing on lines of its own.
    let lines: Vec<&str> = early.output.lines().map(str::trim).collect();
    complain(
        2,
        &format!("{} (--help shows what there is)", lines.join(" ").trim()),
    )
}

fn complain(code: u8, why: &str) -> ExitCode {
    let stderr = logging::stderr();
    stderr.put_vital(&format!("hoody-tunnel: {}\n", visible(why)));
    stderr.flush();
    ExitCode::from(code)
}
