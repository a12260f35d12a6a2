//! The daemon in the container.

pub mod budget;
pub mod config;
pub mod public_url;
