//! The command line as types. What it means is decided elsewhere.

// argh prints these comments as help, where [brackets] hold a default and not a link.
#![allow(rustdoc::broken_intra_doc_links)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use hoody_tunnel::client::{Error, HostHeader, ProxyProtocol, Target};
use hoody_tunnel::http::OwnField;
use hoody_tunnel::units::{parse_duration, parse_size_32};

use crate::options::{Manner, Reach};
use crate::target::{Pair, parse, parse_port};

#[derive(FromArgs, ArgsInfo, Debug)]
/// Tunnels between this machine and a container.
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} tunnel serve .\n\
               {command_name} tunnel expose 3000 --container app.example.com"
)]
pub struct Hoody {
    /// print the version and end
    #[argh(switch, short = 'V')]
    pub version: bool,
    #[argh(subcommand)]
    pub command: Option<Top>,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Top {
    Tunnel(Tunnel),
}

#[derive(FromArgs, ArgsInfo, Debug)]
/// Make services of this machine reachable through a container, and steer the kit in it.
#[argh(
    subcommand,
    name = "tunnel",
    help_triggers("-h", "--help"),
    example = "{command_name} serve .\n\
               {command_name} expose 3000 --container app.example.com --token-file ~/.hoody-token\n\
               {command_name} pull 5432 --url ws://127.0.0.1:5050\n\
               {command_name} up --expose 3000 --expose 8080=9000 --pull 5432",
    note = "A kit is named by --url, by --container or by HOODY_TUNNEL_URL. Where none is\n  \
            named, the commands that open tunnels start one inside their own process,\n  \
            reachable from this machine only.",
    note = "The token comes from --token-file or HOODY_TUNNEL_TOKEN, never from the command\n  \
            line, which every user of the machine can read."
)]
pub struct Tunnel {
    #[argh(subcommand)]
    pub command: Option<Command>,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Command {
    Expose(Expose),
    Pull(Pull),
    Forward(Forward),
    Serve(Serve),
    Up(Up),
    Health(Health),
    Metrics(Metrics),
    List(List),
    Sessions(Sessions),
    Bindings(Bindings),
}

/// Declares a command with the flags that all have, and for `session` those of tunnels too.
macro_rules! command {
    ($(#[$about:meta])* session $name:ident { $($own:tt)* }) => {
        command! { $(#[$about])* $name {
            $($own)*
            /// connections to the kit to spread traffic over, 1 to 16 [1]
            #[argh(option, arg_name = "N")]
            connections: Option<u32>,
            /// after how much silence to look whether the kit is still there [2s]
            #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
            keepalive: Option<Duration>,
            /// for how long to try again when the kit is lost [for ever]
            #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
            retry_for: Option<Duration>,
            /// bytes of a connection kept until the kit has them, 0: none [4MiB]
            #[argh(option, arg_name = "SIZE", from_str_fn(parse_size_32))]
            replay_buffer: Option<u32>,
            /// bytes in the head of a local server's answer, 4KiB to 256KiB [256KiB]
            #[argh(option, arg_name = "SIZE", from_str_fn(parse_size_32))]
            max_head: Option<u32>,
            /// fields in it, 16 to 1000 [1000]
            #[argh(option, arg_name = "N")]
            max_fields: Option<usize>,
            /// keep nothing for a next start of the same tunnels, and do not come back to theirs
            #[argh(switch)]
            no_state: bool,
            /// print addresses and errors only
            #[argh(switch, short = 'q')]
            pub quiet: bool,
        }}
        impl $name {
            /// The flags that say how the session behaves.
            pub fn manner(&self) -> Manner {
                Manner {
                    connections: self.connections,
                    keepalive: self.keepalive,
                    retry_for: self.retry_for,
                    replay_buffer: self.replay_buffer,
                    max_head: self.max_head,
                    max_fields: self.max_fields,
                    no_state: self.no_state,
                }
            }
        }
    };
    ($(#[$about:meta])* $name:ident { $($own:tt)* }) => {
        #[derive(FromArgs, ArgsInfo, Debug)]
        $(#[$about])*
        pub struct $name {
            $($own)*
            /// the kit's URL, wss://HOST/api/v1/tunnel/connect (or HOODY_TUNNEL_URL); given again,
            /// another way to the same kit
            #[argh(option, arg_name = "URL")]
            url: Vec<String>,
            /// the kit's host, instead of --url
            #[argh(option, arg_name = "HOST")]
            container: Option<String>,
            /// file with the kit's token (or HOODY_TUNNEL_TOKEN)
            #[argh(option, arg_name = "FILE")]
            token_file: Option<PathBuf>,
            /// file with certificates (PEM) to trust besides the system's
            #[argh(option, arg_name = "FILE")]
            ca: Option<PathBuf>,
            /// print JSON
            #[argh(switch)]
            json: bool,
            /// print text or json [text]
            #[argh(option, short = 'o', arg_name = "FORMAT", default = "Output::Text")]
            output: Output,
        }
        impl $name {
            /// The flags that say which kit is meant.
            pub fn reach(&self) -> Reach {
                Reach {
                    urls: self.url.clone(),
                    container: self.container.clone(),
                    token_file: self.token_file.clone(),
                    ca: self.ca.clone(),
                }
            }
            /// Whether JSON is wanted.
            pub fn is_json(&self) -> bool {
                self.json || self.output == Output::Json
            }
        }
    };
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, argh::FromArgValue)]
pub enum Output {
    Text,
    Json,
}

command! {
    /// Make a local server reachable at a port of the container: one of HTTP, or with --tcp any.
    #[argh(subcommand, name = "expose", help_triggers("-h", "--help"),
        example = "{command_name} 3000\n{command_name} localhost:5173 --container-port 8080\n\
                   {command_name} http://localhost:8080/shop\n{command_name} unix:/run/app.sock\n\
                   {command_name} --tcp 22 --container-port 2222")]
    session Expose {
        /// the local server: 3000, localhost:3000, [::1]:3000, host:port, unix:/path,
        /// https://host:port, or http://host:port/path, whose path is put before what visitors ask
        #[argh(positional, arg_name = "TARGET", from_str_fn(parse))]
        pub target: Target,
        /// carry raw connections, whatever they speak: SSH, gRPC, TLS of the server's own
        #[argh(switch)]
        pub tcp: bool,
        /// port of the container; 0 has the kit pick one [the target's port if it is free]
        #[argh(option, arg_name = "N", from_str_fn(parse_port))]
        pub container_port: Option<u16>,
        /// name for people
        #[argh(option)]
        pub label: Option<String>,
        /// take the port over from another session that holds it
        #[argh(switch)]
        pub takeover: bool,
        /// host that the server sees: rewrite (the target's), keep (the visitor's) or a name
        /// [rewrite]
        #[argh(option, arg_name = "HOW", default = "HostHeader::Rewrite", from_str_fn(host_header))]
        pub host_header: HostHeader,
        /// field of every request to the server, 'NAME: VALUE', in the place of the visitor's
        #[argh(option, arg_name = "FIELD", from_str_fn(field))]
        pub header: Vec<(String, String)>,
        /// tell the server who is calling, by HAProxy's PROXY protocol, version 1 or 2; it must
        /// expect it
        #[argh(option, arg_name = "VERSION", from_str_fn(proxy_protocol))]
        pub proxy_protocol: Option<ProxyProtocol>,
        /// file with certificates (PEM) that an https target may have besides the system's
        #[argh(option, arg_name = "FILE")]
        pub upstream_ca: Option<PathBuf>,
        /// take any certificate of an https target, wherever it is [only on this machine]
        #[argh(switch)]
        pub upstream_insecure: bool,
        /// the local server takes datagrams, and the port is one of UDP; the kit must allow it
        #[argh(switch)]
        pub udp: bool,
    }
}

command! {
    /// Make a local TCP service reachable at a loopback port of the container.
    #[argh(subcommand, name = "pull", help_triggers("-h", "--help"),
        example = "{command_name} 5432\n{command_name} db.lan:5432 --container-port 15432")]
    session Pull {
        /// the local service: 5432, localhost:5432, [::1]:5432, host:port or unix:/path
        #[argh(positional, arg_name = "TARGET", from_str_fn(parse))]
        pub target: Target,
        /// port of the container; 0 has the kit pick one [the target's port if it is free]
        #[argh(option, arg_name = "N", from_str_fn(parse_port))]
        pub container_port: Option<u16>,
        /// loopback address to listen on in the container: 127.0.0.1, ::1 or localhost
        #[argh(option, arg_name = "HOST")]
        pub host: Option<String>,
        /// name for people
        #[argh(option)]
        pub label: Option<String>,
        /// tell the service who is calling, by HAProxy's PROXY protocol, version 1 or 2; it must
        /// expect it
        #[argh(option, arg_name = "VERSION", from_str_fn(proxy_protocol))]
        pub proxy_protocol: Option<ProxyProtocol>,
        /// the service takes datagrams, and the port is one of UDP
        #[argh(switch)]
        pub udp: bool,
    }
}

