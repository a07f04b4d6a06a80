//! The two halves of a byte stream over a link that may break. Both ends of an exec use both.
//!
//! | file | |
//! | --- | --- |
//! | `send.rs` | [`SendStreams`]: keeps bytes until the peer acknowledges them, and sends them within a window |
//! | `recv.rs` | [`RecvStreams`]: takes each byte once, and decides when an acknowledgement is due |
//!
//! A half holds `N` streams that share one window. The client of an exec sends one stream (stdin)
//! and receives two (stdout and stderr); its server does the reverse. Each stream has its own
//! offsets, which count bytes from its beginning:
//!
//! ```text
//! sender     acked  ≤  sent   ≤  end         receiver   acked  ≤  taken  ≤  received
//!              └ window ┘                                 └──── window ────┘
//! ```
//!
//! On a new link, the sender resumes at the offset up to which the receiver has the bytes.

mod recv;
mod send;
#[cfg(test)]
mod tests;

pub(crate) use recv::RecvStreams;
#[cfg(test)]
pub(crate) use send::MAX_PIECE;
pub(crate) use send::{Chunk, SendStreams};

/// The number of bytes between two positions, summed over all streams.
fn distance<const N: usize>(from: [u64; N], to: [u64; N]) -> u64 {
    let distances = from.into_iter().zip(to);
    distances.fold(0, |sum, (from, to)| {
        u64::saturating_add(sum, to.saturating_sub(from))
    })
}
