//! Random bits from the operating system, for the machines, which are pure.

use std::io;

/// Returns 128 random bits that can't be guessed.
pub(crate) fn random_bits() -> io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}