command! {
    /// Make a service of the container reachable at a port of this machine.
    #[argh(subcommand, name = "forward", help_triggers("-h", "--help"),
        example = "{command_name} 5432\n{command_name} db:5432 --local-port 15432\n\
                   ssh -o ProxyCommand='{command_name} --stdio %h:%p' container")]
    session Forward {
        /// the service as the container sees it: 5432, db:5432, [::1]:6379 or unix:/path
        #[argh(positional, arg_name = "TARGET", from_str_fn(parse))]
        pub target: Target,
        /// port of this machine; 0 has the system pick one [the target's, or the next free one]
        #[argh(option, arg_name = "N", from_str_fn(parse_port))]
        pub local_port: Option<u16>,
        /// address of this machine to listen on; beyond loopback with --allow-from [127.0.0.1]
        #[argh(option, arg_name = "ADDR")]
        pub local_host: Option<IpAddr>,
        /// connect standard input and output with it, once, and listen nowhere
        #[argh(switch)]
        pub stdio: bool,
        /// network that may call, such as 192.168.1.0/24; may be repeated [this machine]
        #[argh(option, arg_name = "CIDR")]
        pub allow_from: Vec<String>,
    }
}

command! {
    /// Serve a directory's files, without any server of yours.
    #[argh(subcommand, name = "serve", help_triggers("-h", "--help"),
        example = "{command_name} .\n{command_name} dist --container-port 8080",
        note = "Hidden files (.name), links that lead to them or out of the directory, and the\n  \
                files of --token-file, of --ca and of kept sessions are not served.")]
    session Serve {
        /// the directory
        #[argh(positional, arg_name = "DIR")]
        pub dir: PathBuf,
        /// port of the container; 0 has the kit pick one [0]
        #[argh(option, arg_name = "N", from_str_fn(parse_port))]
        pub container_port: Option<u16>,
        /// name for people
        #[argh(option)]
        pub label: Option<String>,
        /// take the port over from another session that holds it
        #[argh(switch)]
        pub takeover: bool,
    }
}

