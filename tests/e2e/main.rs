//! The two programs from outside, beside real servers and real clients.
//!
//! Each room is one part of the promise: `expose` and `pull` carry traffic, `bad_input`, `bad_bind`
//! and `visitors` answer nonsense as the protocol says, `sessions` outlive their sockets, `lanes`
//! are several sockets of one and `paths` what they are good for, `laptop` shares what it has, `one_process` shares it with a kit,
//! `restart` tells a kit to go, `holding` has visitors wait, `init` is who starts it, `limits` hold, `admin` steers, `proxy`
//! stands behind nginx, `network` pulls cables in namespaces of its own, `cli` is what people type,
//! `odd_flags` are nonsense, `targets` are local servers of other kinds than a port,
//! `expose_tcp` is raw TCP at a public port, `forward` has the kit connect, `udp` carries datagrams,
//! `door` is the kit's own under floods, `readers` of our output stop, `soak` counts what is left after many.
//! Nothing here reaches into the crate: what is not visible on a socket, in `/proc` or in a
//! program's output is not tested here.
//!
//! `HOODY_LONG=1` runs the long forms (minutes of outage, 100,000 visitors, 10,000 resumes).
//! Whatever a test needs and does not find makes it fail with the reason; nothing is skipped.

#[path = "../shared/mod.rs"]
mod shared;
mod support;

mod admin;
mod bad_bind;
mod bad_input;
mod callers;
mod cli;
mod comes_back;
mod door;
mod expose;
mod expose_local;
mod expose_real;
mod expose_tcp;
mod forward;
mod forward_here;
mod holding;
mod init;
mod killed;
mod lanes;
mod laptop;
mod limits;
mod network;
mod odd_flags;
mod one_process;
mod paths;
mod proxy;
mod pull;
mod pull_halves;
mod readers;
mod replay;
mod restart;
mod sessions;
mod soak;
mod targets;
mod udp;
mod visitors;
mod ways;
