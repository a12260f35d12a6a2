//! What a machine asks for while it takes something in: commands for its host, and deadlines.
//!
//! A machine has one of these and hands it to its parts together with what else they need, so that
//! none of them needs the machine.

use std::collections::VecDeque;
use std::fmt::Debug;

use crate::machine::{CloseHow, Command, ConnKey};
use crate::timers::Timers;

/// Commands in the order in which they were asked for, and deadlines with their reasons `R`. `N` is
/// what the program around the machine is told.
#[derive(Debug)]
pub struct Effects<N, R> {
    commands: VecDeque<Command<N>>,
    /// When the machine wants to be told again, and why.
    pub timers: Timers<R>,
}

impl<N, R: Copy + Ord> Effects<N, R> {
    /// Nothing is asked for.
    pub fn new() -> Effects<N, R> {
        Effects {
            commands: VecDeque::new(),
            timers: Timers::new(),
        }
    }

    /// Asks for something.
    pub fn ask(&mut self, command: Command<N>) {
        self.commands.push_back(command);
    }

    /// A connection has something to transmit, or room to read again.
    pub fn wake(&mut self, conn: ConnKey) {
        self.ask(Command::Wake { conn });
    }

    /// The same, once everybody else who is ready was served.
    pub fn wake_last(&mut self, conn: ConnKey) {
        self.ask(Command::WakeLast { conn });
    }

    /// Nothing but its end tells a connection's peer that all has come.
    pub fn reset_if_killed(&mut self, conn: ConnKey) {
        self.ask(Command::ResetIfKilled { conn });
    }

    /// It is to be looked whether a connection's peer takes anything.
    pub fn probe(&mut self, conn: ConnKey) {
        self.ask(Command::Probe { conn });
    }

    /// Nothing more is sent on a connection.
    pub fn finish(&mut self, conn: ConnKey) {
        self.ask(Command::Finish { conn });
    }

    /// A connection is closed, and its key dead.
    pub fn close(&mut self, conn: ConnKey, how: CloseHow) {
        self.ask(Command::Close { conn, how });
    }

    /// The program around the machine is told.
    pub fn notify(&mut self, notice: N) {
        self.ask(Command::Notify(notice));
    }

    /// Whether nothing is asked for.
    pub fn is_silent(&self) -> bool {
        self.commands.is_empty()
    }

    /// What was asked for first.
    pub fn next_command(&mut self) -> Option<Command<N>> {
        self.commands.pop_front()
    }
}

impl<N, R: Copy + Ord> Default for Effects<N, R> {
    fn default() -> Self {
        Effects::new()
    }
}