command! {
    /// Open several tunnels in one session.
    #[argh(subcommand, name = "up", help_triggers("-h", "--help"),
        example = "{command_name} --expose 3000 --expose 8080=9000 --pull 5432")]
    session Up {
        /// a local HTTP server, and the container's port for it; may be repeated
        #[argh(option, arg_name = "T[=PORT]")]
        pub expose: Vec<Pair>,
        /// a local TCP service, and the container's port for it at which the world reaches it;
        /// may be repeated
        #[argh(option, arg_name = "T[=PORT]")]
        pub expose_tcp: Vec<Pair>,
        /// a local TCP service, and the container's loopback port for it; may be repeated
        #[argh(option, arg_name = "T[=PORT]")]
        pub pull: Vec<Pair>,
        /// a service of the container, and this machine's port for it; may be repeated
        #[argh(option, arg_name = "T[=PORT]")]
        pub forward: Vec<Pair>,
        /// a local UDP service, and the container's port for the world; may be repeated
        #[argh(option, arg_name = "T[=PORT]")]
        pub expose_udp: Vec<Pair>,
        /// a local UDP service, and the container's loopback port for it; may be repeated
        #[argh(option, arg_name = "T[=PORT]")]
        pub pull_udp: Vec<Pair>,
        /// take ports over from other sessions that hold them
        #[argh(switch)]
        pub takeover: bool,
        /// host that servers see: rewrite (the target's), keep (the visitor's) or a name [rewrite]
        #[argh(option, arg_name = "HOW", default = "HostHeader::Rewrite", from_str_fn(host_header))]
        pub host_header: HostHeader,
        /// field of every request to what is exposed, 'NAME: VALUE', in the place of the visitor's
        #[argh(option, arg_name = "FIELD", from_str_fn(field))]
        pub header: Vec<(String, String)>,
        /// tell TCP services, by HAProxy's PROXY protocol, version 1 or 2, who is calling
        #[argh(option, arg_name = "VERSION", from_str_fn(proxy_protocol))]
        pub proxy_protocol: Option<ProxyProtocol>,
        /// file with certificates (PEM) that https targets may have besides the system's
        #[argh(option, arg_name = "FILE")]
        pub upstream_ca: Option<PathBuf>,
        /// take any certificate of https targets, wherever they are [only on this machine]
        #[argh(switch)]
        pub upstream_insecure: bool,
    }
}

