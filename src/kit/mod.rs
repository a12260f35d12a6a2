//! The daemon in the container.

mod bindings_seen;
pub mod budget;
pub mod config;
mod exposition;
pub mod front;
pub mod guard;
pub mod metrics;
pub mod public_url;
pub mod throttle;
