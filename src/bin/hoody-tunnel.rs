//! The kit's program.
fn main() {}