command! {
    /// Ask whether the kit is well.
    #[argh(subcommand, name = "health", help_triggers("-h", "--help"))]
    Health {}
}

command! {
    /// Print the kit's metrics, as text for Prometheus.
    #[argh(subcommand, name = "metrics", help_triggers("-h", "--help"))]
    Metrics {}
}

command! {
    /// List the kit's tunnels.
    #[argh(subcommand, name = "list", help_triggers("-h", "--help"))]
    List {}
}

#[derive(FromArgs, ArgsInfo, Debug)]
/// List the kit's sessions, or end one.
#[argh(subcommand, name = "sessions", help_triggers("-h", "--help"))]
pub struct Sessions {
    #[argh(subcommand)]
    pub command: Option<SessionsCommand>,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum SessionsCommand {
    List(SessionsList),
    Kill(SessionsKill),
}

command! {
    /// List the kit's sessions.
    #[argh(subcommand, name = "list", help_triggers("-h", "--help"))]
    SessionsList {}
}

command! {
    /// End a session and free its ports.
    #[argh(subcommand, name = "kill", help_triggers("-h", "--help"),
        example = "{command_name} S-466ab70d\n{command_name} S-466ab70d --grace-ms 2000 --ban 10m")]
    SessionsKill {
        /// the session's id, or the start of it if no other one starts so
        #[argh(positional, arg_name = "ID")]
        pub id: String,
        /// milliseconds that its streams get to finish, 0 to 5000
        #[argh(option, arg_name = "N")]
        pub grace_ms: Option<u32>,
        /// keep the address that it came from away for so long, 1s to 24h
        #[argh(option, arg_name = "TIME", from_str_fn(parse_duration))]
        pub ban: Option<Duration>,
    }
}

