//! `hoody`: the laptop's command line.
//!
//! Exit codes: 0 when it was asked to stop or has done what was asked, 1 when it failed, 2 when the
//! command line makes no sense.

mod admin;
mod binding;
mod embedded;
mod files;
mod flags;
mod interrupt;
mod options;
mod places;
mod render;
mod run;
mod state;
mod stdio;
mod suggest;
mod target;
#[cfg(test)]
mod testing;
mod text;
mod tunnel;
mod wish;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use argh::{EarlyExit, FromArgs};
use hoody_tunnel::client::{AdminRequest, Error};
use hoody_tunnel::limits::{LOG_LINE, MAX_BAN, UPSTREAMS};
use hoody_tunnel::reactor::{logging, process};
use hoody_tunnel::units::split_values;

use flags::{BindingsCommand, Command, Hoody, SessionsCommand, Top, Tunnel};
use options::Reach;
use run::Outcome;

/// The command line makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.into_string())
        .collect();
    let Ok(args) = args else {
        complain("the command line is not UTF-8");
        return ExitCode::from(USAGE);
    };
    for name in [options::URL, options::TOKEN] {
        if std::env::var_os(name).is_some_and(|value| value.to_str().is_none()) {
            // Not as if it were not set: somebody meant a kit, or a token.
            return usage(&format!("{name} is not UTF-8"));
        }
    }
    if environment("HOODY_TUNNEL_LOG").is_some_and(|level| !level.is_empty()) {
        logging::init(logging::Format::Text, None);
    }
    // Some systems start programs with few descriptors and allow many: as many as there may be
    // visitors, with room for their files.
    let _ = process::raise_descriptor_limit((UPSTREAMS * 2) as u64);
    let args = split_values(args);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let code = match Hoody::from_args(&["hoody"], &args) {
        Ok(hoody) => dispatch(hoody),
        Err(early) => end_early(&args, &early),
    };
    logging::flush();
    code
}

/// Help that was asked for, or a command line that is not understood.
fn end_early(args: &[&str], early: &EarlyExit) -> ExitCode {
    if early.status.is_ok() {
        return say(&early.output);
    }
    let mut text = early.output.trim_end().to_owned();
    let typed = text.strip_prefix("Unrecognized argument: ");
    if let Some(meant) = typed.and_then(|typed| suggest::closest::<Hoody>(args, typed)) {
        text.push_str(&format!("; did you mean `{meant}`?"));
    }
    // The parser lists what is missing on lines of its own.
    mutter(&format!("hoody: {}", text::visible_lines(&text)));
    let place = args.iter().take_while(|arg| is_command(arg));
    let place: Vec<&str> = place.copied().collect();
    let help = ["hoody", &place.join(" "), "--help"].join(" ");
    mutter(&format!("Run `{}` for help.", help.replace("  ", " ")));
    ExitCode::from(USAGE)
}

fn is_command(arg: &str) -> bool {
    const COMMANDS: [&str; 11] = [
        "tunnel", "expose", "pull", "serve", "up", "health", "metrics", "list", "sessions", "kill",
        "bindings",
    ];
    COMMANDS.contains(&arg)
}

fn dispatch(hoody: Hoody) -> ExitCode {
    if hoody.version {
        return say(concat!("hoody ", env!("CARGO_PKG_VERSION")));
    }
    let Some(Top::Tunnel(Tunnel { command })) = hoody.command else {
        return no_command(&[]);
    };
    let Some(command) = command else {
        return no_command(&["tunnel"]);
    };
    match command {
        Command::Expose(flags) => tunnel::expose(flags),
        Command::Pull(flags) => tunnel::pull(flags),
        Command::Forward(flags) => tunnel::forward(flags),
        Command::Serve(flags) => tunnel::serve(flags),
        Command::Up(flags) => tunnel::up(flags),
        Command::Health(flags) => ask(&flags.reach(), &AdminRequest::Health, flags.is_json()),
        Command::Metrics(flags) => ask(&flags.reach(), &AdminRequest::Metrics, flags.is_json()),
        Command::List(flags) => ask(&flags.reach(), &AdminRequest::Tunnels, flags.is_json()),
        Command::Sessions(flags) => match flags.command {
            Some(SessionsCommand::List(flags)) => {
                ask(&flags.reach(), &AdminRequest::Sessions, flags.is_json())
            }
            Some(SessionsCommand::Kill(flags)) => kill(&flags),
            None => no_command(&["tunnel", "sessions"]),
        },
        Command::Bindings(flags) => match flags.command {
            Some(BindingsCommand::List(flags)) => {
                ask(&flags.reach(), &AdminRequest::Bindings, flags.is_json())
            }
            None => no_command(&["tunnel", "bindings"]),
        },
    }
}

/// Shows what commands there are, where one is missing.
fn no_command(args: &[&str]) -> ExitCode {
    let args = [args, &["--help"]].concat();
    if let Err(early) = Hoody::from_args(&["hoody"], &args) {
        mutter(&early.output);
    }
    ExitCode::from(USAGE)
}

fn kill(flags: &flags::SessionsKill) -> ExitCode {
    if flags.grace_ms.is_some_and(|grace| grace > 5000) {
        return usage("--grace-ms must be 0 to 5000");
    }
    if let Some(span) = flags.ban
        && !(Duration::from_secs(1)..=MAX_BAN).contains(&span)
    {
        return usage("--ban must be 1s to 24h");
    }
    if flags.id.is_empty() {
        // Every id starts so: an unset variable must not end whoever is alone.
        return usage("the session's id is empty");
    }
    let request = AdminRequest::Kill {
        session_id: flags.id.clone(),
        grace_ms: flags.grace_ms,
        ban: flags.ban,
    };
    ask(&flags.reach(), &request, flags.is_json())
}

fn ask(reach: &Reach, request: &AdminRequest, json: bool) -> ExitCode {
    let urls = match reach.kit(&environment) {
        Ok(Some(urls)) => urls,
        Ok(None) => {
            return usage("no kit is named: give --url, --container or HOODY_TUNNEL_URL");
        }
        Err(why) => return usage(&why),
    };
    let options = reach.options(&urls, &environment);
    if let Err(why) = options.check() {
        return refused(&why);
    }
    match admin::run(&options, request, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

/// The exit code for how a tunnel ended.
fn ended(outcome: Result<Outcome, Error>) -> ExitCode {
    match outcome {
        Ok(Outcome::Stopped) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(why) => refused(&why),
    }
}

fn refused(why: &Error) -> ExitCode {
    complain(&why.to_string());
    match why {
        Error::Options(_) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

fn usage(why: &str) -> ExitCode {
    complain(why);
    ExitCode::from(USAGE)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// One sentence on stderr.
fn complain(why: &str) {
    let why = text::visible(&text::cut(why, LOG_LINE));
    let color = io::stderr().is_terminal() && render::is_color_wanted(&environment);
    let name = if color {
        "\x1b[31mhoody:\x1b[0m"
    } else {
        "hoody:"
    };
    mutter(&format!("{name} {why}"));
}

/// Words on stderr. A reader of it that stops does not stop us.
fn mutter(text: &str) {
    let stderr = logging::stderr();
    for line in text.trim_end().lines() {
        stderr.put_vital(&format!("{line}\n"));
    }
    stderr.flush();
}

/// What was asked for, on stdout.
fn say(text: &str) -> ExitCode {
    let text = format!("{}\n", text.trim_end());
    match print(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

/// Puts `bytes` on stdout. A reader that went away (`| head`) has seen enough.
fn print(bytes: &[u8]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| format!("cannot print: {error}")),
    }
}
