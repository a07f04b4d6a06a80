//! What an exec of protocol v1 lacks.

mod trailer;
mod wrap;

pub use trailer::TrailerFilter;
pub use wrap::{FAILED, Nonce, wrap};

#[cfg(test)]
mod tests;