#[derive(FromArgs, ArgsInfo, Debug)]
/// List the kit's bindings.
#[argh(subcommand, name = "bindings", help_triggers("-h", "--help"))]
pub struct Bindings {
    #[argh(subcommand)]
    pub command: Option<BindingsCommand>,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum BindingsCommand {
    List(BindingsList),
}

command! {
    /// List the kit's bindings.
    #[argh(subcommand, name = "list", help_triggers("-h", "--help"))]
    BindingsList {}
}

/// `Name: value`. A value may be a secret, and is not repeated.
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is 'NAME: VALUE'")?;
    let (name, value) = (name.trim(), value.trim());
    OwnField::new(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

fn proxy_protocol(text: &str) -> Result<ProxyProtocol, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn host_header(text: &str) -> Result<HostHeader, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    match text {
        "rewrite" => Ok(HostHeader::Rewrite),
        "keep" => Ok(HostHeader::Keep),
        _ if !text.is_empty() && text.bytes().all(is_plain) => Ok(HostHeader::Name(text.into())),
        _ => Err("write rewrite, keep, or a host's name".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Result<Command, String> {
        let args: Vec<&str> = line.split(' ').collect();
        let hoody = Hoody::from_args(&["hoody"], &args).map_err(|early| early.output)?;
        let Some(Top::Tunnel(tunnel)) = hoody.command else {
            return Err("no command of tunnel".into());
        };
        tunnel.command.ok_or_else(|| "no command".into())
    }

    #[test]
    fn every_flag_of_a_tunnel_is_understood() {
        let line = "tunnel expose 3000 --container-port 0 --label web --takeover --host-header keep \
                    --url ws://h/ --url ws://i/ --token-file t --ca c --connections 4 --keepalive 500ms \
                    --retry-for 2m --replay-buffer 8MiB --max-head 8KiB --max-fields 20 \
                    --no-state -o json -q";
        let Ok(Command::Expose(flags)) = command(line) else {
            panic!("expose is a command");
        };
        assert_eq!(flags.target.to_string(), "localhost:3000");
        assert_eq!(flags.container_port, Some(0));
        assert_eq!(flags.label.as_deref(), Some("web"));
        assert!(flags.takeover && flags.quiet && flags.is_json());
        assert_eq!(flags.host_header, HostHeader::Keep);
        let (reach, manner) = (flags.reach(), flags.manner());
        assert_eq!(reach.urls, ["ws://h/", "ws://i/"]);
        assert_eq!(reach.token_file, Some("t".into()));
        assert_eq!(reach.ca, Some("c".into()));
        assert!(manner.no_state);
        assert_eq!(manner.connections, Some(4));
        assert_eq!(manner.keepalive, Some(Duration::from_millis(500)));
        assert_eq!(manner.retry_for, Some(Duration::from_secs(120)));
        assert_eq!(manner.replay_buffer, Some(8 << 20));
        assert_eq!(
            (manner.max_head, manner.max_fields),
            (Some(8 << 10), Some(20))
        );
    }

    #[test]
    fn every_command_is_there() {
        for line in [
            "tunnel pull db:5432 --host ::1 --container-port 5432 --json",
            "tunnel pull 22 --proxy-protocol 2",
            "tunnel expose 3000 --proxy-protocol 1",
            "tunnel expose --tcp 22 --container-port 2222 --takeover --proxy-protocol 2",
            "tunnel up --expose-tcp 22=2222 --expose-tcp unix:/run/x.sock",
            "tunnel forward db:5432 --local-port 15432 --local-host ::1",
            "tunnel forward --stdio container:22",
            "tunnel forward unix:/run/x.sock --local-host 0.0.0.0 --allow-from 10.0.0.0/8",
            "tunnel up --forward 5432 --forward db:6379=16379",
            "tunnel expose --udp 53 --container-port 20053",
            "tunnel pull --udp 53 --host ::1",
            "tunnel up --expose-udp 53=20053 --pull-udp 123",
            "tunnel serve . --container-port 8080 --takeover --label x --quiet",
            "tunnel up --expose 3000 --expose 8080=9000 --pull [::1]:5432=5433",
            "tunnel health --url ws://h/ -o json",
            "tunnel metrics --container h",
            "tunnel list --json",
            "tunnel sessions list",
            "tunnel sessions kill S-1 --grace-ms 50 --ban 10m",
            "tunnel bindings list --token-file t",
        ] {
            assert!(command(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "tunnel expose",
            "tunnel expose 3000 4000",
            "tunnel expose 0",
            "tunnel expose 3000 --container-port 65536",
            "tunnel expose 3000 --host-header a/b",
            "tunnel expose 3000 --token secret",
            "tunnel expose 3000 --proxy-protocol 3",
            "tunnel pull 5432 --proxy-protocol v1",
            "tunnel serve . --proxy-protocol 1",
            "tunnel expose 3000 --json yes",
            "tunnel expose 3000 --replay-buffer much",
            "tunnel pull 5432 --takeover",
            "tunnel forward",
            "tunnel forward 5432 --local-host here",
            "tunnel up --expose 3000=x",
            "tunnel health -o yaml",
            "tunnel sessions kill",
        ] {
            assert!(command(line).is_err(), "{line}");
        }
    }
}
