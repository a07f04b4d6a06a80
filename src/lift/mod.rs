//! The lift: protocol v2 on a service that speaks only v1.
//!
//! A v1 service runs one exec at a time. The client starts one exec there: a Python program
//! (`program/`) that reads v2's messages about execs from its stdin, one on each line, and writes
//! the answers to its stdout. [`Tunnel`] carries these lines through the messages of the v1 exec,
//! so that the layers above see a v2 link.
//!
//! | file | |
//! | --- | --- |
//! | `tunnel.rs`, `tunnel/` | the state machine of one link |
//! | `outgoing.rs` | the lines to the program: numbers, flow control |
//! | `incoming.rs` | the lines from the program: splitting, numbers |
//! | `program.rs` | the sources of the program |
//! | `program/` | the program, in Python |
//!
//! Pure, as the machines are: time is an argument.

mod incoming;
mod outgoing;
mod program;
mod tunnel;

pub(crate) use tunnel::{RequestedExecs, Tunnel, TunnelAction, TunnelConfig};
