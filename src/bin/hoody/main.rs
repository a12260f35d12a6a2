//! The laptop's program.
fn main() {}
