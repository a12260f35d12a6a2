//! The real host under toy machines, against the system's own sockets.

mod basics;
mod remote;
