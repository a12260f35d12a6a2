//! hoody-tunnel.
